"""Drift check: measures outside their limits, the limits, and the messages."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.config import NightlyConfig
from distil_ray.nightly.drift import MEASURES, Verdict, check_drift, format_verdict

USUAL = {
    "wer": 0.05,
    "empty_fraction": 0.01,
    "failed_fraction": 0.0,
    "chars_per_s": 14.0,
    "avg_logprob": -0.25,
    "rtfx": 100.0,
}
FRACTIONS = st.floats(0, 1)


def _one(current: dict[str, Any], history: list[dict[str, Any]], **limits: Any) -> Verdict:
    """Returns the verdict on the only measure that has a limit."""
    off = {measure.setting: None for measure in MEASURES}
    (verdict,) = check_drift(current, history, NightlyConfig(**off | limits))
    return verdict


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"wer": 0.08},
            "WER 8.00 %, median of 5 nightly runs 5.00 %, allowed up to 7.00 %: too high (nightly.max_wer_rise)",
        ),
        ({"empty_fraction": 0.07}, "empty 7.00 %, median of 5 nightly runs 1.00 %, allowed up to 6.00 %: too high"),
        ({"failed_fraction": 0.5}, "failed 50.00 %, median of 5 nightly runs 0.00 %, allowed up to 2.00 %: too high"),
        ({"chars_per_s": 11.0}, "a second 11.00, median of 5 nightly runs 14.00, allowed 11.90 to 16.10: too low"),
        ({"chars_per_s": 17.0}, "a second 17.00, median of 5 nightly runs 14.00, allowed 11.90 to 16.10: too high"),
        ({"avg_logprob": -0.4}, "probability -0.40, median of 5 nightly runs -0.25, allowed down to -0.35: too low"),
        ({"rtfx": 60.0}, "recognizer 60.00, median of 5 nightly runs 100.00, allowed down to 70.00: too low"),
    ],
)
def test_the_message_has_measure_value_median_limits_and_direction(change: dict[str, float], words: str) -> None:
    verdicts = check_drift(USUAL | change, [USUAL] * 5, NightlyConfig())

    (passed,) = [verdict for verdict in verdicts if verdict.has_drifted]
    assert words in format_verdict(passed)
    assert len(verdicts) == len(MEASURES)


@pytest.mark.parametrize("better", [{"wer": 0.0}, {"empty_fraction": 0.0}, {"avg_logprob": -0.01}, {"rtfx": 1000.0}])
def test_better_figures_are_within_the_limits(better: dict[str, float]) -> None:
    verdicts = check_drift(USUAL | better, [USUAL] * 5, NightlyConfig())

    assert [verdict.has_drifted for verdict in verdicts] == [False] * len(MEASURES)
    assert all(format_verdict(verdict).endswith(": within limits") for verdict in verdicts)


def test_one_unusual_run_does_not_move_the_limits() -> None:
    history = [USUAL] * 6 + [USUAL | {"wer": 0.9}]

    assert _one(USUAL | {"wer": 0.08}, history, max_wer_rise=0.02).has_drifted


def test_a_measure_without_enough_earlier_values_or_without_a_value_is_not_checked() -> None:
    history = [USUAL] * 2 + [USUAL | {"wer": None}] * 8
    few = _one(USUAL | {"wer": 0.9}, history, max_wer_rise=0.02)
    none = _one(USUAL | {"wer": None}, [USUAL] * 5, max_wer_rise=0.02)

    assert (few.has_drifted, none.has_drifted) == (None, None)
    assert (
        format_verdict(few)
        == "WER 90.00 %, not checked: 2 earlier nightly runs have a value, nightly.min_history_runs=5"
    )
    assert format_verdict(none) == "WER none, not checked: this run has no value"


def test_a_limit_of_null_disables_its_measure() -> None:
    assert check_drift(USUAL, [USUAL] * 5, NightlyConfig(**{measure.setting: None for measure in MEASURES})) == []


@given(st.lists(FRACTIONS, min_size=5, max_size=14), FRACTIONS, st.floats(1e-6, 1))
def test_a_value_on_the_limit_is_within_it(wers: list[float], rise: float, beyond: float) -> None:
    history = [USUAL | {"wer": wer} for wer in wers]
    upper_limit = _one(USUAL, history, max_wer_rise=rise).upper_limit
    assert upper_limit is not None

    assert not _one(USUAL | {"wer": upper_limit}, history, max_wer_rise=rise).has_drifted
    assert _one(USUAL | {"wer": upper_limit + beyond}, history, max_wer_rise=rise).has_drifted


@given(st.permutations([0.02, 0.03, 0.05, 0.07, 0.11]))
def test_the_order_of_earlier_runs_does_not_matter(wers: list[float]) -> None:
    verdict = _one(USUAL, [USUAL | {"wer": wer} for wer in wers], max_wer_rise=0.02)

    assert replace(verdict, value=0) == Verdict("wer", 0, 0.05, 5, None, 0.07, False, None)
