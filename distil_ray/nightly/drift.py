"""Drift check: compares the figures of a nightly run with the median of earlier nightly runs.

Pure functions of figures; `run_records.py` reads and computes them. The comparison is with the median because a single
unusual run must not move the limits of the following ones. Runs with drift still count in the median: a lasting change
is reported for about half of `nightly.history_runs` runs and is then the new normal. A slower decline is not detected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal

from distil_ray.config import NightlyConfig

Figures = Mapping[str, Any]

_ROUNDING = 1e-9  # tolerance for values that went through JSON: a value on the limit is within it


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure that is checked for drift.

    Attributes:
        figure: Key of the figure.
        label: Name of the figure in messages and on pages.
        setting: Setting of section `nightly` that limits the change.
        worse: Direction of change that counts as drift.
        of_median: True if the limit is a fraction of the median; False if it is in the unit of the figure.
        percent: True if the figure is a fraction that is displayed in percent.
    """

    figure: str
    label: str
    setting: str
    worse: Literal["higher", "lower", "either"]
    of_median: bool
    percent: bool


MEASURES = (
    Measure("wer", "WER", "max_wer_rise", "higher", of_median=False, percent=True),
    Measure("empty_fraction", "empty", "max_empty_rise", "higher", of_median=False, percent=True),
    Measure("failed_fraction", "failed", "max_failed_rise", "higher", of_median=False, percent=True),
    Measure("chars_per_s", "characters a second", "max_speaking_rate_change", "either", of_median=True, percent=False),
    Measure("avg_logprob", "mean log-probability", "max_logprob_drop", "lower", of_median=False, percent=False),
    Measure("rtfx", "RTFx of one recognizer", "max_rtfx_drop", "lower", of_median=True, percent=False),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of the drift check of one measure.

    Attributes:
        figure: Key of the figure.
        value: Value of this nightly run; None if it has none.
        median: Median of the earlier values; None if there are too few.
        num_runs: Number of earlier values.
        lower_limit: Lowest allowed value; None if there is no limit.
        upper_limit: Highest allowed value; None if there is no limit.
        has_drifted: True if the value is outside the limits; None if the measure could not be checked.
        reason: Reason why the measure could not be checked; None otherwise.
    """

    figure: str
    value: float | None
    median: float | None
    num_runs: int
    lower_limit: float | None
    upper_limit: float | None
    has_drifted: bool | None
    reason: str | None


def check_drift(current: Figures, history: Sequence[Figures], config: NightlyConfig) -> list[Verdict]:
    """Returns a verdict for every measure that has a limit.

    Args:
        current: Figures of this nightly run.
        history: Figures of the earlier nightly runs to compare with.
        config: Section `nightly`; a limit of None switches its measure off.
    """
    return [
        _check_measure(measure, limit, current, history, config)
        for measure in MEASURES
        if (limit := getattr(config, measure.setting)) is not None
    ]


def format_verdict(verdict: Verdict) -> str:
    """Returns one line: measure, value, median, limits, and the setting of a limit that is exceeded."""
    measure = next(one for one in MEASURES if one.figure == verdict.figure)
    words = f"{measure.label} {_format_value(verdict.value, measure)}"
    if verdict.has_drifted is None:
        return f"{words}, not checked: {verdict.reason}"
    words += f", median of {verdict.num_runs} nightly runs {_format_value(verdict.median, measure)}"
    words += f", {_format_bounds(verdict, measure)}"
    if not verdict.has_drifted:
        return f"{words}: within limits"
    return f"{words}: {'too low' if _is_below(verdict) else 'too high'} (nightly.{measure.setting})"


def _check_measure(
    measure: Measure, limit: float, current: Figures, history: Sequence[Figures], config: NightlyConfig
) -> Verdict:
    value = current[measure.figure]
    earlier = [figures[measure.figure] for figures in history if figures[measure.figure] is not None]
    reason = None
    if value is None:
        reason = "this run has no value"
    elif len(earlier) < config.min_history_runs:
        reason = f"{len(earlier)} earlier nightly runs have a value, nightly.min_history_runs={config.min_history_runs}"
    if reason is not None:
        return Verdict(measure.figure, value, None, len(earlier), None, None, None, reason)
    middle = median(earlier)
    tolerance = limit * middle if measure.of_median else limit
    lower_limit = None if measure.worse == "higher" else middle - tolerance
    upper_limit = None if measure.worse == "lower" else middle + tolerance
    verdict = Verdict(measure.figure, value, middle, len(earlier), lower_limit, upper_limit, False, None)
    above = upper_limit is not None and value > upper_limit + _ROUNDING
    return replace(verdict, has_drifted=above or _is_below(verdict))


def _is_below(verdict: Verdict) -> bool:
    return (
        verdict.lower_limit is not None
        and verdict.value is not None
        and verdict.value < verdict.lower_limit - _ROUNDING
    )


def _format_bounds(verdict: Verdict, measure: Measure) -> str:
    if verdict.lower_limit is None:
        return f"allowed up to {_format_value(verdict.upper_limit, measure)}"
    if verdict.upper_limit is None:
        return f"allowed down to {_format_value(verdict.lower_limit, measure)}"
    return f"allowed {_format_value(verdict.lower_limit, measure)} to {_format_value(verdict.upper_limit, measure)}"


def _format_value(value: float | None, measure: Measure) -> str:
    if value is None:
        return "none"
    return f"{100 * value:.2f} %" if measure.percent else f"{value:,.2f}"
