"""With a prompt the native recognizer gives the tokens of `generate(prompt_ids=…)`, whatever the other prompts are."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.transformers_recognizer import TransformersRecognizer
from distil_ray.types import Hypothesis, Prompt
from tests.support.clips import load_samples

EXACT = RecognizerOptions(dtype="float32", batch_size=8, threads=1)
LONG = "Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy disposition. " * 20
PROMPTS = (
    Prompt("a letter from miss bates in lower case without any punctuation"),
    None,
    Prompt("", ("KENNEDY", "Frontier", "NASA")),
    Prompt(LONG, ("Hartfield",)),  # longer than the decoder allows
    Prompt("Chapter 5."),
    None,
)


@pytest.fixture(scope="module")
def clips() -> list[PCM16]:
    names = ("librispeech-61", "austen-0890", "kennedy", "austen-0870", "cards-005", "austen-0930")
    return [load_samples(name) for name in names]


def transcribe(
    recognizer: NativeRecognizer | TransformersRecognizer, clips: list[PCM16], prompts: tuple[Prompt | None, ...]
) -> list[Hypothesis]:
    return recognizer.transcribe(clips, ["en"] * len(clips), None, prompts)


def assert_equal(ours: list[Hypothesis], theirs: list[Hypothesis]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.tokens == other.tokens
        assert mine.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-3)
        assert mine.no_speech_prob == pytest.approx(other.no_speech_prob, abs=1e-3)
        assert mine.segments == other.segments


@pytest.mark.parametrize(
    ("timestamps", "batch_sizes", "chosen"),
    [
        ("segment", (2,), (5, 3, 0)),  # none, too long, and another, of which the last takes the place of the first
        pytest.param("segment", (1, 3, 8), range(6), marks=pytest.mark.slow),
        pytest.param("none", (1, 3, 8), range(6), marks=pytest.mark.slow),
    ],
)
def test_tokens_equal_generate_with_prompt_ids(
    whisper_tiny_en: Path,
    clips: list[PCM16],
    timestamps: str,
    batch_sizes: tuple[int, ...],
    chosen: Sequence[int],
) -> None:
    options = replace(EXACT, timestamps=timestamps)
    some, prompts = [clips[i] for i in chosen], tuple(PROMPTS[i] for i in chosen)
    generated = transcribe(TransformersRecognizer(whisper_tiny_en, options), some, prompts)
    for batch_size in batch_sizes:
        recognizer = NativeRecognizer(whisper_tiny_en, replace(options, batch_size=batch_size))
        assert_equal(transcribe(recognizer, some, prompts), generated)
    first = list(chosen).index(0)
    assert transcribe(recognizer, some[first : first + 1], (None,))[0].tokens != generated[first].tokens


@pytest.mark.slow
def test_a_multilingual_checkpoint_equals_generate(whisper_base: Path, clips: list[PCM16]) -> None:
    options = replace(EXACT, timestamps="segment", max_new_tokens=20)
    native, reference = NativeRecognizer(whisper_base, options), TransformersRecognizer(whisper_base, options)
    chosen = [2, 3, 4]
    some, prompts = [clips[i] for i in chosen], tuple(PROMPTS[i] for i in chosen)
    ours, theirs = transcribe(native, some, prompts), transcribe(reference, some, prompts)
    assert_equal(ours, theirs)
    assert max(len(each.tokens) for each in ours) == 20


@pytest.mark.slow
def test_word_times_equal_generate(whisper_tiny_en: Path, clips: list[PCM16]) -> None:
    """Beside rows with other prompts; `generate` gets one chunk at a time."""
    options = replace(EXACT, timestamps="word")
    ours = transcribe(NativeRecognizer(whisper_tiny_en, options), clips[:4], PROMPTS[:4])
    theirs = transcribe(TransformersRecognizer(whisper_tiny_en, options), clips[:4], PROMPTS[:4])
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.words and other.words
        assert [(word.text, word.start_s, word.end_s) for word in mine.words] == [
            (word.text, word.start_s, word.end_s) for word in other.words
        ]


@pytest.mark.parametrize("window", [pytest.param("full", marks=pytest.mark.slow), "gated"])
def test_numbers_do_not_depend_on_the_other_prompts(whisper_tiny_en: Path, clips: list[PCM16], window: str) -> None:
    recognizer = NativeRecognizer(whisper_tiny_en, replace(EXACT, window=window, batch_size=3))
    some, prompts = clips[2:], PROMPTS[2:]
    together = transcribe(recognizer, some, prompts)
    mixed = transcribe(recognizer, some, tuple(given if i % 2 else None for i, given in enumerate(prompts)))
    assert mixed[1::2] == together[1::2]
    alone = [transcribe(recognizer, [clip], (prompt,))[0] for clip, prompt in zip(some, prompts, strict=True)]
    assert alone == together


@pytest.mark.slow
def test_drafts_and_sampling_keep_the_prompt(whisper_tiny_en: Path, clips: list[PCM16]) -> None:
    """An assistant gets the prompt too, so its drafts are accepted; so does a text that is sampled again."""
    plain = transcribe(NativeRecognizer(whisper_tiny_en, EXACT), clips, PROMPTS)
    drafting = NativeRecognizer(whisper_tiny_en, replace(EXACT, speculative="on"), whisper_tiny_en)
    drafted = transcribe(drafting, clips, PROMPTS)
    assert [each.tokens for each in drafted] == [each.tokens for each in plain]
    proposed, accepted = (sum(getattr(each, f"drafts_{kind}") for each in drafted) for kind in ("proposed", "accepted"))
    assert accepted > 0.8 * proposed > 0
    sampling = NativeRecognizer(
        whisper_tiny_en, replace(EXACT, temperatures=(0.0, 0.2), compression_ratio_threshold=0.1)
    )
    sampled = transcribe(sampling, clips[:1], PROMPTS[:1])[0]
    assert sampled.temperature == 0.2
    assert sampled != transcribe(sampling, clips[:1], (None,))[0]
