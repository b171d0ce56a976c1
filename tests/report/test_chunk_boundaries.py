"""Problems at chunk boundaries: doubled words, and words of the reference that are missing."""

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


def doubled_words(*texts: str, language: str = "en") -> list[str]:
    chunks = [chunk(10.0 * number, 10.0 * (number + 1), text) for number, text in enumerate(texts)]
    return [
        finding.words
        for finding in find_boundary_problems(chunks, False, [language] * len(chunks))
        if finding.kind == DOUBLED
    ]


def test_no_words_are_doubled_between_two_languages() -> None:
    chunks = [chunk(0.0, 10.0, "in Berlin"), chunk(10.0, 20.0, "Berlin ist")]
    assert len(list(find_boundary_problems(chunks, False, ["en", "en"]))) == 1
    assert not list(find_boundary_problems(chunks, False, ["en", "de"]))


@given(WORDS, st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=5), WORDS)
def test_doubled_words_at_a_boundary_are_found_in_any_context(
    before: list[str], twice: list[str], after: list[str]
) -> None:
    (words,) = doubled_words(" ".join([*before, *twice]), " ".join([*twice, *after]))

    assert len(words.split()) >= 1
    assert " ".join([*before, *twice]).endswith(words)
    assert " ".join([*twice, *after]).startswith(words)


@given(WORDS, WORDS)
def test_boundaries_without_doubled_words_have_no_problem(left: list[str], right: list[str]) -> None:
    is_clean = all(left[-length:] != right[:length] for length in range(1, 7))

    assert is_clean == (not doubled_words(" ".join(left), " ".join(right)))


def test_doubled_words_are_found_despite_case_and_punctuation_and_empty_chunks_are_skipped() -> None:
    assert doubled_words("And then, the End.", "the end of it", "", "of it") == ["the End."]


def test_unsegmented_languages_need_at_least_three_doubled_characters() -> None:
    assert doubled_words("今日はいい天気", "気がする", language="ja") == []
    assert doubled_words("今日はいい天気", "いい天気がする", language="ja") == ["いい天気"]


@given(st.lists(WORDS, min_size=2, max_size=5), st.data())
def test_words_missing_between_two_chunks_are_reported_at_that_boundary(
    chunks: list[list[str]], data: st.DataObject
) -> None:
    boundary = data.draw(st.integers(0, len(chunks) - 2))
    lost = ["xylo", "phone"]  # no word of the vocabulary
    reference = [word for index, chunk in enumerate(chunks) for word in (*chunk, *(lost if index == boundary else ()))]
    hypothesis = [word for chunk in chunks for word in chunk]
    aligned = align(" ".join(reference), " ".join(hypothesis), spaceless=False)

    assert list(iter_lost_words(aligned, [len(chunk) for chunk in chunks])) == [(boundary, ("xylo", "phone"))]


def test_a_word_missing_inside_a_chunk_is_not_a_boundary_problem() -> None:
    assert list(iter_lost_words(align("so be it then", "so it then", spaceless=False), [2, 1])) == []


def scored(reference: str, *texts: str, language: str = "zh") -> Row:
    """The row of a recording of some chunks, with the scorer's own counts."""
    hypothesis = "".join(texts)
    score = Scorer(Config().scoring).score(hypothesis, reference, language)
    return transcript("r", None, hypothesis, chunks=[chunk(0, 10, text) for text in texts]) | asdict(score)


@pytest.mark.parametrize(
    ("reference", "texts", "lost"),
    [
        ("今天天气很好然后我们去公园玩", ("今天天气很好。", "我们去公园玩。"), [(0, "然后")]),
        ("今非常天天气很好我们去公园玩", ("今天天气很好。", "我们去公园玩。"), []),
        ("今天 天气 很好 我们", ("今天天气。", "我们。"), [(0, "很好")]),
    ],
)
def test_unsegmented_languages_report_missing_characters(
    reference: str, texts: tuple[str, ...], lost: list[tuple[int, str]]
) -> None:
    row = scored(reference, *texts)

    assert [(finding.index, finding.words) for _, finding in find_lost_words({(0, 0): row})] == lost


@pytest.mark.parametrize(
    ("reference", "hypothesis", "language"),
    [("你 好 世 界", "你好世界。", "zh"), ("好", "好的。", "zh"), ("a b c", "ab c", "en"), ("i", "ich", "en")],
)
def test_the_displayed_alignment_has_the_edit_counts_of_the_row(reference: str, hypothesis: str, language: str) -> None:
    row = scored(reference, hypothesis, language=language)
    sums = Counter[str]()
    for piece in build_alignment_pieces(row)[0]:
        words, by_words = piece.reference or piece.hypothesis, language == "en"
        sums[piece.kind] += len(words.split()) if by_words else len(words)

    assert [sums[kind] for kind in ("substitute", "delete", "insert")] == [row[name] for name in EDITS]


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 8))
def test_top_keeps_the_highest_scores_and_the_first_of_equal_ones(scores: list[int], limit: int) -> None:
    top = Top(limit)
    for place, score in enumerate(scores):
        top.add(score, (score, place))

    highest = sorted(((score, place) for place, score in enumerate(scores)), key=lambda pair: (-pair[0], pair[1]))
    assert top.items() == highest[:limit]
