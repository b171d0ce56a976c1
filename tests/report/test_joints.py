"""Where chunks meet: what stands twice and what is lost is found, and nothing is made up."""

from hypothesis import given
from hypothesis import strategies as st

from distil_ray.report.joints import DOUBLED, look_at_joints, lost_words
from distil_ray.report.picture import Top
from distil_ray.scoring import align
from tests.report.generated import VOCABULARY, chunk

WORDS = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=8)


def found(*texts: str, language: str = "en") -> list[str]:
    chunks = [chunk(10.0 * number, 10.0 * (number + 1), text) for number, text in enumerate(texts)]
    return [finding.words for finding in look_at_joints(chunks, "quiet", language) if finding.kind == DOUBLED]


@given(WORDS, st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=5), WORDS)
def test_words_on_both_sides_of_a_joint_are_found_whatever_stands_around_them(
    before: list[str], twice: list[str], after: list[str]
) -> None:
    (words,) = found(" ".join([*before, *twice]), " ".join([*twice, *after]))

    assert len(words.split()) >= 1
    assert " ".join([*before, *twice]).endswith(words)
    assert " ".join([*twice, *after]).startswith(words)


@given(WORDS, WORDS)
def test_nothing_is_found_where_no_word_ends_one_side_and_begins_the_other(left: list[str], right: list[str]) -> None:
    is_clean = all(left[-length:] != right[:length] for length in range(1, 7))

    assert is_clean == (not found(" ".join(left), " ".join(right)))


def test_case_and_punctuation_hide_no_doubled_word_and_empty_chunks_are_no_joint() -> None:
    assert found("And then, the End.", "the end of it", "", "of it") == ["the End."]


def test_a_language_without_blanks_needs_more_than_one_sign() -> None:
    assert found("今日はいい天気", "気がする", language="ja") == []
    assert found("今日はいい天気", "いい天気がする", language="ja") == ["いい天気"]


@given(st.lists(WORDS, min_size=2, max_size=5), st.data())
def test_words_that_are_missing_between_two_chunks_are_told_at_that_joint(
    said: list[list[str]], data: st.DataObject
) -> None:
    joint = data.draw(st.integers(0, len(said) - 2))
    lost = ["xylo", "phone"]  # no word of the vocabulary
    reference = [word for index, chunk in enumerate(said) for word in (*chunk, *(lost if index == joint else ()))]
    heard = [word for chunk in said for word in chunk]
    aligned = align(" ".join(reference), " ".join(heard), len(reference))

    assert list(lost_words(aligned, [len(chunk) for chunk in said])) == [(joint, ("xylo", "phone"))]


def test_a_word_that_is_missing_inside_a_chunk_is_no_matter_of_joints() -> None:
    assert list(lost_words(align("so be it then", "so it then", 4), [2, 1])) == []


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 8))
def test_the_top_are_the_highest_and_of_equals_the_first(scores: list[int], limit: int) -> None:
    top = Top(limit)
    for place, score in enumerate(scores):
        top.add(score, (score, place))

    highest = sorted(((score, place) for place, score in enumerate(scores)), key=lambda pair: (-pair[0], pair[1]))
    assert top.items() == highest[:limit]
