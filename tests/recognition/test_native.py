"""The native recogniser says what transformers' `generate` says, whatever else is in the batch."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distil_ray.recognition.native import NativeRecognizer
from distil_ray.recognition.recognizer import PCM16, Hypothesis, RecognizerOptions
from distil_ray.recognition.reference import TransformersRecognizer

EXACT = RecognizerOptions(dtype="float32", batch_size=8, threads=2)


def clip(corpus: Path, name: str) -> PCM16:
    samples, rate = soundfile.read(corpus / name, dtype="int16")
    assert rate == 16_000
    pcm: PCM16 = samples
    return pcm


@pytest.fixture(scope="module")
def clips(corpus: Path) -> list[PCM16]:
    """Twelve varied clips of English speech, 1.5 to 15 s: read and spontaneous, native and not."""
    lines = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    chosen = [
        line for line in lines if line["set"] in ("librispeech", "ljspeech", "accented") and line["duration_s"] < 15
    ]
    return [clip(corpus, line["uri"]) for line in chosen[:: len(chosen) // 12][:12]]


@pytest.fixture(scope="module")
def tiny(whisper_tiny_en: Path) -> NativeRecognizer:
    return NativeRecognizer(whisper_tiny_en, EXACT)


@pytest.fixture(scope="module")
def alone(tiny: NativeRecognizer, clips: list[PCM16]) -> list[Hypothesis]:
    """What each clip gives when it is all there is."""
    return [tiny.transcribe([pcm], ["en"])[0] for pcm in clips]


def english(recognizer: NativeRecognizer | TransformersRecognizer, clips: list[PCM16]) -> list[Hypothesis]:
    return recognizer.transcribe(clips, ["en"] * len(clips))


def assert_same(ours: list[Hypothesis], theirs: list[Hypothesis]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.tokens == other.tokens
        assert mine.text == other.text
        assert mine.segments == other.segments
        assert mine.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-3)
        assert mine.no_speech_prob == pytest.approx(other.no_speech_prob, abs=1e-3)
        assert mine.compression_ratio == other.compression_ratio


@pytest.mark.parametrize("timestamps", ["none", "segment"])
def test_tokens_equal_generate_in_float32(whisper_tiny_en: Path, clips: list[PCM16], timestamps: str) -> None:
    options = replace(EXACT, timestamps=timestamps)
    native, reference = NativeRecognizer(whisper_tiny_en, options), TransformersRecognizer(whisper_tiny_en, options)
    assert_same(english(native, clips), english(reference, clips))


@pytest.mark.parametrize("timestamps", ["none", "segment"])
def test_a_multilingual_checkpoint_equals_generate(corpus: Path, whisper_base: Path, timestamps: str) -> None:
    lines = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    chosen = [line for line in lines if line["set"] == "multilingual" and line["duration_s"] < 12][::8][:4]
    chunks = [resampled(corpus / line["uri"]) for line in chosen]
    languages = [line["language"] for line in chosen]
    options = replace(EXACT, timestamps=timestamps)
    native, reference = NativeRecognizer(whisper_base, options), TransformersRecognizer(whisper_base, options)
    assert_same(native.transcribe(chunks, languages), reference.transcribe(chunks, languages))
    ours, theirs = native.detect_languages(chunks), reference.detect_languages(chunks)
    assert ours.codes == theirs.codes
    assert np.allclose(ours.probs, theirs.probs, atol=1e-4)


def resampled(path: Path) -> PCM16:
    import soxr

    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = soxr.resample(samples.mean(axis=1), rate, 16_000)
    pcm: PCM16 = np.clip(np.round(mono * 32768), -32768, 32767).astype(np.int16)
    return pcm


@pytest.mark.parametrize("batch_size", [3, 32])
def test_tokens_do_not_depend_on_the_batch(
    whisper_tiny_en: Path, clips: list[PCM16], alone: list[Hypothesis], batch_size: int
) -> None:
    order = random.Random(batch_size).sample(range(len(clips)), len(clips))
    recognizer = NativeRecognizer(whisper_tiny_en, replace(EXACT, batch_size=batch_size))
    together = english(recognizer, [clips[i] for i in order])
    assert_same(together, [alone[i] for i in order])


def test_waiting_chunks_take_the_places_of_those_that_ended(
    whisper_tiny_en: Path, clips: list[PCM16], alone: list[Hypothesis]
) -> None:
    """Words cut short and long sentences through four slots: rows end far apart, and refills meet running rows."""
    pieces = [pcm[: 8_000 * (1 + i)] if i % 2 else pcm for i, pcm in enumerate(clips)]
    recognizer = NativeRecognizer(whisper_tiny_en, replace(EXACT, batch_size=4))
    together = english(recognizer, pieces)
    assert_same(together[::2], alone[::2])
    assert_same(together[1:4:2], [english(recognizer, [pcm])[0] for pcm in pieces[1:4:2]])


def test_a_token_limit_ends_a_text(whisper_tiny_en: Path, clips: list[PCM16], alone: list[Hypothesis]) -> None:
    recognizer = NativeRecognizer(whisper_tiny_en, replace(EXACT, max_new_tokens=5))
    for cut, whole in zip(english(recognizer, clips[:3]), alone, strict=False):
        assert cut.tokens == whole.tokens[:5]
        assert cut.flags == ("unfinished",)


def test_silence_gives_no_text(tiny: NativeRecognizer) -> None:
    [hypothesis] = english(tiny, [np.zeros(32_000, np.int16)])
    assert hypothesis.text == "" or hypothesis.no_speech_prob < 0.6


def test_languages_and_chunks_are_checked_before_anything_is_decoded(tiny: NativeRecognizer) -> None:
    pcm = np.zeros(16_000, np.int16)
    with pytest.raises(ValueError, match="English-only"):
        tiny.transcribe([pcm], ["de"])
    with pytest.raises(ValueError, match="must be 1 to 480000"):
        tiny.transcribe([pcm[:0]], ["en"])
    with pytest.raises(ValueError, match="2 chunks, but 1 languages"):
        tiny.transcribe([pcm, pcm], ["en"])
    assert tiny.transcribe([], []) == []
    assert tiny.detect_languages([pcm]).probs.tolist() == [[1.0]]


def test_when_memory_ends_fewer_chunks_are_decoded_at_once(
    whisper_tiny_en: Path, clips: list[PCM16], alone: list[Hypothesis], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = NativeRecognizer(whisper_tiny_en, EXACT)
    step = recognizer._decoder.step

    def short_of_memory(ids: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if len(ids) > 3:
            raise torch.OutOfMemoryError("no room")
        return step(ids, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(recognizer._decoder, "step", short_of_memory)
    assert_same(english(recognizer, clips[:6]), alone[:6])
    assert any("decoding.batch_size is 2 from now" in note for note in recognizer.notes)
