"""`Config`, all settings of a run, and the checks that involve several sections."""

from typing import Self

from pydantic import Field, model_validator

from distil_ray.config.base import Section
from distil_ray.config.data import InputConfig, OutputConfig, StorageConfig
from distil_ray.config.evaluation import NightlyConfig, ReportConfig, ScoringConfig
from distil_ray.config.recognition import ChunkingConfig, DecodingConfig, ModelConfig
from distil_ray.config.resources import PlanConfig, ResourcesConfig
from distil_ray.config.training import AssistantConfig, LabelsConfig


class Config(Section):
    """All settings of a run."""

    input: InputConfig = InputConfig()
    output: OutputConfig = OutputConfig()
    model: ModelConfig = ModelConfig()
    decoding: DecodingConfig = DecodingConfig()
    chunking: ChunkingConfig = ChunkingConfig()
    plan: PlanConfig = PlanConfig()
    scoring: ScoringConfig = ScoringConfig()
    resources: ResourcesConfig = ResourcesConfig()
    storage: StorageConfig = StorageConfig()
    report: ReportConfig = ReportConfig()
    nightly: NightlyConfig = NightlyConfig()
    assistant: AssistantConfig = AssistantConfig()
    labels: LabelsConfig = LabelsConfig()
    run_id: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Name of the run and of its folder. null: date and time.",
    )
    retry_failed: bool = Field(
        False,
        description="Process only the failed recordings of the output again; the new rows replace the failed ones.",
    )
    max_failed_fraction: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Maximum share of failed recordings. The exit code is 3 if more failed than max_failed_fraction and"
        " max_failed_count allow; the output is complete anyway.",
    )
    max_failed_count: int = Field(
        1,
        ge=0,
        description="Number of failed recordings that is accepted whatever their share, unless all failed: in a small"
        " input, one damaged file is more than max_failed_fraction.",
    )

    @property
    def has_assistant(self) -> bool:
        """Returns True if an assistant is set, also where none has been trained yet."""
        return self.model.assistant is not None or self.assistant.uri is not None

    def too_many_failed(self, num_failed: int, num_total: int) -> str | None:
        """Returns the limit that is exceeded, for messages; None if the failures are accepted.

        Both `max_failed_fraction` and `max_failed_count` must be exceeded, or everything must have failed while
        `max_failed_fraction` is below 1.
        """
        if not num_failed or num_failed <= self.max_failed_fraction * num_total:
            return None
        if num_failed == num_total:
            return f"all {num_total:,}"
        if num_failed <= self.max_failed_count:
            return None
        limits = f"max_failed_fraction={self.max_failed_fraction:g} and max_failed_count={self.max_failed_count}"
        return f"more than {limits} allow"

    @model_validator(mode="after")
    def _check_int8(self) -> Self:
        if self.model.dtype != "int8":
            return self
        if self.model.device == "cuda" or self.resources.gpus_per_actor > 0:
            raise ValueError(
                "model.dtype=int8 is supported on CPUs only (resources.gpus_per_actor=0). Set it to auto, bfloat16 or"
                " float16 on a GPU"
            )
        if self.model.attention not in ("auto", "sdpa"):
            raise ValueError(
                f"model.dtype=int8 does not support model.attention={self.model.attention}. Set it to auto or sdpa"
            )
        return self

    @model_validator(mode="after")
    def _check_gpu_methods(self) -> Self:
        model = self.model
        for setting, is_set in (
            ("model.dtype=float8", model.dtype == "float8"),
            ("model.compile_encoder=true", model.compile_encoder),
            ("model.encode_ahead=true", model.encode_ahead),
        ):
            if is_set and self.resources.gpus_per_actor == 0:
                raise ValueError(f"{setting} is for GPUs (resources.gpus_per_actor >= 1). Leave it out on a CPU")
        if (model.dtype == "float8" or model.compile_encoder) and model.attention not in ("auto", "sdpa"):
            setting = "model.dtype=float8" if model.dtype == "float8" else "model.compile_encoder=true"
            raise ValueError(f"{setting} does not support model.attention={model.attention}. Set it to auto or sdpa")
        return self

    @model_validator(mode="after")
    def _check_assistant(self) -> Self:
        if self.decoding.speculative == "on" and self.model.assistant is None and self.assistant.uri is None:
            raise ValueError(
                "decoding.speculative=on needs a draft model: set model.assistant or assistant.uri, or set it to auto"
            )
        return self

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        model, decoding, resources = self.model, self.decoding, self.resources
        if model.device == "cpu" and resources.gpus_per_actor > 0:
            raise ValueError(
                f"model.device=cpu conflicts with resources.gpus_per_actor={resources.gpus_per_actor}. Set model.device"
                " to auto, or resources.gpus_per_actor to 0"
            )
        if model.device == "cuda" and resources.gpus_per_actor == 0:
            raise ValueError("model.device=cuda needs resources.gpus_per_actor >= 1")
        if model.dtype == "float16" and resources.gpus_per_actor == 0:
            raise ValueError(
                "model.dtype=float16 needs a GPU (resources.gpus_per_actor >= 1). Set it to bfloat16 or float32 on a"
                " CPU"
            )
        if model.attention == "flash_attention_2" and resources.gpus_per_actor == 0:
            raise ValueError(
                "model.attention=flash_attention_2 needs a GPU (resources.gpus_per_actor >= 1). Set it to sdpa on a CPU"
            )
        if model.name.endswith(".en"):
            if decoding.language not in ("auto", "en"):
                raise ValueError(
                    f"decoding.language={decoding.language}: model.name={model.name} supports English only. Set the"
                    " language to en, or use a multilingual model"
                )
            if decoding.task == "translate":
                raise ValueError(
                    f"decoding.task=translate: model.name={model.name} supports English only. Use a multilingual model"
                )
        if self.chunking.window == "gated" and model.attention not in ("auto", "sdpa"):
            raise ValueError(
                f"chunking.window=gated needs model.attention=sdpa or auto; found {model.attention}. Set"
                " chunking.window to full"
            )
        return self
