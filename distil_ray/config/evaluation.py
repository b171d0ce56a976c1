"""Sections `scoring`, `report` and `nightly`: evaluation of a run."""

import difflib
from typing import Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator, model_validator

from distil_ray.config.base import Section

NormalizerChoice = Literal[
    "auto", "whisper_english", "whisper_basic", "simplified_chinese", "unicode", "whisper_normalizer_english", "none"
]


class ScoringConfig(Section):
    """Comparison of transcripts with references."""

    normalizer: NormalizerChoice = Field(
        "auto",
        description="Text normalizer for word error rates. auto: whisper_english for English, simplified_chinese for"
        " Chinese, unicode for languages whose words whisper_basic splits, whisper_basic for all others"
        " (output.md#normalizers).",
    )
    group_by: tuple[str, ...] = Field(
        ("speaker",),
        description="Columns (language, or keys of the metadata); the WER is also computed for each of their values.",
    )
    bootstrap_samples: int = Field(
        1000, ge=100, le=100_000, description="Number of bootstrap samples for the 95 % confidence interval of the WER."
    )
    seed: int = Field(0, ge=0, description="Random seed of the bootstrap.")


class ReportConfig(Section):
    """Content of report.html."""

    write: bool = Field(True, description="Write report.html to the run's folder when the run ends.")
    num_worst: int = Field(
        60,
        ge=1,
        le=1000,
        description="Number of recordings that are shown word by word: those with the most errors and the highest WER.",
    )
    audio_mb: float = Field(
        2.0,
        ge=0,
        le=50,
        description="Size limit of the audio clips embedded in the page, in MB. 0: no clips, and no audio is fetched.",
    )
    audio_timeout_s: float = Field(60.0, gt=0, description="Time limit for fetching audio for the page, in seconds.")


class NightlyConfig(Section):
    """Dates and drift detection of distil-ray nightly.

    The figures of a run are compared with the median of earlier nightly runs; null disables a limit.
    """

    timezone: str = Field(
        "UTC",
        description="Time zone (IANA name, such as Europe/Berlin) that decides which date is today. Set it to that of"
        " the scheduler, so that a run after midnight there gets the new date.",
    )
    history_runs: int = Field(
        14, ge=1, le=366, description="Number of earlier nightly runs whose median is the baseline."
    )
    min_history_runs: int = Field(
        5, ge=1, description="Minimum number of earlier nightly runs. With fewer, no drift is reported."
    )
    min_recordings: int = Field(
        20,
        ge=1,
        description="Minimum number of recordings of a nightly run. Smaller runs are not compared and not in the"
        " baseline.",
    )
    max_wer_rise: float | None = Field(
        0.02, ge=0, description="Allowed rise of the WER above the median, as a fraction."
    )
    max_empty_rise: float | None = Field(
        0.05, ge=0, description="Allowed rise of the share of recordings without words above the median, as a fraction."
    )
    max_failed_rise: float | None = Field(
        0.02, ge=0, description="Allowed rise of the share of failed recordings above the median, as a fraction."
    )
    max_speaking_rate_change: float | None = Field(
        0.15,
        ge=0,
        description="Allowed change of the characters per second of audio, up or down, as a fraction of the median.",
    )
    max_logprob_drop: float | None = Field(
        0.1, ge=0, description="Allowed drop of the mean log-probability per token below the median."
    )
    max_rtfx_drop: float | None = Field(
        0.3,
        ge=0,
        le=1,
        description="Allowed drop of the RTFx of one recognizer below the median, as a fraction of the median.",
    )
    keep_runs: int | None = Field(
        60,
        ge=1,
        description="Number of nightly runs whose run folders are kept. Transcripts are never removed. null: all.",
    )
    webhook_url: str | None = Field(
        None,
        exclude=True,  # it may hold a secret: not in the run folder's config.yaml, in no repr
        repr=False,
        description="URL to which the summary of each nightly run is posted as JSON. null: DISTIL_RAY_WEBHOOK_URL.",
    )
    webhook_timeout_s: float = Field(10.0, gt=0, le=60, description="Seconds to wait for the response of the webhook.")
    webhook_attempts: int = Field(
        3,
        ge=1,
        le=10,
        description="Maximum number of attempts to call the webhook. If all fail, the run still succeeds.",
    )

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (LookupError, ValueError, OSError):  # OSError: a folder of the database, such as Europe
            nearest = _nearest_timezones(name)
            hint = f" (similar: {', '.join(nearest)})" if nearest else ""
            raise ValueError(f"must be an IANA time zone such as UTC or Europe/Berlin{hint}") from None
        return name

    @model_validator(mode="after")
    def _enough_history(self) -> Self:
        if self.min_history_runs > self.history_runs:
            raise ValueError(
                f"nightly.min_history_runs={self.min_history_runs} can never be reached with"
                f" nightly.history_runs={self.history_runs}"
            )
        if self.keep_runs is not None and self.keep_runs <= self.history_runs:
            raise ValueError(
                f"nightly.keep_runs={self.keep_runs} must be more than nightly.history_runs="
                f"{self.history_runs}: the figures of earlier nightly runs are in their run folders"
            )
        return self


def _nearest_timezones(name: str) -> list[str]:
    """Returns at most three IANA names that are similar to `name` as a whole or in their last part."""
    # Etc/GMT+1 is one hour west of Greenwich, the opposite of what GMT+1 usually means.
    names = sorted(one for one in available_timezones() if not one.startswith("Etc/"))
    whole = {one.lower(): one for one in names}
    cities = {one.rpartition("/")[2].lower(): one for one in names}
    wanted = name.strip().lower().replace(" ", "_")
    if wanted in whole:
        return [whole[wanted]]
    found = [whole[key] for key in difflib.get_close_matches(wanted, whole, 3, 0.7)]
    found += [cities[key] for key in difflib.get_close_matches(wanted.rpartition("/")[2], cities, 3, 0.8)]
    return list(dict.fromkeys(found))[:3]
