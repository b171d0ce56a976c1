"""The native recognizer gives the tokens of transformers' `generate`, whatever else is in the batch."""

import gc
import random
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.transformers_recognizer import TransformersRecognizer
from distil_ray.types import SAMPLE_RATE, Hypothesis
from tests.recognition.processors import BFLOAT16, needs_avx2
from tests.support.clips import load_samples

EXACT = RecognizerOptions(dtype="float32", batch_size=4, threads=1)


@pytest.fixture(scope="module")
def clips() -> list[PCM16]:
    """Four varied clips of English speech, 0.5 to 7 s; two of them cut short in a word."""
    names = ("librispeech-61", "austen-0890", "austen-0870", "cards-005")
    found = [load_samples(name) for name in names]
    return [found[0][:9_000], found[1][:25_000], *found[2:]]


@pytest.fixture(scope="module")
def generated(whisper_tiny_en: Path, clips: list[PCM16]) -> list[Hypothesis]:
    """What transformers makes of them."""
    return english(TransformersRecognizer(whisper_tiny_en, EXACT), clips)


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


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 3, 32])
def test_tokens_equal_generate_whatever_else_is_in_the_batch(
    whisper_tiny_en: Path, clips: list[PCM16], generated: list[Hypothesis], batch_size: int
) -> None:
    """One at a time; three slots, whose rows end far apart and are filled again; all at once. In any order."""
    order = random.Random(batch_size).sample(range(len(clips)), len(clips))
    recognizer = NativeRecognizer(whisper_tiny_en, replace(EXACT, batch_size=batch_size))
    assert recognizer.processed_s == 0.0
    assert_same(english(recognizer, [clips[i] for i in order]), [generated[i] for i in order])
    audio_s = sum(map(len, clips)) / SAMPLE_RATE
    assert 0.7 * audio_s < recognizer.processed_s <= audio_s


@pytest.mark.parametrize("dtype", ["float32", BFLOAT16, pytest.param("int8", marks=needs_avx2)])
def test_every_number_is_the_same_to_the_bit_whatever_else_is_in_the_batch(
    whisper_tiny_en: Path, clips: list[PCM16], dtype: str
) -> None:
    """Windows of several lengths beside each other, which are padded to the longest."""
    alone, few, together = (
        english(NativeRecognizer(whisper_tiny_en, replace(EXACT, dtype=dtype, batch_size=size, window="gated")), order)
        for size, order in ((1, clips), (3, clips[::-1]), (16, clips))
    )
    assert alone == few[::-1] == together
    assert len({hypothesis.window_s for hypothesis in alone}) > 2


def test_timestamp_tokens_equal_generate(whisper_tiny_en: Path, clips: list[PCM16]) -> None:
    options = replace(EXACT, timestamps="segment")
    native, reference = NativeRecognizer(whisper_tiny_en, options), TransformersRecognizer(whisper_tiny_en, options)
    assert_same(english(native, clips[1:]), english(reference, clips[1:]))


@pytest.mark.slow
def test_a_multilingual_checkpoint_equals_generate(whisper_base: Path) -> None:
    chunks, languages = [load_samples("mandarin")], ["zh"]
    options = replace(EXACT, timestamps="segment")
    native, reference = NativeRecognizer(whisper_base, options), TransformersRecognizer(whisper_base, options)
    assert_same(native.transcribe(chunks, languages), reference.transcribe(chunks, languages))
    ours, theirs = native.detect_languages(chunks), reference.detect_languages(chunks)
    assert ours.codes == theirs.codes
    assert np.allclose(ours.probs, theirs.probs, atol=1e-4)


def test_a_token_limit_ends_a_text(whisper_tiny_en: Path, clips: list[PCM16], generated: list[Hypothesis]) -> None:
    recognizer = NativeRecognizer(whisper_tiny_en, replace(EXACT, max_new_tokens=5))
    for cut, whole in zip(english(recognizer, clips[2:4]), generated[2:4], strict=True):
        assert cut.tokens == whole.tokens[:5]
        assert cut.quality_flags[0] == "max_tokens_reached"


def test_languages_and_chunks_are_checked_before_anything_is_decoded(whisper_tiny_en: Path) -> None:
    tiny = NativeRecognizer(whisper_tiny_en, EXACT)
    pcm = np.zeros(16_000, np.int16)
    with pytest.raises(ValueError, match="language 'de'"):
        tiny.transcribe([pcm], ["de"])
    with pytest.raises(ValueError, match="must be 1 to 480000"):
        tiny.transcribe([pcm[:0]], ["en"])
    with pytest.raises(ValueError, match="2 chunks, but 1 languages"):
        tiny.transcribe([pcm, pcm], ["en"])
    assert tiny.transcribe([], []) == []
    assert tiny.detect_languages([pcm]).probs.tolist() == [[1.0]]


