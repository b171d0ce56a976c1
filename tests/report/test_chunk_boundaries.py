"""Where chunks meet: what stands twice and what is lost is found, and nothing is made up."""

from collections import Counter
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.config import Config
from distil_ray.evaluation.wer import Scorer, align
from distil_ray.report.chunk_boundaries import DOUBLED, find_boundary_problems, iter_lost_words
from distil_ray.report.details import build_alignment_pieces, find_lost_words
from distil_ray.report.statistics import Top
from distil_ray.types import EDITS
from tests.report.generated import VOCABULARY, chunk, transcript
from tests.support.transcripts import Row

WORDS = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=8)


def found(*texts: str, language: str = "en") -> list[str]:
    chunks = [chunk(10.0 * number, 10.0 * (number + 1), text) for number, text in enumerate(texts)]
    return [finding.words for finding in find_boundary_problems(chunks, False, language) if finding.kind == DOUBLED]


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
    aligned = align(" ".join(reference), " ".join(heard), spaceless=False)

    assert list(iter_lost_words(aligned, [len(chunk) for chunk in said])) == [(joint, ("xylo", "phone"))]


def test_a_word_that_is_missing_inside_a_chunk_is_no_matter_of_joints() -> None:
    assert list(iter_lost_words(align("so be it then", "so it then", spaceless=False), [2, 1])) == []


def scored(reference: str, *texts: str, language: str = "zh") -> Row:
    """The row of a recording of some chunks, with the scorer's own counts."""
    heard = "".join(texts)
    score = Scorer(Config().scoring).score(heard, reference, language)
    return transcript("r", None, heard, chunks=[chunk(0, 10, text) for text in texts]) | asdict(score)


@pytest.mark.parametrize(
    ("reference", "texts", "lost"),
    [
        ("今天天气很好然后我们去公园玩", ("今天天气很好。", "我们去公园玩。"), [(0, "然后")]),
        ("今非常天天气很好我们去公园玩", ("今天天气很好。", "我们去公园玩。"), []),
        ("今天 天气 很好 我们", ("今天天气。", "我们。"), [(0, "很好")]),
    ],
)
def test_without_blanks_what_is_missing_at_a_joint_is_told_by_characters(
    reference: str, texts: tuple[str, ...], lost: list[tuple[int, str]]
) -> None:
    row = scored(reference, *texts)

    assert [(finding.index, finding.words) for _, finding in find_lost_words({(0, 0): row})] == lost


@pytest.mark.parametrize(
    ("reference", "heard", "language"),
    [("你 好 世 界", "你好世界。", "zh"), ("好", "好的。", "zh"), ("a b c", "ab c", "en"), ("i", "ich", "en")],
)
def test_words_are_aligned_as_they_were_counted_whatever_a_reference_looks_like(
    reference: str, heard: str, language: str
) -> None:
    row = scored(reference, heard, language=language)
    sums = Counter[str]()
    for piece in build_alignment_pieces(row)[0]:
        words, by_words = piece.reference or piece.heard, language == "en"
        sums[piece.kind] += len(words.split()) if by_words else len(words)

    assert [sums[kind] for kind in ("substitute", "delete", "insert")] == [row[name] for name in EDITS]


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 8))
def test_the_top_are_the_highest_and_of_equals_the_first(scores: list[int], limit: int) -> None:
    top = Top(limit)
    for place, score in enumerate(scores):
        top.add(score, (score, place))

    highest = sorted(((score, place) for place, score in enumerate(scores)), key=lambda pair: (-pair[0], pair[1]))
    assert top.items() == highest[:limit]
