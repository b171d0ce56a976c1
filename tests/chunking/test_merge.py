"""Chunks become a transcript: `quiet` joins, `overlap` gives what transformers' pipeline gives for the same tokens."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperTokenizer
from transformers.models.whisper import tokenization_whisper

from distil_ray.chunking.merge import merge_chunks
from distil_ray.chunking.overlap_merge import ChunkHypothesis, find_cut, find_cuts, merge_overlapping
from distil_ray.types import Segment, TokenAlignment, Word
from distil_ray.whisper.tokenizer import NUM_TIMESTAMPS, Tokens
from tests.support.clips import english_utterances

RATE = 16_000
SAMPLES_PER_POSITION = 320  # of the encoder: 20 ms
join_as_transformers: Any = tokenization_whisper._find_longest_common_sequence


@cache
def tokenizer_of(folder: Path) -> tuple[Tokens, Any]:
    return Tokens.load(folder), WhisperTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def base(whisper_base: Path) -> tuple[Tokens, Any]:
    return tokenizer_of(whisper_base)


@pytest.fixture(scope="module")
def english(whisper_tiny_en: Path) -> tuple[Tokens, Any]:
    return tokenizer_of(whisper_tiny_en)


def chunk(start_s: float, length_s: float, text: str, **rest: Any) -> ChunkHypothesis:
    fields = {"stride_left": 0, "stride_right": 0, "tokens": (), **rest}
    return ChunkHypothesis(start=round(start_s * RATE), num_samples=round(length_s * RATE), text=text, **fields)


def strided(sequences: list[tuple[int, ...]], length: int, left: int, right: int) -> list[ChunkHypothesis]:
    """Chunks of equal length with strides in samples, none at the recording's ends, as the pipeline cuts them."""
    last = len(sequences) - 1
    return [
        ChunkHypothesis(
            start=index * (length - left - right),
            num_samples=length,
            stride_left=left if index else 0,
            stride_right=right if index < last else 0,
            text="",
            tokens=ids,
        )
        for index, ids in enumerate(sequences)
    ]


def theirs(tokenizer: Any, chunks: list[ChunkHypothesis], timestamps: bool) -> tuple[str, list[tuple[Any, Any, str]]]:
    """(text, (start, end, text) of each stretch) by transformers, fed as its pipeline's postprocess feeds it."""
    outputs = [
        {
            "tokens": np.array([part.tokens], np.int64),
            "stride": tuple(samples / RATE for samples in (part.num_samples, part.stride_left, part.stride_right)),
        }
        for part in chunks
    ]
    text, rest = tokenizer._decode_asr(
        outputs, return_timestamps=timestamps, return_language=None, time_precision=30 / 1500
    )
    return text, [(*part["timestamp"], part["text"]) for part in rest.get("chunks", [])]


def assert_equals_theirs(both: tuple[Tokens, Any], chunks: list[ChunkHypothesis], timestamps: bool) -> None:
    tokens, tokenizer = both
    text, stretches = theirs(tokenizer, chunks, timestamps)
    ours = merge_overlapping(chunks, tokens, timestamps)
    assert "".join(stretch.text for stretch in ours) == text
    if timestamps:
        assert [stretch[:3] for stretch in ours] == stretches


# ---------------------------------------------------------------- seams


def join_sequences(sequences: list[list[int]]) -> list[int]:
    return [token for ids, cut in zip(sequences, find_cuts(sequences), strict=True) for token in ids[cut]]


small = st.lists(st.integers(0, 4), max_size=14)
medium = st.lists(st.integers(0, 25), max_size=40)


@settings(max_examples=250, deadline=None)
@given(st.lists(st.one_of(small, medium), min_size=1, max_size=5))
def test_sequences_are_joined_as_transformers_joins_them(sequences: list[list[int]]) -> None:
    assert join_sequences(sequences) == join_as_transformers(sequences)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=2, max_size=60), st.integers(1, 30), st.data())