def test_out_of_memory_halves_the_batch(
    whisper_tiny_en: Path, clips: list[PCM16], generated: list[Hypothesis], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = NativeRecognizer(whisper_tiny_en, EXACT)
    step = recognizer._decoder.step

    def short_of_memory(ids: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if len(ids) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return step(ids, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(recognizer._decoder, "step", short_of_memory)
    assert_same(english(recognizer, clips[:3]), generated[:3])
    assert any("decoding.batch_size is now 2" in note for note in recognizer.warnings)


def test_a_dropped_recognizer_frees_its_weights_and_caches_at_once(whisper_tiny_en: Path, clips: list[PCM16]) -> None:
    """Without a run of the garbage collector: a GPU's memory would stay occupied until one."""
    gc.collect()
    gc.disable()
    try:
        recognizer = NativeRecognizer(
            whisper_tiny_en, replace(EXACT, timestamps="word", window="gated"), whisper_tiny_en
        )
        english(recognizer, clips[:1])
        (loop,) = recognizer._loops.loops.values()
        parts = [
            recognizer,
            recognizer._encoder,
            recognizer._encoder._positions,
            recognizer._decoder,
            recognizer._decoder._tokens,
            loop,
            loop._cache,
            loop._cache.self_kv[0],
            loop._cache.blocks[0].keys,
            recognizer._speculation,
        ]
        references = [weakref.ref(part) for part in parts]
        del recognizer, loop, parts
        assert [type(found) for reference in references if (found := reference()) is not None] == []
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def closed_early() -> list[tuple[PCM16, str]]:
    """A stretch of a poem of which whisper-tiny.en closes the last segment three seconds before the end, with the last
    words that are spoken in it."""
    start_s, end_s = 22.5, 48.3
    return [(load_samples("sonnet-1")[round(start_s * 16_000) : round(end_s * 16_000)], "else this glutton be")]


@pytest.mark.parametrize("window", ["full", "gated"])
def test_speech_after_the_last_closed_segment_is_decoded_too(
    whisper_tiny_en: Path, closed_early: list[tuple[PCM16, str]], window: str
) -> None:
    chunks = [pcm for pcm, _ in closed_early]
    recognizer = NativeRecognizer(whisper_tiny_en, replace(EXACT, timestamps="segment", window=window, batch_size=3))
    begun = recognizer.transcribe(chunks, ["en"] * len(chunks), needed=[0] * len(chunks))
    whole = english(recognizer, chunks)
    for (pcm, words), first, both in zip(closed_early, begun, whole, strict=True):
        end_s = len(pcm) / 16_000
        assert words not in first.text
        assert both.text.startswith(first.text) and both.text.rstrip(".").endswith(words)
        assert both.segments is not None and end_s - 0.6 < both.segments[-1].end_s <= end_s
        times = [each for span in both.segments for each in (span.start_s, span.end_s)]
        assert times == sorted(times)
        assert both.unheard_s == 0.0 and "untranscribed_speech" not in both.quality_flags


def test_what_is_decoded_after_the_last_closed_segment_is_the_same_in_transformers(
    whisper_tiny_en: Path, closed_early: list[tuple[PCM16, str]]
) -> None:
    options = replace(EXACT, timestamps="segment")
    chunks = [pcm for pcm, _ in closed_early]
    native, reference = NativeRecognizer(whisper_tiny_en, options), TransformersRecognizer(whisper_tiny_en, options)
    ours, theirs = english(native, chunks), english(reference, chunks)
    assert_same(ours, theirs)
    assert [each.unheard_s for each in ours] == [each.unheard_s for each in theirs]


def test_words_of_all_passes_lie_in_order_where_they_are_spoken(
    whisper_tiny_en: Path, closed_early: list[tuple[PCM16, str]]
) -> None:
    (pcm, last_words), *_ = closed_early
    recognizer = NativeRecognizer(whisper_tiny_en, replace(EXACT, timestamps="word"))
    (hypothesis,) = english(recognizer, [pcm])
    assert hypothesis.words is not None and hypothesis.alignment is not None
    assert len(hypothesis.alignment.ends) == len(hypothesis.tokens)
    assert "".join(word.text for word in hypothesis.words).strip() == hypothesis.text
    times = [each for word in hypothesis.words for each in (word.start_s, word.end_s)]
    assert times == sorted(times)
    tail = hypothesis.words[-len(last_words.split()) :]
    assert tail[0].start_s > 22.0 and tail[-1].end_s == pytest.approx(len(pcm) / 16_000, abs=0.6)


def test_a_text_without_timestamps_that_ends_early_is_flagged(whisper_tiny_en: Path, clips: list[PCM16]) -> None:
    whole = NativeRecognizer(whisper_tiny_en, EXACT)
    cut = NativeRecognizer(whisper_tiny_en, replace(EXACT, max_new_tokens=5))
    long = max(clips, key=len)
    assert english(whole, [long])[0].unheard_s == pytest.approx(0.0, abs=0.3)
    (hypothesis,) = english(cut, [long])
    assert hypothesis.unheard_s is not None and hypothesis.unheard_s > 1.0
    assert "untranscribed_speech" in hypothesis.quality_flags
