"""Sections `plan` and `resources`: sizes of tasks, and the resources of each stage."""

from typing import Literal

from pydantic import Field, field_validator

from distil_ray.config.base import Section, at_least_one


class PlanConfig(Section):
    """Sizes of the tasks in which the work is planned, retried and committed."""

    task_audio_s: float = Field(
        1200.0, gt=0, description="seconds of audio in a task (planned, retried, committed, resumed as one)"
    )
    part_audio_s: float = Field(
        600.0, ge=30, le=7200, description="seconds of audio at most that reach an actor at once (32 kB a second)"
    )
    task_recordings: int = Field(2000, ge=1, description="recordings in a task at most")
    rtfx: float | None = Field(
        None,
        gt=0,
        description="expected audio seconds a second of the whole job: --plan then prints the expected hours",
    )


class ResourcesConfig(Section):
    """Cluster resources and time limits of each stage."""

    ray_address: str = Field(
        "auto",
        description="auto: the cluster named by RAY_ADDRESS (as under ray job submit), else a local Ray; or an address",
    )
    actors: Literal["auto"] | int = Field(
        "auto", description="recognizer actors; auto: as many as the cluster's GPUs (or CPUs) allow"
    )
    gpus_per_actor: int = Field(0, ge=0, description="GPUs of a recognizer actor (0: CPU)")
    cpus_per_actor: float = Field(
        1.0, gt=0, description="CPUs of a recognizer actor; also its number of threads on a CPU"
    )
    decode_cpus: float = Field(0.5, gt=0, le=8, description="CPUs of a decode task")
    commit_cpus: float = Field(0.25, gt=0, le=8, description="CPUs of a write task")
    actor_memory_mb: int | None = Field(
        None, ge=256, description="memory of a recognizer actor that Ray plans with, MiB"
    )
    decoder_memory_mb: int = Field(2048, ge=256, description="address space limit of a decoder subprocess, MiB")
    decoder_timeout_s: float = Field(
        60.0, gt=0, description="seconds without output after which a decoder subprocess is killed"
    )
    recognizer_timeout_s: float = Field(
        600.0,
        gt=0,
        description="seconds for recognizing a part, warm-up included, after which the recognizer actor is killed",
    )
    recognizer_timeout_factor: Literal["auto"] | float = Field(
        "auto",
        description="seconds added to recognizer_timeout_s for each second of audio; auto: 2 on GPUs, 20 on CPUs",
    )
    max_attempts: int = Field(
        2,
        ge=1,
        le=10,
        description="recognizer crashes caused by a part before its recordings are retried one by one, then crashes "
        "caused by a recording before it fails as worker_crash",
    )
    stall_timeout_s: float = Field(
        1800.0,
        gt=0,
        description="seconds without progress, beyond the time limits of parts in recognition, after which the run is "
        "stopped with a diagnosis",
    )
    autoscaling: bool = Field(
        False, description="the cluster may add nodes: wait for one that can hold an actor instead of refusing the run"
    )
    object_store_mb: int | None = Field(
        None, ge=80, description="object store of a local Ray, MiB; default: Ray's own choice"
    )

    @field_validator("actors")
    @classmethod
    def _positive(cls, value: str | int) -> str | int:
        return at_least_one(value)

    @field_validator("recognizer_timeout_factor")
    @classmethod
    def _not_negative(cls, value: str | float) -> str | float:
        if isinstance(value, float) and value < 0:
            raise ValueError("must be at least 0, or auto")
        return value

    def recognizer_limit_s(self, audio_s: float) -> float:
        """Seconds that a recognizer may take for `audio_s` seconds of audio."""
        factor = self.recognizer_timeout_factor
        if isinstance(factor, str):
            factor = 2.0 if self.gpus_per_actor else 20.0
        return self.recognizer_timeout_s + factor * audio_s