def test_noisy_overlaps_are_cut_where_transformers_cuts_them(
    shared: list[int], num_before: int, data: st.DataObject
) -> None:
    noisy = [token if data.draw(st.integers(0, 9)) else 999 for token in shared]
    sequences = [list(range(1000, 1000 + num_before)) + shared, noisy + list(range(2000, 2010))]
    assert join_sequences(sequences) == join_as_transformers(sequences)


timed_tokens = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 2)), max_size=14)


@settings(max_examples=120, deadline=None)
@given(st.lists(timed_tokens, min_size=1, max_size=4))
def test_sequences_with_times_are_joined_as_transformers_joins_them(
    sequences: list[list[tuple[int, int, int]]],
) -> None:
    ids = [[token for token, _, _ in sequence] for sequence in sequences]
    times = [[(start, start + length) for _, start, length in sequence] for sequence in sequences]
    cuts = find_cuts(ids, times)
    joined_ids = [token for sequence, cut in zip(ids, cuts, strict=True) for token in sequence[cut]]
    joined_times = [both for sequence, cut in zip(times, cuts, strict=True) for both in sequence[cut]]
    assert (joined_ids, joined_times) == join_as_transformers(ids, times)


def test_equally_good_alignments_are_decided_as_in_transformers() -> None:
    for left, right in [([1, 1, 1, 1], [1, 1, 1]), ([1, 2, 1, 2], [1, 2, 1, 2]), ([7] * 30, [7] * 9), ([1, 2], [2, 1])]:
        assert join_sequences([left, right]) == join_as_transformers([left, right])


def test_a_seam_without_two_equal_tokens_keeps_everything() -> None:
    assert find_cut([1, 2, 3], [3, 4, 5]) == (3, 0)
    assert find_cut([], [1, 2]) == (0, 0)
    assert find_cut([1, 2], []) == (2, 0)


def test_text_of_both_chunks_is_there_once() -> None:
    assert join_sequences([[1, 2, 3, 4, 5], [4, 5, 6, 7]]) == [1, 2, 3, 4, 5, 6, 7]


# ---------------------------------------------------------------- overlap, against transformers


@pytest.fixture(scope="module")
def phrases(base: tuple[Tokens, Any]) -> list[list[int]]:
    """Tokens of real sentences."""
    texts = [utterance.reference.capitalize() for utterance in english_utterances()]
    return [base[0].tokenizer.encode(" " + text, add_special_tokens=False).ids for text in texts]


def test_real_sentences_of_two_chunks_merge_as_in_transformers(
    base: tuple[Tokens, Any], phrases: list[list[int]]
) -> None:
    long = [token for phrase in phrases for token in phrase]
    sequences = [tuple(long[start : start + 60]) for start in range(0, len(long) - 60, 40)]
    chunks = strided(sequences, 15 * RATE, round(2.5 * RATE), round(2.5 * RATE))
    assert_equals_theirs(base, chunks, timestamps=False)
    merged = merge_chunks(chunks, len(long) * RATE, base[0], False, overlaps=True)
    assert merged.text == base[0].decode(long[: len(sequences) * 40 + 20])
    assert merged.segments is None


def timed(tokens: Tokens, spans: list[tuple[float, float, list[int]]]) -> tuple[int, ...]:
    ids: list[int] = []
    for start_s, end_s, text in spans:
        ids += [tokens.timestamp_begin + round(start_s * 50), *text, tokens.timestamp_begin + round(end_s * 50)]
    return tuple(ids)


def test_a_sentence_over_a_seam_becomes_one_segment_as_in_transformers(
    base: tuple[Tokens, Any], phrases: list[list[int]]
) -> None:
    tokens = base[0]
    sequences = [
        timed(tokens, [(0.0, 6.0, phrases[0]), (6.0, 13.6, phrases[1]), (13.6, 15.0, phrases[2][:4])]),
        timed(tokens, [(0.0, 3.6, phrases[1][-6:]), (3.6, 9.0, phrases[2]), (9.0, 14.0, phrases[3])]),
        timed(tokens, [(0.5, 4.0, phrases[3]), (5.0, 11.0, phrases[4])]),
    ]
    chunks = strided(sequences, 15 * RATE, 40_000, 40_000)
    assert_equals_theirs(base, chunks, timestamps=True)
    merged = merge_chunks(chunks, 35 * RATE, tokens, True, overlaps=True)
    assert merged.segments is not None
    assert " ".join(segment.text for segment in merged.segments) == merged.text
    assert [segment.start_s for segment in merged.segments] == sorted(segment.start_s for segment in merged.segments)


