"""Tokens are grouped into words as in transformers, and the intervals of words are adjusted to pauses."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import _combine_tokens_into_words

from distil_ray.whisper.tokenizer import Tokens
from distil_ray.whisper.word_boundaries import MIN_WORD_SAMPLES, Interval, fit_to_pauses, separate_words, split_words

# Parts of letters, blanks alone, quotes and brackets among ordinary words.
ODD_IDS = [220, 290, 188, 447, 13, 11, 1, 6, 357, 366, 8, 464, 995, 29636, 46695, 1543]


@pytest.fixture(scope="module")
def tokens(whisper_base: Path) -> Tokens:
    return Tokens.load(whisper_base)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(ODD_IDS), st.integers(0, 51864)), max_size=30),
    st.sampled_from(["en", "ja", None]),
)
def test_the_joined_words_are_exactly_the_text(tokens: Tokens, ids: list[int], language: str | None) -> None:
    words = split_words(ids, language, tokens)
    assert "".join(word.text for word in words) == tokens.decode(ids)
    places = [place for word in words for place in word.indices]
    assert places == sorted(places)
    assert all(word.text.strip() for word in words)
    assert all(set(word.spoken) <= set(word.indices) for word in words)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        (" Well, (he said) no...", ["Well", "he", "said", "no"]),
        (" «¿Qué?» 50% of $5 & more", ["Qué", "", "50", "%", "of", "$5", "&", "more"]),
        (" a well-known word; - and", ["a", "well", "known", "word", "", "and"]),
    ],
)
def test_punctuation_is_not_spoken_but_signs_that_are_read_are(tokens: Tokens, text: str, spoken: list[str]) -> None:
    ids = tokens.tokenizer.encode(text, add_special_tokens=False).ids
    words = split_words(ids, "en", tokens)
    assert [tokens.decode([ids[place] for place in word.spoken]) for word in words] == spoken


def test_sentences_of_seven_languages_have_the_words_of_transformers(
    corpus: Path, tokens: Tokens, whisper_base: Path
) -> None:
    tokenizer = WhisperTokenizer.from_pretrained(whisper_base)
    names = {"ja": "japanese", "zh": "chinese"}
    seen = set()
    for line in map(json.loads, (corpus / "manifest.jsonl").read_text(encoding="utf-8").splitlines()):
        if line["set"] not in ("multilingual", "ljspeech"):
            continue
        ids = tokens.tokenizer.encode(" " + line["reference"], add_special_tokens=False).ids
        texts, _, places = _combine_tokens_into_words(tokenizer, ids, names.get(line["language"], "english"))
        words = split_words(ids, line["language"], tokens)
        # Only ours take the blank before the first word away, and hand blanks that stand alone to a word.
        if all(text.strip() for text in texts):
            assert [word.indices for word in words] == [tuple(group) for group in places]
            assert [word.text for word in words] == [texts[0].lstrip(), *texts[1:]]
            seen.add(line["language"])
    assert seen == {"de", "en", "es", "fr", "ja", "pt", "zh"}


def test_no_word_spans_a_timestamp_token(tokens: Tokens) -> None:
    hello, world = (tokens.tokenizer.encode(text, add_special_tokens=False).ids for text in (" hello", "world"))
    joined, apart = [*hello, *world], [*hello, tokens.timestamp_begin + 50, *world]
    assert [word.text for word in split_words(joined, "en", tokens)] == ["helloworld"]
    assert [word.text for word in split_words(apart, "en", tokens)] == ["hello", "world"]


SECOND = 16_000  # samples


def seconds(*spans: tuple[float, float]) -> list[Interval]:
    return [(round(start * SECOND), round(end * SECOND)) for start, end in spans]


@pytest.mark.parametrize(
    ("words", "pauses", "expected"),
    [
        # The alignment ends a word where the pause begins, and the next one begins with the pause.
        ([(0.2, 1.0), (1.0, 2.0)], [(1.0, 1.6)], [(0.2, 1.0), (1.6, 2.0)]),
        # A boundary within the pause, before it, and after it.
        ([(0.2, 1.3), (1.3, 2.0)], [(1.0, 1.6)], [(0.2, 1.0), (1.6, 2.0)]),
        ([(0.2, 0.8), (0.8, 2.0)], [(1.0, 1.6)], [(0.2, 1.0), (1.6, 2.0)]),
        ([(0.2, 1.8), (1.8, 2.4)], [(1.0, 1.6)], [(0.2, 1.0), (1.6, 2.4)]),
        # The pause of a punctuation mark, which the alignment gave to neither.
        ([(0.2, 0.9), (1.4, 2.0)], [(1.0, 1.6)], [(0.2, 1.0), (1.6, 2.0)]),
        # At the beginning and at the end of the chunk.
        ([(0.0, 1.0), (1.0, 3.0)], [(0.0, 0.5), (2.5, 3.0)], [(0.5, 1.0), (1.0, 2.5)]),
        # A pause that no boundary is near lies within a word.
        ([(0.0, 3.0), (3.0, 3.2)], [(1.0, 1.6)], [(0.0, 3.0), (3.0, 3.2)]),
        # Two pauses at one boundary, with a sound between them.
        ([(0.0, 1.0), (1.0, 3.0)], [(1.0, 1.4), (1.5, 1.9)], [(0.0, 1.0), (1.9, 3.0)]),
        # The boundary where punctuation was is taken rather than the one beside it.
        ([(0.0, 0.7), (0.7, 1.0), (1.7, 2.0)], [(1.0, 1.6)], [(0.0, 0.7), (0.7, 1.0), (1.6, 2.0)]),
    ],
)
def test_words_beside_a_pause_end_and_begin_with_it(
    words: list[tuple[float, float]], pauses: list[tuple[float, float]], expected: list[tuple[float, float]]
) -> None:
    assert fit_to_pauses(seconds(*words), seconds(*pauses), 3 * SECOND) == seconds(*expected)


def test_without_pauses_or_words_nothing_moves() -> None:
    words = seconds((0.0, 1.0), (1.2, 2.0))
    assert fit_to_pauses(words, [], 3 * SECOND) == words
    assert fit_to_pauses([], seconds((0.0, 1.0)), 3 * SECOND) == []


@st.composite
def chunks(draw: st.DrawFn) -> tuple[list[Interval], list[Interval], int]:
    """Words that never fall, pauses in order with sound between them, and the samples of the chunk."""
    num_samples = draw(st.integers(MIN_WORD_SAMPLES * 30, 30 * SECOND))
    places = st.integers(0, num_samples)
    edges = sorted(draw(st.lists(places, max_size=24)))
    quiet = sorted(set(draw(st.lists(places, max_size=12))))
    words = list(zip(edges[::2], edges[1::2], strict=False))
    return words, list(zip(quiet[::2], quiet[1::2], strict=False)), num_samples


@given(chunks())
def test_fitted_words_never_decrease_and_no_boundary_lies_in_a_pause(
    chunk: tuple[list[Interval], list[Interval], int],
) -> None:
    words, pauses, num_samples = chunk
    fitted = fit_to_pauses(words, pauses, num_samples)
    edges = [edge for word in fitted for edge in word]
    assert edges == sorted(edges)
    assert all(0 <= edge <= num_samples for edge in edges)
    for begin, end in pauses:
        within = [edge for edge in edges if begin < edge < end]
        assert not within or any(start <= begin and end <= stop for start, stop in fitted)


@given(chunks())
def test_separated_words_have_a_position_each_and_do_not_overlap(
    chunk: tuple[list[Interval], list[Interval], int],
) -> None:
    words, _, num_samples = chunk
    moved = separate_words(words, 0, num_samples)
    assert [*moved] == separate_words(moved, 0, num_samples), "nothing is left to do"
    edges = [edge for word in moved for edge in word]
    assert edges == sorted(edges)
    assert all(0 <= edge <= num_samples for edge in edges)
    assert all(end - start >= MIN_WORD_SAMPLES for start, end in moved)
    for before, after in zip(words, moved, strict=True):
        if all(end - start >= MIN_WORD_SAMPLES for start, end in words):
            assert before == after


@given(st.lists(st.tuples(st.integers(-900, 9000), st.integers(-900, 9000)), max_size=40), st.integers(0, 8000))
def test_any_intervals_become_separate_words_within_the_limits(words: list[Interval], num_samples: int) -> None:
    moved = separate_words(words, 1000, 1000 + num_samples)
    edges = [edge for word in moved for edge in word]
    assert edges == sorted(edges)
    assert all(1000 <= edge <= 1000 + num_samples for edge in edges)
    shortest = min(MIN_WORD_SAMPLES, num_samples // max(1, len(words)))
    assert all(end - start >= shortest for start, end in moved)
