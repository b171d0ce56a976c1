"""Drift: the figures of a night beside the median of the nights before it.

Pure: figures in, verdicts and sentences out; where they lie is nights.py's. A median, because one odd night must not
move what the next are held to. Nights that were out of line stay in it all the same: a change that lasts is told for
about half of `nightly.history_nights` and then becomes what is usual. A decline slower than that is not seen here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal

from distil_ray.config import NightlyConfig

Figures = Mapping[str, Any]

_ROUNDING = 1e-9  # figures travel through JSON: a value that lies on the threshold has not passed it


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of a night that is watched: its key, its name for people, and the setting that limits its change."""

    figure: str
    label: str
    setting: str
    worse: Literal["higher", "lower", "either"]
    of_median: bool  # the limit is a share of the median; else it is in the figure's own unit
    per_cent: bool  # how it is shown


MEASURES = (
    Measure("wer", "WER", "max_wer_rise", "higher", of_median=False, per_cent=True),
    Measure("empty_fraction", "empty", "max_empty_rise", "higher", of_median=False, per_cent=True),
    Measure("failed_fraction", "failed", "max_failed_rise", "higher", of_median=False, per_cent=True),
    Measure("chars_per_s", "characters a second", "max_speaking_rate_change", "either", of_median=True, per_cent=False),
    Measure("avg_logprob", "mean log-probability", "max_logprob_drop", "lower", of_median=False, per_cent=False),
    Measure("rtfx", "RTFx of one recognizer", "max_rtfx_drop", "lower", of_median=True, per_cent=False),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one measure.

    `lowest` and `highest` are the thresholds, None where that side is not watched. `out_of_line` is None where nothing
    could be judged: then `reason` says why.
    """

    figure: str
    value: float | None
    median: float | None
    num_nights: int
    lowest: float | None
    highest: float | None
    out_of_line: bool | None
    reason: str | None


def check_drift(night: Figures, history: Sequence[Figures], config: NightlyConfig) -> list[Verdict]:
    """A verdict for every measure that has a limit. `history` are the figures of the nights to compare with."""
    return [
        _check_measure(measure, limit, night, history, config)
        for measure in MEASURES
        if (limit := getattr(config, measure.setting)) is not None
    ]


def format_verdict(verdict: Verdict) -> str:
    """One line: measure, tonight, median, thresholds, and which of them was passed."""
    measure = next(one for one in MEASURES if one.figure == verdict.figure)
    words = f"{measure.label} {_format_value(verdict.value, measure)}"
    if verdict.out_of_line is None:
        return f"{words}, not judged: {verdict.reason}"
    median = _format_value(verdict.median, measure)
    words += f", median of {verdict.num_nights} nights {median}, {_format_bounds(verdict, measure)}"
    if not verdict.out_of_line:
        return f"{words}: in line"
    return f"{words}: {'too low' if _is_below(verdict) else 'too high'} (nightly.{measure.setting})"


def _check_measure(
    measure: Measure, limit: float, night: Figures, history: Sequence[Figures], config: NightlyConfig
) -> Verdict:
    value = night[measure.figure]
    earlier = [figures[measure.figure] for figures in history if figures[measure.figure] is not None]
    reason = None
    if value is None:
        reason = "nothing to count it from"
    elif len(earlier) < config.min_nights:
        reason = f"{len(earlier)} of the {config.min_nights} nights that it takes (nightly.min_nights)"
    if reason is not None:
        return Verdict(measure.figure, value, None, len(earlier), None, None, None, reason)
    middle = median(earlier)
    room = limit * middle if measure.of_median else limit
    lowest = None if measure.worse == "higher" else middle - room
    highest = None if measure.worse == "lower" else middle + room
    verdict = Verdict(measure.figure, value, middle, len(earlier), lowest, highest, False, None)
    above = highest is not None and value > highest + _ROUNDING
    return replace(verdict, out_of_line=above or _is_below(verdict))


def _is_below(verdict: Verdict) -> bool:
    return verdict.lowest is not None and verdict.value is not None and verdict.value < verdict.lowest - _ROUNDING


def _format_bounds(verdict: Verdict, measure: Measure) -> str:
    if verdict.lowest is None:
        return f"allowed up to {_format_value(verdict.highest, measure)}"
    if verdict.highest is None:
        return f"allowed down to {_format_value(verdict.lowest, measure)}"
    return f"allowed {_format_value(verdict.lowest, measure)} to {_format_value(verdict.highest, measure)}"


def _format_value(value: float | None, measure: Measure) -> str:
    if value is None:
        return "none"
    return f"{100 * value:.2f} %" if measure.per_cent else f"{value:,.2f}"