def test_text_without_time_tokens_gets_the_whole_recording_as_its_time(
    base: tuple[Tokens, Any], phrases: list[list[int]]
) -> None:
    merged = merge_chunks(strided([tuple(phrases[0])], 9 * RATE, 0, 0), 9 * RATE, base[0], True, overlaps=True)
    assert merged.segments == [Segment(0.0, 9.0, merged.text)]


WORDS = [464, 995, 318, 257, 1049, 2415, 290, 188, 447]  # ids of both vocabularies; some are parts of letters


def odd_tokens(tokens: Tokens) -> st.SearchStrategy[tuple[int, ...]]:
    """Mostly words and times that increase; times in any order, repeated, doubled; special and language tokens."""
    word = st.sampled_from(WORDS)
    time = st.integers(0, 1500).map(lambda step: tokens.timestamp_begin + step)
    coarse = st.sampled_from([0, 100, 125, 600, 650, 725, 750]).map(lambda step: tokens.timestamp_begin + step)
    special = st.sampled_from([tokens.sot + 1, tokens.sot + 2, tokens.sot + 5, tokens.transcribe, tokens.no_speech])
    free = st.lists(st.one_of(word, word, word, coarse, time, special), max_size=24)
    spans = st.lists(st.tuples(st.lists(word, max_size=6), st.integers(0, 90)), max_size=6)

    def in_order(parts: list[tuple[list[int], int]]) -> list[int]:
        ids, step = [tokens.timestamp_begin], 0
        for text, advance in parts:
            step = min(step + advance * 5, NUM_TIMESTAMPS - 1)
            ids += [*text, tokens.timestamp_begin + step, tokens.timestamp_begin + step]
        return ids[:-1]

    words = st.lists(word, max_size=30)
    return st.one_of(words, free, spans.map(in_order)).map(tuple)


strides = st.sampled_from(
    [
        (15 * RATE, 40_000, 40_000),
        (25 * RATE, 66_667, 66_667),
        (30 * RATE, 0, 0),
        (15 * RATE, 0, 40_000),
        (464_160, 77_360, 9),
    ]
)


@settings(max_examples=250, deadline=None)
@given(st.data(), strides, st.booleans())
def test_any_tokens_merge_as_in_transformers(
    base: tuple[Tokens, Any], data: st.DataObject, stride: tuple[int, int, int], timestamps: bool
) -> None:
    sequences = data.draw(st.lists(odd_tokens(base[0]), max_size=6))
    sequences += sequences[-1:] * data.draw(st.integers(0, 1))
    assert_equals_theirs(base, strided(sequences, *stride), timestamps)


@settings(max_examples=100, deadline=None)
@given(st.data(), strides, st.booleans())
def test_any_tokens_of_an_english_only_model_merge_as_in_transformers(
    english: tuple[Tokens, Any], data: st.DataObject, stride: tuple[int, int, int], timestamps: bool
) -> None:
    sequences = data.draw(st.lists(odd_tokens(english[0]), max_size=5))
    assert_equals_theirs(english, strided(sequences, *stride), timestamps)


@settings(max_examples=100, deadline=None)
@given(st.data(), strides)
def test_merged_times_stay_in_the_recording_and_never_run_backwards(
    base: tuple[Tokens, Any], data: st.DataObject, stride: tuple[int, int, int]
) -> None:
    chunks = strided(data.draw(st.lists(odd_tokens(base[0]), min_size=1, max_size=6)), *stride)
    num_samples = chunks[-1].start + chunks[-1].num_samples
    merged = merge_chunks(chunks, num_samples, base[0], True, overlaps=True)
    assert merged.segments is not None
    times = [time for segment in merged.segments for time in (segment.start_s, segment.end_s)]
    assert times == sorted(times)
    assert all(0 <= time <= num_samples / RATE for time in times)


