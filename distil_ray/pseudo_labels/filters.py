"""The filters of labels: each a column, a direction and a threshold, and what a threshold would cost.

A value that is not there (no reference, no assistant, no second pass) passes. What no setting can let pass (`ALWAYS`)
is no label in any case.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distil_ray.config import LabelFiltersConfig

Values = NDArray[np.float64]  # of one column, NaN where there is none
Mask = NDArray[np.bool_]

# Reasons that are no filter's.
ALWAYS = {
    "status": "its recording failed, is damaged, or has no words",
    "no_text": "nothing was said in it",
    "too_long": "30 s or more, which the trainer drops",
    "too_many_tokens": "more tokens than the decoder has room for beside a prompt",
    "broken_text": "its tokens are no whole characters",
    "audio": "its audio could not be read again; the next build tries it once more",
}
FLAGS = "quality_flags"


@dataclass(frozen=True, slots=True)
class Filter:
    """`setting` below labels.filters; `strict`: a value at the threshold is out already. `sweep`: thresholds that
    --sweep tries beside the configured one."""

    setting: str
    column: str
    sweep: tuple[float, ...]
    strict: bool = False

    @property
    def is_minimum(self) -> bool:
        return self.setting.startswith("min_")

    def rejects(self, values: Values, threshold: float) -> Mask:
        """Which values are out; never those that are not there."""
        if self.is_minimum:
            return values < threshold
        return values >= threshold if self.strict else values > threshold


FILTERS = (
    Filter("max_wer", "wer", (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0), strict=True),
    Filter("max_edge_cer", "edge_cer", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)),
    Filter("max_disagreement", "disagreement", (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)),
    Filter("min_avg_logprob", "avg_logprob", (-1.0, -0.8, -0.6, -0.5, -0.4, -0.3, -0.25, -0.2, -0.15, -0.1)),
    Filter("max_compression_ratio", "compression_ratio", (1.4, 1.6, 1.8, 2.0, 2.2, 2.4)),
    Filter("max_repeated_5grams", "repeated_5grams", (0, 1, 2, 5, 10)),
    Filter("max_chars_per_s", "chars_per_s", (12, 14, 16, 18, 20, 22, 25, 30)),
    Filter("min_chars_per_s", "chars_per_s", (1, 2, 4, 6, 8, 10)),
    Filter("max_no_speech_prob", "no_speech_prob", (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)),
    Filter("max_unheard_s", "unheard_s", (0, 0.2, 0.5, 1, 2, 5, 10)),
    Filter("min_acceptance_rate", "acceptance_rate", (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)),
)


def thresholds(config: LabelFiltersConfig) -> Iterator[tuple[Filter, float]]:
    """The filters that are switched on."""
    for one in FILTERS:
        if (threshold := getattr(config, one.setting)) is not None:
            yield one, float(threshold)


def reasons_against(metrics: Mapping[str, Any], config: LabelFiltersConfig) -> list[str]:
    """The settings of the filters that an utterance with these metrics does not pass."""
    reasons = [
        one.setting
        for one, threshold in thresholds(config)
        if metrics[one.column] is not None and one.rejects(np.array([metrics[one.column]], np.float64), threshold)[0]
    ]
    return [*reasons, FLAGS] if set(metrics["quality_flags"] or ()) & set(config.quality_flags) else reasons
