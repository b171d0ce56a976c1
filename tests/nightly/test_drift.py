"""Drift check: measures that are out of line, their thresholds and their messages."""

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


def _one(night: dict[str, Any], history: list[dict[str, Any]], **limits: Any) -> Verdict:
    """The verdict on the only measure that is watched."""
    off = {measure.setting: None for measure in MEASURES}
    (verdict,) = check_drift(night, history, NightlyConfig(**off | limits))
    return verdict


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wer": 0.08}, "WER 8.00 %, median of 5 nights 5.00 %, allowed up to 7.00 %: too high (nightly.max_wer_rise)"),
        ({"empty_fraction": 0.07}, "empty 7.00 %, median of 5 nights 1.00 %, allowed up to 6.00 %: too high"),
        ({"failed_fraction": 0.5}, "failed 50.00 %, median of 5 nights 0.00 %, allowed up to 2.00 %: too high"),
        ({"chars_per_s": 11.0}, "a second 11.00, median of 5 nights 14.00, allowed 11.90 to 16.10: too low"),
        ({"chars_per_s": 17.0}, "a second 17.00, median of 5 nights 14.00, allowed 11.90 to 16.10: too high"),
        ({"avg_logprob": -0.4}, "probability -0.40, median of 5 nights -0.25, allowed down to -0.35: too low"),
        ({"rtfx": 60.0}, "recognizer 60.00, median of 5 nights 100.00, allowed down to 70.00: too low"),
    ],
)
def test_a_line_tells_measure_tonight_median_threshold_and_direction(change: dict[str, float], words: str) -> None:
    verdicts = check_drift(USUAL | change, [USUAL] * 5, NightlyConfig())

    (passed,) = [verdict for verdict in verdicts if verdict.out_of_line]
    assert words in format_verdict(passed)
    assert len(verdicts) == len(MEASURES)


@pytest.mark.parametrize("better", [{"wer": 0.0}, {"empty_fraction": 0.0}, {"avg_logprob": -0.01}, {"rtfx": 1000.0}])
def test_a_better_night_is_in_line(better: dict[str, float]) -> None:
    verdicts = check_drift(USUAL | better, [USUAL] * 5, NightlyConfig())

    assert [verdict.out_of_line for verdict in verdicts] == [False] * len(MEASURES)
    assert all(format_verdict(verdict).endswith(": in line") for verdict in verdicts)


def test_one_odd_night_moves_nothing() -> None:
    history = [USUAL] * 6 + [USUAL | {"wer": 0.9}]

    assert _one(USUAL | {"wer": 0.08}, history, max_wer_rise=0.02).out_of_line


def test_a_measure_without_enough_nights_or_without_a_value_is_not_checked() -> None:
    history = [USUAL] * 2 + [USUAL | {"wer": None}] * 8
    few = _one(USUAL | {"wer": 0.9}, history, max_wer_rise=0.02)
    none = _one(USUAL | {"wer": None}, [USUAL] * 5, max_wer_rise=0.02)

    assert (few.out_of_line, none.out_of_line) == (None, None)
    assert format_verdict(few) == "WER 90.00 %, not checked: 2 earlier nightly runs have a value, nightly.min_nights=5"
    assert format_verdict(none) == "WER none, not checked: this run has no value"


def test_a_limit_of_null_is_not_watched() -> None:
    assert check_drift(USUAL, [USUAL] * 5, NightlyConfig(**{measure.setting: None for measure in MEASURES})) == []


@given(st.lists(FRACTIONS, min_size=5, max_size=14), FRACTIONS, st.floats(1e-6, 1))
def test_what_lies_on_the_threshold_has_not_passed_it(wers: list[float], rise: float, beyond: float) -> None:
    history = [USUAL | {"wer": wer} for wer in wers]
    highest = _one(USUAL, history, max_wer_rise=rise).highest
    assert highest is not None

    assert not _one(USUAL | {"wer": highest}, history, max_wer_rise=rise).out_of_line
    assert _one(USUAL | {"wer": highest + beyond}, history, max_wer_rise=rise).out_of_line


@given(st.permutations([0.02, 0.03, 0.05, 0.07, 0.11]))
def test_the_order_of_the_nights_does_not_matter(wers: list[float]) -> None:
    verdict = _one(USUAL, [USUAL | {"wer": wer} for wer in wers], max_wer_rise=0.02)

    assert replace(verdict, value=0) == Verdict("wer", 0, 0.05, 5, None, 0.07, False, None)