def test_overlap_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        merge_chunks([], 0, None, False, overlaps=True)


# ---------------------------------------------------------------- quiet


def test_quiet_chunks_are_joined_with_one_blank_and_empty_ones_leave_none() -> None:
    chunks = [chunk(0, 10, " Good morning, "), chunk(10, 10, ""), chunk(20, 5, "Mr. Quilter.")]
    merged = merge_chunks(chunks, 25 * RATE, None, False)
    assert merged.text == "Good morning, Mr. Quilter."
    assert merged.segments is None
    assert merged.words is None


@pytest.mark.parametrize(
    ("language", "joined"), [("ja", "今日は晴れです"), ("ja-JP", "今日は晴れです"), ("ko", "今日は 晴れです")]
)
def test_languages_without_spaces_are_joined_without_spaces(language: str, joined: str) -> None:
    chunks = [chunk(0, 10, "今日は", language=language), chunk(10, 10, "晴れです", language=language)]
    assert merge_chunks(chunks, 20 * RATE, None, False).text == joined


@pytest.mark.parametrize(
    ("languages", "joined"),
    [
        ("zh ja en", "今天。今日は。 Hello."),
        ("zh en ja", "今天。 今日は。 Hello."),
        ("de de de", "今天。 今日は。 Hello."),
    ],
)
def test_texts_in_different_languages_are_joined_by_the_languages_on_both_sides(languages: str, joined: str) -> None:
    texts = zip(("今天。", "今日は。", "Hello."), languages.split(), strict=True)
    chunks = [
        chunk(10 * i, 10, text, language=code, words=[Word(0.0, 1.0, text, 0.9)])
        for i, (text, code) in enumerate(texts)
    ]
    merged = merge_chunks(chunks, 30 * RATE, None, True, words=True)
    assert merged.text == "".join(word.text for word in merged.words or ()) == joined


def test_overlapping_chunks_in_different_languages_are_not_merged_by_tokens(
    base: tuple[Tokens, Any], phrases: list[list[int]]
) -> None:
    tokens = base[0]
    ids = tuple(phrases[0])
    text = tokens.decode(ids).strip()
    first, second, third = strided([ids] * 3, 10 * RATE, 0, 0)
    separate = [replace(first, language="en"), replace(second, language="de"), replace(third, language="de")]
    together = [replace(one, language="en") for one in (first, second, third)]
    segments = merge_chunks(separate, 30 * RATE, tokens, True, overlaps=True).segments or []
    assert merge_chunks(together[:2], 20 * RATE, tokens, False, overlaps=True).text == text  # said once, by the tokens
    assert merge_chunks(separate[:2], 20 * RATE, tokens, False, overlaps=True).text == f"{text} {text}"
    assert segments[0].text == text
    assert segments[0].end_s <= 10 <= segments[1].start_s


@pytest.mark.parametrize("words", [False, True])
def test_a_text_behind_a_prefix_begins_with_its_chunk(base: tuple[Tokens, Any], words: bool) -> None:
    """`<|0.00|>` then stands before the prefix, and is not among the tokens of the text."""
    tokens = base[0]

    def segment(start_s: float, text: str, end_s: float) -> list[int]:
        ids = tokens.tokenizer.encode(text, add_special_tokens=False).ids
        return [tokens.timestamp_begin + round(start_s * 50), *ids, tokens.timestamp_begin + round(end_s * 50)]

    def part(start_s: int, length_s: int, strides_s: tuple[int, int], ids: list[int]) -> ChunkHypothesis:
        starts, ends = (tuple(range(at, len(ids) + at)) for at in (0, 1))  # positions, from the second token on
        alignment = TokenAlignment(
            ends, (0.5,) * len(ids), tuple(320 * at for at in starts), tuple(320 * at for at in ends)
        )
        left, right = (stride * RATE for stride in strides_s)
        found = chunk(start_s, length_s, tokens.decode(ids[1:]), stride_left=left, stride_right=right)
        later = replace(alignment, **{name: getattr(alignment, name)[1:] for name in TokenAlignment.__slots__})
        return replace(found, tokens=tuple(ids[1:]), alignment=later)

    first = [*segment(0, " one two three", 3), *segment(3, " four five", 6), *segment(6, " six seven eight", 11)]
    chunks = [part(0, 12, (0, 2), first), part(8, 9, (2, 0), [*segment(0, " nine", 4), *segment(4, " ten", 8)])]
    merged = merge_chunks(chunks, 17 * RATE, tokens, True, words, overlaps=True)
    assert [each.text for each in merged.segments or ()] == [
        "one two three",
        "four five",
        "six seven eight nine",
        "ten",
    ]
    if not words:
        assert [(each.start_s, each.end_s) for each in merged.segments or ()] == [(0, 3), (3, 6), (6, 12), (12, 16)]


