"""Tokens have the times of transformers, whatever else is in the batch. Words avoid pauses, last whole positions, frame
their segments, and joined they are the text."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native.alignment import (
    Aligner,
    choose_alignment_heads,
    dtw_columns,
    median_filter,
    num_audio_positions,
    token_ends,
)
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.native.word_timestamps import add_words, drop_hallucinations
from distil_ray.recognition.quality_flags import ANOMALOUS_WORDS, HALLUCINATION_DROPPED
from distil_ray.recognition.transformers_recognizer import TransformersRecognizer
from distil_ray.types import SAMPLE_RATE, Hypothesis, TokenAlignment
from distil_ray.whisper.tokenizer import Tokens
from tests.support.clips import load_samples

WORDS = RecognizerOptions(dtype="float32", batch_size=3, threads=1, timestamps="word")
POSITION_S = 0.02
COST = st.floats(-5, 5)


@pytest.fixture(scope="module")
def english() -> list[PCM16]:
    """Four clips of 3 to 11 s: with three slots one of them takes the place of another."""
    return [load_samples(name) for name in ("austen-0880-8khz", "librispeech-61", "austen-0870", "kennedy")]


@pytest.fixture(scope="module")
def hypotheses(whisper_tiny_en: Path, english: list[PCM16]) -> list[Hypothesis]:
    return NativeRecognizer(whisper_tiny_en, WORDS).transcribe(english, ["en"] * len(english))


def assert_words_are_valid(hypothesis: Hypothesis, num_samples: int) -> None:
    assert hypothesis.words is not None
    assert hypothesis.segments is not None
    assert "".join(word.text for word in hypothesis.words) == hypothesis.text
    times = [time for word in hypothesis.words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert all(0 <= time <= num_samples / 16_000 for time in times)
    assert all(word.end_s - word.start_s >= POSITION_S - 1e-9 for word in hypothesis.words)
    assert all(word.probability is not None and 0 < word.probability <= 1 for word in hypothesis.words)
    words = list(hypothesis.words)
    for segment in hypothesis.segments:
        mine = [word for word in words if segment.start_s <= word.start_s and word.end_s <= segment.end_s]
        assert (mine[0].start_s, mine[-1].end_s) == (segment.start_s, segment.end_s)
        assert "".join(word.text for word in mine).strip() == segment.text
        words = words[len(mine) :]
    assert not words, "every word lies in a segment"


def test_token_times_equal_those_of_transformers_and_words_follow_from_them(
    whisper_tiny_en: Path, english: list[PCM16], hypotheses: list[Hypothesis]
) -> None:
    theirs = TransformersRecognizer(whisper_tiny_en, WORDS).transcribe(english[:3], ["en"] * 3)
    for ours, other, pcm in zip(hypotheses[:3], theirs, english[:3], strict=True):
        assert ours.tokens == other.tokens
        assert ours.alignment is not None
        assert other.alignment is not None
        assert np.abs(np.subtract(ours.alignment.ends, other.alignment.ends)).max() <= 1
        assert ours.alignment.probabilities == pytest.approx(other.alignment.probabilities, abs=1e-3)
        for mine, word in zip(ours.words or (), other.words or (), strict=True):
            assert mine.text == word.text
            assert mine.start_s == pytest.approx(word.start_s, abs=POSITION_S * 1.01)
        assert_words_are_valid(ours, len(pcm))
        assert_words_are_valid(other, len(pcm))
        assert [segment.text for segment in ours.segments or ()] == [segment.text for segment in other.segments or ()]


def test_segments_of_words_have_the_texts_of_segments_without(
    whisper_tiny_en: Path, english: list[PCM16], hypotheses: list[Hypothesis]
) -> None:
    plain = NativeRecognizer(whisper_tiny_en, replace(WORDS, timestamps="segment")).transcribe(english[:2], ["en"] * 2)
    for one, other in zip(hypotheses, plain, strict=False):
        assert one.tokens == other.tokens
        assert [segment.text for segment in one.segments or ()] == [segment.text for segment in other.segments or ()]


@pytest.mark.parametrize("kind", [NativeRecognizer, TransformersRecognizer])
def test_no_word_reaches_into_a_pause(
    whisper_tiny_en: Path, english: list[PCM16], kind: type[NativeRecognizer | TransformersRecognizer]
) -> None:
    """Between two words that no punctuation parts, the alignment lets the second one begin with the pause."""
    pcm, rate = english[3], 16_000  # "in being comparatively modern.", with a pause of a second behind "being"
    levels = [np.abs(pcm[at : at + 800].astype(int)).mean() for at in range(5600, 10_400, 160)]
    cut = 5600 + 160 * int(np.argmin(levels)) + 400
    silence = np.random.default_rng(3).normal(0, 3, rate).astype(np.int16)
    chunk = np.concatenate((silence[:8000], pcm[:cut], silence, pcm[cut:], silence[:8000]))
    begin, end = (8000 + cut) / rate, (8000 + cut) / rate + 1.0
    (hypothesis,) = kind(whisper_tiny_en, replace(WORDS, batch_size=1)).transcribe([chunk], ["en"])
    assert_words_are_valid(hypothesis, len(chunk))
    words = list(hypothesis.words or ())
    assert len(words) > 3
    assert words[0].start_s >= 0.5 - 0.1
    assert words[-1].end_s <= len(chunk) / rate - 0.5 + 0.1
    assert all(word.end_s <= begin + 0.1 or word.start_s >= end - 0.1 for word in words)


def test_words_do_not_depend_on_the_batch(
    whisper_tiny_en: Path, english: list[PCM16], hypotheses: list[Hypothesis]
) -> None:
    alone = NativeRecognizer(whisper_tiny_en, replace(WORDS, batch_size=1)).transcribe(english[1:3], ["en"] * 2)
    for one, other in zip(alone, hypotheses[1:3], strict=True):
        assert one.alignment is not None
        assert other.alignment is not None
        assert one.alignment.ends == other.alignment.ends


def test_texts_of_beams_that_end_together_are_aligned_one_by_one(
    whisper_tiny_en: Path, english: list[PCM16], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padded to the longest of them, a text would have weights that round by the length of its neighbors."""
    recognizer = NativeRecognizer(whisper_tiny_en, replace(WORDS, num_beams=2, max_new_tokens=4, window="gated"))
    prefill, rows = recognizer._decoder.prefill, list[int]()

    def see(ids: torch.Tensor, *args: object) -> torch.Tensor:
        rows.extend([len(ids)] if len(args) == 4 else [])  # with a hook, which takes the weights
        return prefill(ids, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(recognizer._decoder, "prefill", see)
    recognizer.transcribe([pcm[:16_000] for pcm in english[:3]], ["en"] * 3)
    assert len(rows) >= 3 and set(rows) == {1}


def test_recorded_queries_give_the_times_of_a_second_pass(
    whisper_tiny_en: Path, english: list[PCM16], hypotheses: list[Hypothesis], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Aligner, "new_record", lambda *_: None)
    again = NativeRecognizer(whisper_tiny_en, WORDS).transcribe(english, ["en"] * len(english))
    for one, other in zip(hypotheses, again, strict=True):
        assert one.alignment is not None
        assert other.alignment is not None
        assert one.alignment.ends == other.alignment.ends


def test_a_text_at_its_limit_is_aligned_although_its_last_token_was_not_read(
    whisper_tiny_en: Path, english: list[PCM16]
) -> None:
    limited = NativeRecognizer(whisper_tiny_en, replace(WORDS, max_new_tokens=12))
    (hypothesis,) = limited.transcribe(english[3:], ["en"])
    assert hypothesis.alignment is not None
    assert len(hypothesis.alignment.ends) == len(hypothesis.tokens)


def test_words_of_short_windows_are_where_the_full_window_has_them(
    whisper_tiny_en: Path, english: list[PCM16], hypotheses: list[Hypothesis]
) -> None:
    gated = NativeRecognizer(whisper_tiny_en, replace(WORDS, window="gated")).transcribe(english, ["en"] * len(english))
    apart = []
    for short, full, pcm in zip(gated, hypotheses, english, strict=True):
        assert_words_are_valid(short, len(pcm))
        if [word.text for word in short.words or ()] == [word.text for word in full.words or ()]:
            apart += [abs(a.end_s - b.end_s) for a, b in zip(short.words or (), full.words or (), strict=True)]
    assert len(apart) > 20
    assert np.median(apart) <= 2 * POSITION_S


def test_words_of_languages_without_spaces_are_the_text(whisper_base: Path) -> None:
    chunks = [load_samples("mandarin")]
    (hypothesis,) = NativeRecognizer(whisper_base, WORDS).transcribe(chunks, ["zh"])
    assert_words_are_valid(hypothesis, len(chunks[0]))
    assert len(hypothesis.words or ()) > 5


def test_words_of_a_chunk_that_was_decoded_in_two_passes_keep_their_order(whisper_tiny_en: Path) -> None:
    """The first pass stretched its last word over all of the rest, in which the second one has its words."""
    tokens = Tokens.load(whisper_tiny_en)
    first, second = (
        tokens.tokenizer.encode(text, add_special_tokens=False).ids for text in (" one two", " three four")
    )
    begin = tokens.timestamp_begin
    ids = (begin, *first, begin + 100, begin + 90, *second, begin + 500)
    ends = (0, 40, 500, 500, 90, 150, 240, 500)
    hypothesis = Hypothesis(tokens.decode(ids), ids, -0.1, 0.0, 1.0, segments=())
    pcm = np.random.default_rng(2).normal(0, 2000, 10 * 16_000).astype(np.int16)
    found = add_words(hypothesis, TokenAlignment(ends, (0.9,) * len(ids)), "en", tokens, pcm)
    assert_words_are_valid(found, len(pcm))
    times = [(word.start_s, word.end_s) for word in found.words or ()]
    assert times == [(0.0, 0.8), (0.8, 1.8), (1.8, 3.0), (3.0, 4.8)]
    assert [span.text for span in found.segments or ()] == ["one two", "three four"]
    assert found.alignment is not None
    assert found.alignment.ends == ends, "the alignment itself stays"


def test_a_silent_chunk_has_no_words(whisper_tiny_en: Path, english: list[PCM16]) -> None:
    options = replace(WORDS, no_speech_threshold=0.0, logprob_threshold=0.0)
    (hypothesis,) = NativeRecognizer(whisper_tiny_en, options).transcribe([english[0][:8000]], ["en"])
    assert (hypothesis.text, hypothesis.words) == ("", ())


def test_a_checkpoint_that_names_no_alignment_heads_gets_the_upper_layers() -> None:
    assert choose_alignment_heads([[1, 0], [3, 5]], 4, 6) == ([(1, 0), (3, 5)], None)
    upper = [(layer, head) for layer in (1,) for head in range(4)]
    heads, note = choose_alignment_heads(None, 2, 4)
    assert heads == upper
    assert "names no alignment heads" in str(note)
    heads, note = choose_alignment_heads([[10, 12]], 2, 4)  # a distilled checkpoint with its teacher's list
    assert heads == upper
    assert "heads that it does not have" in str(note)


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.integers(1, 9), st.integers(1, 20)).flatmap(lambda shape: arrays(np.float64, shape, elements=COST)))
def test_dtw_columns_equal_dynamic_time_warping_of_transformers(
    cost: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> None:
    cost = cost + np.random.default_rng(0).random(cost.shape) / 1000  # of ways that cost the same any may be chosen
    rows, columns = _dynamic_time_warping(cost)
    first = [int(columns[rows == row][0]) for row in range(len(cost))]
    found = dtw_columns(cost)
    assert found[0] == 0
    assert (np.diff(found) >= 0).all()
    assert found.tolist() == first


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.sampled_from([1, 3, 7]), st.integers(0, 2**31))
def test_the_running_median_is_that_of_transformers(length: int, width: int, seed: int) -> None:
    values = torch.rand(3, 2, length, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(median_filter(values, width), _median_filter(values, width))


@pytest.mark.parametrize("num_heads", [2, 9])
def test_heads_that_are_filtered_together_give_the_same_times(monkeypatch: pytest.MonkeyPatch, num_heads: int) -> None:
    weights = torch.rand(5, 8, 40, generator=torch.Generator().manual_seed(1)).softmax(dim=-1)
    expected = token_ends(weights, 7)
    monkeypatch.setattr("distil_ray.recognition.native.alignment._heads_at_once", lambda _: num_heads)
    assert token_ends(weights, 7) == expected


def test_audio_positions_are_those_of_the_chunk() -> None:
    assert [num_audio_positions(samples) for samples in (1, 320, 321, 400, 16_000, 480_000)] == [1, 1, 1, 1, 50, 1500]


def test_a_hallucination_between_silences_is_dropped_with_its_words_tokens_and_times(whisper_tiny_en: Path) -> None:
    tokens = Tokens.load(whisper_tiny_en)

    def time(seconds: float) -> int:
        return tokens.timestamp_begin + round(seconds * 50)

    hello, there, space, you, good, bye = (
        tokens.tokenizer.encode(f" {word}", add_special_tokens=False).ids[0]
        for word in ("Hello", "there", "", "you", "good", "bye")
    )
    spoken = [(0.0, time(0)), (0.4, hello), (0.8, there), (0.9, time(0.8))]
    spoken += [(1.0, time(1)), (1.0, space), (2.0, time(2)), (6.0, time(6)), (6.02, you)]  # no segment, only a space
    spoken += [(6.04, time(6.02)), (9.0, time(9)), (9.4, good), (9.8, bye), (9.8, time(9.8))]
    ids = tuple(token for _, token in spoken)
    probabilities = tuple(0.05 if token == you else 0.9 for token in ids)
    alignment = TokenAlignment(tuple(round(end * 50) for end, _ in spoken), probabilities)
    pcm = np.random.default_rng(0).normal(0, 1000, 12 * SAMPLE_RATE).astype(np.int16)  # no pauses by level
    whole = add_words(Hypothesis(tokens.decode(ids), ids), alignment, "en", tokens, pcm)
    assert ANOMALOUS_WORDS not in whole.quality_flags, "one of five words"
    assert drop_hallucinations(whole, "en", tokens, pcm, threshold_s=6.0) == whole

    rest = drop_hallucinations(whole, "en", tokens, pcm, threshold_s=2.0)
    assert rest.words is not None and whole.words is not None
    assert rest.words == (*whole.words[:2], *whole.words[3:])
    assert rest.text == "".join(word.text for word in rest.words) == "Hello there  good bye"
    assert [segment.text for segment in rest.segments or ()] == ["Hello there", "good bye"]
    assert rest.tokens == tuple(token for token in ids if token != you)
    assert rest.alignment is not None and len(rest.alignment.ends) == len(rest.tokens) == len(rest.alignment.word_ends)
    assert rest.quality_flags == (HALLUCINATION_DROPPED,)


def test_a_mark_behind_a_segment_of_spaces_belongs_to_its_own_segment(whisper_tiny_en: Path) -> None:
    tokens = Tokens.load(whisper_tiny_en)
    space, mark, you = (tokens.tokenizer.encode(text, add_special_tokens=False).ids[0] for text in (" ", "!", " you"))
    first = tokens.timestamp_begin
    ids = (first, space, first + 50, first + 100, mark, you, first + 150)
    alignment = TokenAlignment((0, 50, 50, 100, 100, 150, 150), (0.05,) * len(ids))
    pcm = np.random.default_rng(0).normal(0, 1000, 12 * SAMPLE_RATE).astype(np.int16)  # no pauses by level
    whole = add_words(Hypothesis("! you", ids), alignment, "en", tokens, pcm)
    assert [segment.text for segment in whole.segments or ()] == ["! you"]


def test_a_text_without_timestamps_that_is_dropped_leaves_no_segment(whisper_tiny_en: Path) -> None:
    """With a prefix, or few tokens, a text may have no timestamp that would remain."""
    tokens = Tokens.load(whisper_tiny_en)
    ids = tuple(tokens.tokenizer.encode(" there had been", add_special_tokens=False).ids)
    alignment = TokenAlignment(tuple(range(150, 150 + len(ids))), (0.05,) * len(ids))
    pcm = np.random.default_rng(0).normal(0, 1000, 6 * SAMPLE_RATE).astype(np.int16)
    pcm[: 2 * SAMPLE_RATE] //= 100
    whole = add_words(Hypothesis(tokens.decode(ids), ids), alignment, "en", tokens, pcm)
    assert [segment.text for segment in whole.segments or ()] == ["there had been"]
    rest = drop_hallucinations(whole, "en", tokens, pcm, threshold_s=1.0)
    assert (rest.text, rest.tokens, rest.words, rest.segments) == ("", (), (), ())


@pytest.mark.slow
def test_words_that_the_model_invents_for_a_burst_of_noise_are_dropped(whisper_tiny_en: Path) -> None:
    rng = np.random.default_rng(1)
    parts = [(5.0, 20), (0.4, 4000), (8.0, 20)]
    burst = np.concatenate([rng.normal(0, level, round(length * SAMPLE_RATE)) for length, level in parts])
    chunks = [burst.astype(np.int16), load_samples("austen-0930")]
    options = replace(WORDS, no_speech_threshold=None)
    plain = NativeRecognizer(whisper_tiny_en, options).transcribe(chunks, ["en", "en"])
    limited = replace(options, hallucination_silence_threshold_s=1.0)
    kept = NativeRecognizer(whisper_tiny_en, limited).transcribe(chunks, ["en", "en"])
    assert plain[0].words and kept[0].words == () and kept[0].text == ""
    assert kept[0].quality_flags[-1] == HALLUCINATION_DROPPED
    assert kept[1] == plain[1]
