"""Sections `scoring`, `report` and `nightly`: evaluation of a run."""

from typing import Literal, Self

from pydantic import Field, model_validator

from distil_ray.config.base import Section

NormalizerChoice = Literal["auto", "whisper_english", "whisper_basic", "unicode", "whisper_normalizer_english", "none"]


class ScoringConfig(Section):
    """Comparison of transcripts with references."""

    normalizer: NormalizerChoice = Field(
        "auto",
        description="auto: whisper_english for English, unicode for languages whose words whisper_basic breaks,"
        " whisper_basic for others (output.md#normalizers)",
    )
    group_by: tuple[str, ...] = Field(
        ("speaker",), description="columns (language, or keys of metadata) whose values get a WER of their own"
    )
    bootstrap_samples: int = Field(
        1000, ge=100, le=100_000, description="resamplings behind the 95 % interval of the WER"
    )
    seed: int = Field(0, ge=0, description="seed of that resampling")


class ReportConfig(Section):
    """Content of report.html."""

    write: bool = Field(True, description="write report.html into the run's folder when the run ends")
    num_worst: int = Field(
        60, ge=1, le=1000, description="recordings shown word by word: those with the most errors and the highest rates"
    )
    audio_mb: float = Field(
        2.0,
        ge=0,
        le=50,
        description="MB of audio clips embedded in the page, for doubtful places; 0: none, no audio is fetched",
    )
    audio_timeout_s: float = Field(60.0, gt=0, description="seconds after which no more audio is fetched for the page")


class NightlyConfig(Section):
    """Drift detection of jobs/nightly.py: a night against the median of earlier ones. A limit of null is off."""

    history_nights: int = Field(
        14, ge=1, le=366, description="number of earlier nights whose median a night is compared with"
    )
    min_nights: int = Field(5, ge=1, description="earlier nights needed before drift is reported")
    min_recordings: int = Field(20, ge=1, description="nights with fewer recordings are excluded from the comparison")
    max_wer_rise: float | None = Field(0.02, ge=0, description="WER above the median, as a fraction (0.02: two points)")
    max_empty_rise: float | None = Field(
        0.05, ge=0, description="share of recordings without words, above the median, as a fraction"
    )
    max_failed_rise: float | None = Field(
        0.02, ge=0, description="share of failed recordings above the median, as a fraction"
    )
    max_speaking_rate_change: float | None = Field(
        0.15, ge=0, description="characters a second of audio, up or down, as a share of the median"
    )
    max_logprob_drop: float | None = Field(0.1, ge=0, description="mean log-probability a token below the median")
    max_rtfx_drop: float | None = Field(
        0.3, ge=0, le=1, description="RTFx of one recognizer below the median, as a share of the median"
    )
    keep_nights: int | None = Field(
        60, ge=1, description="nights whose run folders are kept, transcripts are never removed; null: all"
    )
    webhook_url: str | None = Field(
        None,
        exclude=True,  # it may hold a secret: not in the run folder's config.yaml, in no repr
        repr=False,
        description="URL to which the summary of each night is posted as JSON; default: DISTIL_RAY_WEBHOOK_URL",
    )
    webhook_timeout_s: float = Field(10.0, gt=0, le=60, description="seconds to wait for the webhook's answer")
    webhook_attempts: int = Field(
        3, ge=1, le=10, description="attempts to reach the webhook; its failure does not fail the run"
    )

    @model_validator(mode="after")
    def _enough_history(self) -> Self:
        if self.min_nights > self.history_nights:
            raise ValueError(
                f"nightly.min_nights={self.min_nights} can never be reached with"
                f" nightly.history_nights={self.history_nights}"
            )
        if self.keep_nights is not None and self.keep_nights <= self.history_nights:
            raise ValueError(
                f"nightly.keep_nights={self.keep_nights} must be more than nightly.history_nights="
                f"{self.history_nights}: the figures of earlier nights lie in their run folders"
            )
        return self