def test_times_of_quiet_chunks_are_shifted_and_end_with_their_chunk() -> None:
    chunks = [
        chunk(0, 12.5, "One two.", segments=[Segment(0.0, 4.0, "One"), Segment(4.0, 29.98, "two.")]),
        chunk(12.5, 5, "", segments=None),
        chunk(17.5, 2, "Three.", segments=[Segment(0.5, 1.5, "Three.")], words=[Word(0.5, 1.5, "Three.", 0.9)]),
    ]
    merged = merge_chunks(chunks, round(19.5 * RATE), None, True, words=True)
    assert merged.segments == [Segment(0.0, 4.0, "One"), Segment(4.0, 12.5, "two."), Segment(18.0, 19.0, "Three.")]
    assert merged.words == [Word(18.0, 19.0, "Three.", 0.9)]


def test_a_recording_without_chunks_is_empty() -> None:
    assert merge_chunks([], 0, None, True).text == ""
    assert merge_chunks([], 0, None, True).segments == []


# ---------------------------------------------------------------- words


def spoken(ids: tuple[int, ...], first: int, step: int) -> TokenAlignment:
    """Tokens that end `step` positions of 20 ms after each other; words have the times of their tokens."""
    ends = [first + step * (index + 1) for index in range(len(ids))]
    samples = [end * SAMPLES_PER_POSITION for end in (0, *ends)]
    probabilities = tuple(0.5 + index % 2 / 4 for index in range(len(ids)))
    return TokenAlignment(tuple(ends), probabilities, tuple(samples[:-1]), tuple(samples[1:]))


def words_by_transformers(tokenizer: Any, chunks: list[ChunkHypothesis]) -> list[tuple[float, float, str]]:
    outputs = [
        {
            "tokens": np.array([part.tokens], np.int64),
            "token_timestamps": np.array([part.alignment.ends if part.alignment else ()]) * 0.02,
            "stride": tuple(samples / RATE for samples in (part.num_samples, part.stride_left, part.stride_right)),
        }
        for part in chunks
    ]
    _, rest = tokenizer._decode_asr(outputs, return_timestamps="word", return_language=None, time_precision=30 / 1500)
    return [(*word["timestamp"], word["text"]) for word in rest["chunks"]]


def heard_twice(tokens: Tokens, phrases: list[list[int]], repeated: bool) -> list[ChunkHypothesis]:
    """Three chunks of 15 s over 35 s of sentences, a token a fifth of a second; one of them said twice in a row."""
    said = [token for phrase in phrases for token in phrase]
    said = (said[:60] + said[40:60] + said[60:])[:165] if repeated else said[:165]
    begin = tokens.timestamp_begin
    sequences = [(begin, *said[50 * i : 50 * i + 65], *([begin + 700] if i < 2 else [])) for i in range(3)]
    chunks = strided(sequences, 15 * RATE, 40_000, 40_000)
    return [replace(chunk, alignment=spoken(chunk.tokens, -10, 10)) for chunk in chunks]


@pytest.mark.parametrize("repeated", [False, True])
def test_words_over_seams_are_those_of_transformers(
    base: tuple[Tokens, Any], phrases: list[list[int]], repeated: bool
) -> None:
    tokens, tokenizer = base
    chunks = heard_twice(tokens, phrases, repeated)
    merged = merge_chunks(chunks, 35 * RATE, tokens, True, words=True, overlaps=True)
    theirs = words_by_transformers(tokenizer, chunks)
    assert merged.words is not None
    assert "".join(word.text for word in merged.words) == merged.text
    assert [word.text.strip() for word in merged.words] == [text.strip() for _, _, text in theirs]
    for ours, (start_s, end_s, _) in zip(merged.words, theirs, strict=True):
        assert (ours.start_s, ours.end_s) == pytest.approx((start_s, end_s), abs=0.0051)
        assert ours.probability is not None and 0.5 <= ours.probability <= 0.75


