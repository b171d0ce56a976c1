"""Sections `plan` and `resources`: sizes of tasks, and the resources of each stage."""

from typing import Literal

from pydantic import Field, field_validator

from distil_ray.config.base import Section, at_least_one

MIN_ACTOR_MEMORY_MB = 256


class PlanConfig(Section):
    """Sizes of the tasks in which the work is planned, retried and committed."""

    task_audio_s: float = Field(
        1200.0,
        gt=0,
        description="Seconds of audio in a task, the unit of planning, retrying, writing and resuming. The last 2 % of"
        " a large run are planned in smaller tasks.",
    )
    part_audio_s: float = Field(
        600.0,
        ge=30,
        le=7200,
        description="Maximum seconds of audio in a part, which is sent to an actor at once (32 kB per second). With"
        " chunking.strategy=sequential a part has up to 16 sections, and up to 7200 s, even if that is more.",
    )
    task_recordings: int = Field(2000, ge=1, description="Maximum number of recordings in a task.")
    rtfx: float | None = Field(
        None,
        gt=0,
        description="Expected RTFx of the whole job, from which --plan computes the expected time. null: the median of"
        " earlier runs of the same model in the output.",
    )
    price_per_hour: float | None = Field(
        None,
        gt=0,
        description="Price of all machines of the run for an hour, in any currency. With it --plan prints the expected"
        " cost.",
    )


class ResourcesConfig(Section):
    """Cluster resources and time limits of each stage."""

    ray_address: str = Field(
        "auto",
        description="Address of the Ray cluster. auto: the cluster in RAY_ADDRESS (set by ray job submit), otherwise a"
        " local Ray. local: always a local Ray.",
    )
    actors: Literal["auto"] | int = Field(
        "auto", description="Number of recognizer actors. auto: as many as the GPUs (or CPUs) of the cluster allow."
    )
    executors: Literal["auto"] | int = Field(
        "auto",
        description="Processes on the node of the driver that schedule the tasks, each with a share of the tasks and"
        " of the recognizers. auto: one for each 100 recognizers. With one it is the driver itself.",
    )
    gpus_per_actor: int = Field(0, ge=0, description="GPUs per recognizer actor. 0: run on the CPU.")
    cpus_per_actor: Literal["auto"] | float = Field(
        1.0,
        description="CPUs per recognizer actor; also its number of threads when it runs on the CPU. auto: the CPUs that"
        " decode_cpus and commit_cpus leave on the largest node, divided into actors of about 4 (GPU: 2).",
    )
    decode_cpus: float = Field(0.5, gt=0, le=8, description="CPUs per decode task.")
    commit_cpus: float = Field(0.25, gt=0, le=8, description="CPUs per write task.")
    actor_memory_mb: Literal["auto"] | int | None = Field(
        None,
        description="Memory that Ray reserves for a recognizer actor, in MiB; as many actors as it allows are started."
        " auto: estimated from the checkpoint and the settings for the native recognizer on CPUs, otherwise none. null:"
        " none.",
    )
    decoder_memory_mb: int = Field(2048, ge=256, description="Address space limit of a decoder subprocess, in MiB.")
    decoder_timeout_s: float = Field(
        60.0, gt=0, description="Seconds without output after which a decoder subprocess is killed."
    )
    recognizer_timeout_s: float = Field(
        600.0,
        gt=0,
        description="Time limit for recognizing a part, in seconds, including warm-up. Then the actor is killed.",
    )
    recognizer_timeout_factor: Literal["auto"] | float = Field(
        "auto",
        description="Seconds added to recognizer_timeout_s per second of audio. auto: 2 on GPUs, 20 on CPUs.",
    )
    recognizer_max_slowdown: float = Field(
        20.0,
        ge=0,
        description="Once an actor has recognized speech, a part may take at most that many times as long, per second"
        " of audio, as its slowest part so far, but at least 60 s and a tenth of the limit above. 0: only that limit.",
    )
    max_attempts: int = Field(
        2,
        ge=1,
        le=10,
        description="Number of recognizer crashes caused by a part before its recordings are retried one by one; then"
        " the number of crashes caused by a recording before it fails with worker_crash.",
    )
    stall_timeout_s: float = Field(
        1800.0,
        gt=0,
        description="Seconds without progress after which the run stops with a diagnosis. While parts are in"
        " recognition, their time limit is added.",
    )
    autoscaling: bool = Field(
        False,
        description="The cluster may add nodes: wait for a node that has room for an actor instead of failing at the"
        " start.",
    )
    object_store_mb: int | None = Field(
        None, ge=80, description="Size of the object store of a local Ray, in MiB. null: chosen by Ray."
    )

    @field_validator("actors", "executors")
    @classmethod
    def _positive(cls, value: str | int) -> str | int:
        return at_least_one(value)

    @field_validator("actor_memory_mb")
    @classmethod
    def _enough_memory(cls, value: str | int | None) -> str | int | None:
        if isinstance(value, int) and value < MIN_ACTOR_MEMORY_MB:
            raise ValueError(f"must be at least {MIN_ACTOR_MEMORY_MB}, auto or null")
        return value

    @field_validator("cpus_per_actor")
    @classmethod
    def _some_cpu(cls, value: str | float) -> str | float:
        if isinstance(value, float) and value <= 0:
            raise ValueError("must be more than 0, or auto")
        return value

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
