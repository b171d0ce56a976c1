"""Sections give the windows, tokens and segments of the long form of transformers' `generate`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distil_ray.recognition.base import PCM16, RecognizerOptions, TranscribedWindow
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.transformers_recognizer import TransformersRecognizer
from distil_ray.types import SAMPLE_RATE, Prompt
from tests.support.clips import load_samples

OPTIONS = RecognizerOptions(dtype="float32", threads=1, timestamps="segment", long_form=True)


@pytest.fixture(scope="module")
def sections() -> list[PCM16]:
    """Speech of several speakers, joined to 33 s, and a clip of 6 s."""
    names = ("librispeech-61", "austen-0890", "kennedy", "austen-0930", "austen-0870", "cards-001")
    clips = [load_samples(name) for name in names]
    return [np.concatenate(clips)[: 33 * SAMPLE_RATE], clips[3][:96_500]]


def assert_same(ours: list[TranscribedWindow], theirs: list[TranscribedWindow]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.start, mine.num_samples) == (other.start, other.num_samples)
        for name in ("text", "tokens", "segments", "quality_flags", "temperature", "compression_ratio"):
            assert getattr(mine.hypothesis, name) == getattr(other.hypothesis, name)
        assert mine.hypothesis.avg_logprob == pytest.approx(other.hypothesis.avg_logprob, abs=1e-3)
        assert mine.hypothesis.no_speech_prob == pytest.approx(other.hypothesis.no_speech_prob, abs=1e-3)


def test_conditioned_windows_equal_generate_whatever_else_is_in_the_batch(
    whisper_tiny_en: Path, sections: list[PCM16]
) -> None:
    options = replace(OPTIONS, condition_on_previous_text=True)
    generated = TransformersRecognizer(whisper_tiny_en, options).transcribe_sections(sections, ["en"] * 2)
    native = NativeRecognizer(whisper_tiny_en, replace(options, batch_size=2))
    together = native.transcribe_sections(sections, ["en"] * 2)
    assert len(together[0]) > 1
    for ours, theirs, section in zip(together, generated, sections, strict=True):
        assert_same(ours, theirs)
        assert [each.start for each in ours[1:]] == list(np.cumsum([each.num_samples for each in ours])[:-1])
        assert sum(each.num_samples for each in ours) == len(section)


@pytest.mark.slow
@pytest.mark.parametrize("is_conditioned", [False, True])
@pytest.mark.parametrize("prompt", [None, Prompt("Sense and Sensibility, by Jane Austen.", ())])
def test_windows_equal_generate_with_words_and_prompts(
    whisper_tiny_en: Path, sections: list[PCM16], is_conditioned: bool, prompt: Prompt | None
) -> None:
    speech = [np.concatenate([sections[0], sections[1], sections[0]]), *sections]
    options = replace(OPTIONS, timestamps="word", condition_on_previous_text=is_conditioned)
    arguments = (speech, ["en"] * 3, [prompt] * 3)
    generated = TransformersRecognizer(whisper_tiny_en, options).transcribe_sections(*arguments)
    for batch_size in (1, 3):
        native = NativeRecognizer(whisper_tiny_en, replace(options, batch_size=batch_size))
        for ours, theirs in zip(native.transcribe_sections(*arguments), generated, strict=True):
            assert_same(ours, theirs)
            for mine, other in zip(ours, theirs, strict=True):
                words = [(word.text, word.start_s, word.end_s) for word in mine.hypothesis.words or ()]
                assert words == [(word.text, word.start_s, word.end_s) for word in other.hypothesis.words or ()]


@pytest.mark.slow
def test_silence_is_skipped_and_doubtful_windows_are_sampled(whisper_tiny_en: Path, sections: list[PCM16]) -> None:
    """A window of noise between speech has no text; thresholds that no text passes lead to the highest temperature."""
    noise = np.random.default_rng(0).normal(0, 300, 40 * SAMPLE_RATE).astype(np.int16)
    section = np.concatenate([sections[1], noise, sections[1]])
    strict = replace(OPTIONS, no_speech_threshold=0.1, logprob_threshold=-0.01)
    silent, reference = (
        make(whisper_tiny_en, strict).transcribe_sections([section], ["en"])[0]
        for make in (NativeRecognizer, TransformersRecognizer)
    )
    assert_same(silent, reference)
    assert any(each.hypothesis.quality_flags == ("no_speech",) for each in silent)
    ladder = replace(OPTIONS, temperatures=(0.0, 0.4, 0.8), no_speech_threshold=None, compression_ratio_threshold=0.5)
    native = NativeRecognizer(whisper_tiny_en, replace(ladder, condition_on_previous_text=True))
    sampled = native.transcribe_sections(sections, ["en"] * 2)
    assert {each.hypothesis.temperature for windows in sampled for each in windows if each.hypothesis.text} == {0.8}
    assert sampled == native.transcribe_sections(sections, ["en"] * 2)


def test_sections_need_a_recognizer_for_them(whisper_tiny_en: Path, sections: list[PCM16]) -> None:
    native = NativeRecognizer(whisper_tiny_en, replace(OPTIONS, long_form=False))
    with pytest.raises(ValueError, match="long_form=True"):
        native.transcribe_sections(sections, ["en"] * 2)
