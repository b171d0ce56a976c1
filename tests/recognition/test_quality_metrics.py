"""Quality metrics equal those of OpenAI's implementation."""

import math
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.quality_flags import (
    HALLUCINATION_PHRASE,
    HIGH_CHAR_RATE,
    MAX_TOKENS_REACHED,
    NO_SPEECH,
    REPETITION_LOOP,
)
from distil_ray.recognition.quality_metrics import avg_logprob, compose_hypothesis, compression_ratio, is_no_speech
from distil_ray.whisper.tokenizer import Tokens
from tests.whisper.small import small_tokens


@given(st.lists(st.floats(-20, 0), max_size=50))
def test_the_mean_log_probability_counts_the_end_token(logprobs: list[float]) -> None:
    end = -0.5
    assert avg_logprob(sum(logprobs) + end, len(logprobs)) == pytest.approx(
        math.fsum([*logprobs, end]) / len([*logprobs, end]), abs=1e-9
    )


@given(st.text())
def test_the_compression_ratio_is_that_of_the_utf8_bytes(text: str) -> None:
    data = text.encode("utf-8")
    assert compression_ratio(text) == len(data) / len(zlib.compress(data))


def test_repeated_words_compress_beyond_openais_threshold_and_speech_does_not() -> None:
    assert compression_ratio("and then he said " * 20) > 2.4
    assert compression_ratio("He doubted whether the painting was really Greek after all.") < 1.5
    assert compression_ratio("") == 0


@pytest.mark.parametrize(
    ("no_speech_prob", "mean_logprob", "expected"),
    [(0.9, -1.5, True), (0.9, -0.3, False), (0.3, -1.5, False), (0.6, -1.5, False), (0.9, -1.0, False)],
)
def test_a_chunk_is_silent_only_with_a_high_no_speech_probability_and_an_unlikely_text(
    no_speech_prob: float, mean_logprob: float, expected: bool
) -> None:
    assert is_no_speech(no_speech_prob, mean_logprob, 0.6, -1.0) is expected
    assert not is_no_speech(no_speech_prob, mean_logprob, None, -1.0)


def test_a_silent_chunk_loses_its_words_and_keeps_the_evidence() -> None:
    tokens = small_tokens()
    words = [*tokens.tokenizer.encode(" thank you", add_special_tokens=False).ids]
    decoded = DecodingResult(tuple(words), -20.0, 0.9, ended=True)
    hypothesis = compose_hypothesis(decoded, 16_000, tokens=tokens, options=RecognizerOptions(timestamps="segment"))
    assert (hypothesis.text, hypothesis.tokens, hypothesis.segments) == ("", (), ())
    assert hypothesis.quality_flags == (NO_SPEECH,)
    assert hypothesis.no_speech_prob == 0.9
    assert hypothesis.avg_logprob == -20.0 / (len(words) + 1)
    assert hypothesis.compression_ratio == compression_ratio("thank you")


@pytest.mark.parametrize(("cuts", "ended"), [(True, False), (False, False), (True, True)])
def test_a_text_that_repeats_itself_until_it_is_cut_off_has_what_is_repeated_once(cuts: bool, ended: bool) -> None:
    tokens = small_tokens()
    thank, you = (tokens.tokenizer.encode(word, add_special_tokens=False).ids for word in (" thank", " you"))
    decoded = DecodingResult((*thank, *you * 40), -4.0, 0.0, ended)
    options = RecognizerOptions(cut_loops=cuts)
    hypothesis = compose_hypothesis(decoded, 160_000, tokens=tokens, options=options)
    is_cut = cuts and not ended
    assert hypothesis.text == "thank" + " you" * (1 if is_cut else 40)
    assert hypothesis.tokens == ((*thank, *you) if is_cut else decoded.tokens)
    assert REPETITION_LOOP in hypothesis.quality_flags
    assert (MAX_TOKENS_REACHED in hypothesis.quality_flags) != ended
    assert hypothesis.avg_logprob == -4.0 / (len(decoded.tokens) + 1)
    assert (hypothesis.compression_ratio or 0.0) > 2.4


@pytest.mark.parametrize(("duration_s", "num_kept"), [(3, 1), (30, 25)])
def test_a_loop_with_times_that_nobody_can_have_spoken_has_what_is_repeated_once(
    duration_s: int, num_kept: int
) -> None:
    """tiny.en with times wrote a sentence 28 times for three seconds of speech, each with later times, and ended."""
    tokens = small_tokens()
    sentence = tokens.tokenizer.encode(" I see what I think.", add_special_tokens=False).ids
    first = tokens.timestamp_begin
    text = [[first + 50 * at, *sentence, first + 50 * (at + 1)] for at in range(25)]
    decoded = DecodingResult(tuple(token for part in text for token in part), -40.0, 0.0, ended=True)
    options = RecognizerOptions(timestamps="segment", cut_loops=True)
    hypothesis = compose_hypothesis(decoded, duration_s * 16_000, tokens=tokens, options=options)
    assert hypothesis.text == " ".join(["I see what I think."] * num_kept)
    assert hypothesis.tokens == tuple(token for part in text[:num_kept] for token in part)
    assert hypothesis.segments is not None and len(hypothesis.segments) == num_kept
    assert REPETITION_LOOP in hypothesis.quality_flags
    assert (HIGH_CHAR_RATE in hypothesis.quality_flags) == (num_kept == 1)


def test_what_is_repeated_does_not_end_within_a_character() -> None:
    """By its bytes the loop begins with the last one of the character before it, which it ends with too."""
    tokens = small_tokens()
    before, last = "Ӂ", "Ё"
    assert before.encode()[1:] == last.encode()[1:]
    ids = tokens.tokenizer.encode(before + f"в{last}" * 20, add_special_tokens=False).ids
    decoded = DecodingResult(tuple(ids), -4.0, 0.0, ended=False)
    hypothesis = compose_hypothesis(decoded, 480_000, tokens=tokens, options=RecognizerOptions(cut_loops=True))
    assert hypothesis.text == f"{before}в{last}"


def test_what_follows_a_loop_that_nobody_can_have_spoken_is_cut_with_it() -> None:
    tokens = small_tokens()
    thanks, bye = (tokens.tokenizer.encode(text, add_special_tokens=False).ids for text in (" thank you so", " bye"))
    decoded = DecodingResult((*thanks * 20, *bye), -4.0, 0.0, ended=True)
    hypothesis = compose_hypothesis(decoded, 16_000, tokens=tokens, options=RecognizerOptions(cut_loops=True))
    assert hypothesis.text == "thank you so"
    assert {REPETITION_LOOP, HIGH_CHAR_RATE} <= set(hypothesis.quality_flags)
    slow = compose_hypothesis(decoded, 480_000, tokens=tokens, options=RecognizerOptions(cut_loops=True))
    assert slow.text == "thank you so " * 20 + "bye", "in half a minute it may have been spoken"


def test_without_a_threshold_no_words_are_lost() -> None:
    tokens: Tokens = small_tokens()
    words = tokens.tokenizer.encode(" thank you", add_special_tokens=False).ids
    options = RecognizerOptions(no_speech_threshold=None)
    decoded = DecodingResult(tuple(words), -2.0, 0.9, ended=True)
    hypothesis = compose_hypothesis(decoded, 16_000, tokens=tokens, options=options)
    assert (hypothesis.text, hypothesis.segments, hypothesis.quality_flags) == (
        "thank you",
        None,
        (HALLUCINATION_PHRASE,),
    )
