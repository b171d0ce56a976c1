"""Packing keeps the order, does not mix speakers, respects the limits and loses nothing."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from distil_ray.pseudo_labels.packing import pack_utterances

UTTERANCE = st.tuples(st.integers(1, 500_000), st.integers(1, 300), st.sampled_from("abc"))


@given(st.lists(UTTERANCE, max_size=60))
def test_every_utterance_is_in_one_example_within_the_limits(
    utterances: list[tuple[int, int, str]],
) -> None:
    samples, tokens, groups = ([row[column] for row in utterances] for column in range(3))
    starts = pack_utterances(samples, tokens, groups, 479_680, 441).tolist()  # type: ignore[arg-type]

    examples = [utterances[a:b] for a, b in pairwise(starts)]
    assert [one for example in examples for one in example] == utterances
    for example in examples:
        assert len({group for _, _, group in example}) == 1
        assert len(example) == 1 or sum(length for length, _, _ in example) <= 479_680
        assert len(example) == 1 or sum(count for _, count, _ in example) <= 441


@given(st.lists(st.integers(1, 479_680), min_size=2, max_size=60))
def test_an_example_takes_all_utterances_that_fit(lengths: list[int]) -> None:
    starts = pack_utterances(lengths, [1] * len(lengths), ["a"] * len(lengths), 479_680, 10_000).tolist()

    for (begin, end), (after, _) in pairwise(pairwise(starts)):
        assert sum(lengths[begin:end]) + lengths[after] > 479_680
