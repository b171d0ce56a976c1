"""The whole configuration of a run, and the checks that involve several of its sections."""

from typing import Self

from pydantic import Field, model_validator

from distil_ray.config.base import Section
from distil_ray.config.data import InputConfig, OutputConfig, StorageConfig
from distil_ray.config.evaluation import NightlyConfig, ReportConfig, ScoringConfig
from distil_ray.config.recognition import ChunkingConfig, DecodingConfig, ModelConfig
from distil_ray.config.resources import PlanConfig, ResourcesConfig
from distil_ray.config.training import AssistantConfig, LabelsConfig


class Config(Section):
    """A whole run."""

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
        description="name of the run's folder; default: date and time",
    )
    retry_failed: bool = Field(
        False,
        description="do the failed recordings of the output again, those alone; what comes out replaces their rows",
    )
    max_failed_fraction: float = Field(
        0.05, ge=0, le=1, description="share of failed recordings above which the exit code is 3"
    )

    @model_validator(mode="after")
    def _int8_has_what_it_needs(self) -> Self:
        if self.model.dtype != "int8":
            return self
        if self.model.device == "cuda" or self.resources.gpus_per_actor > 0:
            raise ValueError(
                "model.dtype=int8 is for CPUs (resources.gpus_per_actor=0); take auto, bfloat16 or float16 on a GPU"
            )
        if self.model.attention not in ("auto", "sdpa"):
            raise ValueError(
                f"model.dtype=int8 does not go with model.attention={self.model.attention}; take auto or sdpa"
            )
        return self

    @model_validator(mode="after")
    def _something_drafts(self) -> Self:
        if self.decoding.speculative == "on" and self.model.assistant is None and self.assistant.uri is None:
            raise ValueError("decoding.speculative=on needs model.assistant, a checkpoint that drafts; or take auto")
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        model, decoding, resources = self.model, self.decoding, self.resources
        if model.device == "cpu" and resources.gpus_per_actor > 0:
            raise ValueError(
                f"model.device=cpu does not go with resources.gpus_per_actor={resources.gpus_per_actor};"
                " set model.device to auto, or the GPUs to 0"
            )
        if model.device == "cuda" and resources.gpus_per_actor == 0:
            raise ValueError("model.device=cuda needs resources.gpus_per_actor of at least 1")
        if model.dtype == "float16" and resources.gpus_per_actor == 0:
            raise ValueError(
                "model.dtype=float16 needs a GPU (resources.gpus_per_actor >= 1); take bfloat16 or float32 on a CPU"
            )
        if model.attention == "flash_attention_2" and resources.gpus_per_actor == 0:
            raise ValueError(
                "model.attention=flash_attention_2 needs a GPU (resources.gpus_per_actor >= 1); take sdpa on a CPU"
            )
        if model.name.endswith(".en"):
            if decoding.language not in ("auto", "en"):
                raise ValueError(
                    f"decoding.language={decoding.language} does not go with the English-only model.name={model.name}"
                )
            if decoding.task == "translate":
                raise ValueError(f"decoding.task=translate does not go with the English-only model.name={model.name}")
        if self.chunking.window == "gated" and model.attention not in ("auto", "sdpa"):
            raise ValueError(
                f"chunking.window=gated needs model.attention=sdpa (or auto); found {model.attention}. Take window=full"
            )
        return self
