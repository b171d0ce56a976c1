"""Quality metrics equal those of OpenAI's implementation."""

import math
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.quality_flags import HALLUCINATION_PHRASE, NO_SPEECH
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