@settings(max_examples=60, deadline=None)
@given(st.data(), strides)
def test_merged_words_are_the_text_and_their_times_never_run_backwards(
    base: tuple[Tokens, Any], data: st.DataObject, stride: tuple[int, int, int]
) -> None:
    tokens = base[0]
    sequences = data.draw(st.lists(odd_tokens(tokens), min_size=1, max_size=5))
    chunks = [
        replace(part, alignment=spoken(part.tokens, 0, data.draw(st.integers(0, 40))))
        for part in strided(sequences, *stride)
    ]
    num_samples = chunks[-1].start + chunks[-1].num_samples
    for languages in (["en"] * 5, ["ja"] * 5, ["ja", "en", "ja", "de", "de"]):
        chunks = [replace(part, language=code) for part, code in zip(chunks, languages, strict=False)]
        merged = merge_chunks(chunks, num_samples, tokens, True, words=True, overlaps=True)
        assert merged.words is not None
        assert merged.segments is not None
        assert "".join(word.text for word in merged.words) == merged.text
        times = [time for word in merged.words for time in (word.start_s, word.end_s)]
        assert times == sorted(times)
        assert all(0 <= time <= num_samples / RATE for time in times)
        assert all(word.end_s - word.start_s >= 0.02 - 1e-9 for word in merged.words)
        starts, ends = ({getattr(word, edge) for word in merged.words} for edge in ("start_s", "end_s"))
        assert all(segment.start_s in starts and segment.end_s in ends for segment in merged.segments)
        plain = merge_chunks(chunks, num_samples, tokens, True, overlaps=True).segments or []
        if "".join(segment.text for segment in plain) == "".join(segment.text for segment in merged.segments):
            assert [segment.text for segment in merged.segments] == [segment.text for segment in plain]


def test_words_over_seams_have_the_times_that_were_made_of_the_alignment(
    base: tuple[Tokens, Any], phrases: list[list[int]]
) -> None:
    """The seams are where the alignment has them; the times given out are the other ones."""
    tokens = base[0]
    aligned = heard_twice(tokens, phrases, repeated=False)
    moved = []
    for part in aligned:
        assert part.alignment is not None
        starts = tuple(start + 800 for start in part.alignment.word_starts)
        moved.append(replace(part, alignment=replace(part.alignment, word_starts=starts)))
    one, other = (
        merge_chunks(chunks, 35 * RATE, tokens, True, words=True, overlaps=True) for chunks in (aligned, moved)
    )
    assert one.text == other.text
    assert [word.start_s + 0.05 for word in one.words or ()] == pytest.approx([w.start_s for w in other.words or ()])
    assert [word.end_s for word in one.words or ()] == [word.end_s for word in other.words or ()]


def test_words_of_quiet_chunks_are_the_text_and_stay_in_their_chunk() -> None:
    chunks = [
        chunk(0, 10.01, "One two.", words=[Word(0.0, 4.0, "One", 0.9), Word(4.0, 11.0, " two.", 0.8)]),
        chunk(10.01, 5, ""),
        chunk(15.01, 5, "Three.", words=[Word(0.3, 0.2, "Three.", 0.7)]),
    ]
    merged = merge_chunks(chunks, round(20.01 * RATE), None, True, words=True)
    assert merged.words == [
        Word(0.0, 4.0, "One", 0.9),
        Word(4.0, 10.01, " two.", 0.8),
        Word(15.31, 15.31, " Three.", 0.7),
    ]
    assert "".join(word.text for word in merged.words) == merged.text
    assert merge_chunks(chunks[1:2], 16, None, True, words=True).words == []
    assert merge_chunks(chunks, 16, None, True).words is None
