"""The text with the fewest expected errors, beside its definition in words."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.recognition.native.minimum_bayes_risk import least_risk

TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=5)


def edits(left: list[int], right: list[int]) -> int:
    """Returns the edit distance by its recursive definition."""
    if not left or not right:
        return len(left) + len(right)
    changed = edits(left[1:], right[1:]) + (left[0] != right[0])
    return min(changed, edits(left[1:], right) + 1, edits(left, right[1:]) + 1)


@given(TEXTS, st.lists(st.floats(-50, 0), min_size=5, max_size=5))
def test_no_other_text_has_fewer_expected_edits(texts: list[list[int]], logprobs: list[float]) -> None:
    logprobs = logprobs[: len(texts)]
    total = sum(map(math.exp, logprobs))
    risks = [
        sum(math.exp(other) / total * edits(text, true) for true, other in zip(texts, logprobs, strict=True))
        for text in texts
    ]
    chosen = least_risk(texts, logprobs)
    assert risks[chosen] == pytest.approx(min(risks), abs=1e-8)
    assert all(risk > risks[chosen] - 1e-8 for risk in risks)


@given(TEXTS, st.floats(-5_000, 5_000))
def test_only_the_ratios_of_the_probabilities_count(texts: list[list[int]], shift: float) -> None:
    logprobs = [float(-number) for number in range(len(texts))]
    assert least_risk(texts, logprobs) == least_risk(texts, [each + shift for each in logprobs])


def test_the_first_of_equal_texts_is_taken() -> None:
    assert least_risk([[1, 2], [1, 2], [1, 2]], [-2.0, -1.0, -3.0]) == 0


def test_a_word_that_most_texts_have_wins_against_the_likeliest_text() -> None:
    texts = [[7, 2, 3], [1, 2, 3], [1, 2, 4], [1, 5, 3]]
    assert least_risk(texts, [math.log(p) for p in (0.3, 0.28, 0.22, 0.2)]) == 1
    for order in itertools.permutations(range(4)):
        found = least_risk([texts[i] for i in order], [math.log((0.3, 0.28, 0.22, 0.2)[i]) for i in order])
        assert order[found] == 1
