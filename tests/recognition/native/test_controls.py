"""Controls of decoding give the tokens of `generate` with the same controls, whatever else is in the batch."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers.generation.logits_process import (
    SuppressTokensAtBeginLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native.logits_rules import LogitsRules
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.token_controls import load_tokens
from distil_ray.recognition.transformers_recognizer import TransformersRecognizer
from distil_ray.types import Hypothesis, Prompt
from distil_ray.whisper.tokenizer import Tokens
from tests.support.clips import load_samples

EXACT = RecognizerOptions(dtype="float32", batch_size=3, threads=1, max_new_tokens=40)
PROMPTS = (None, Prompt("Emma Woodhouse, handsome, clever, and rich."), None, Prompt("the the the"), None)
REPETITION: dict[str, Any] = {"repetition_penalty": 1.4, "no_repeat_ngram_size": 3}
SUPPRESSED: dict[str, Any] = {"suppress_tokens": ("the", ",", "numerals", 290)}
CONTROLS: dict[str, dict[str, Any]] = {
    "repetition": REPETITION,
    "reward": {"repetition_penalty": 0.9},
    "ngram": {"no_repeat_ngram_size": 1},
    "suppressed": SUPPRESSED,
}


@pytest.fixture(scope="module")
def clips() -> list[PCM16]:
    return [load_samples(name) for name in ("librispeech-61", "austen-0890", "kennedy", "austen-0870", "austen-0930")]


def transcribe(
    recognizer: NativeRecognizer | TransformersRecognizer,
    clips: list[PCM16],
    prompts: tuple[Prompt | None, ...] | None = None,
    language: str = "en",
) -> list[Hypothesis]:
    return recognizer.transcribe(clips, [language] * len(clips), None, prompts)


def assert_equal(ours: list[Hypothesis], theirs: list[Hypothesis]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.tokens == other.tokens
        assert mine.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-3)


def test_all_controls_at_once_equal_generate(whisper_tiny_en: Path, clips: list[PCM16]) -> None:
    """Three chunks in two slots, so that a row starts over beside another; with timestamps."""
    controls = {**REPETITION, **SUPPRESSED, "max_initial_timestamp_s": 0.2}
    options = replace(EXACT, timestamps="segment", batch_size=2, max_new_tokens=12, **controls)
    reference = TransformersRecognizer(whisper_tiny_en, replace(options, batch_size=3))
    some = [clips[0][:32_000], clips[1][:25_000], clips[4]]
    ours = transcribe(NativeRecognizer(whisper_tiny_en, options), some)
    assert_equal(ours, transcribe(reference, some))
    assert all("," not in each.text and each.tokens for each in ours)


@pytest.mark.slow
@pytest.mark.parametrize("timestamps", ["none", "segment"])
@pytest.mark.parametrize("controls", CONTROLS.values(), ids=list(CONTROLS))
def test_each_control_equals_generate_beside_prompts(
    whisper_tiny_en: Path, clips: list[PCM16], controls: dict[str, Any], timestamps: str
) -> None:
    """The ids of a prompt count as ids of the text, as in transformers."""
    options = replace(EXACT, timestamps=timestamps, **controls)
    ours = transcribe(NativeRecognizer(whisper_tiny_en, options), clips, PROMPTS)
    assert_equal(ours, transcribe(TransformersRecognizer(whisper_tiny_en, options), clips, PROMPTS))
    plain = NativeRecognizer(whisper_tiny_en, replace(EXACT, timestamps=timestamps))
    assert [each.tokens for each in ours] != [each.tokens for each in transcribe(plain, clips, PROMPTS)]


@pytest.mark.slow
@pytest.mark.parametrize("controls", CONTROLS.values(), ids=list(CONTROLS))
def test_a_multilingual_checkpoint_equals_generate(whisper_base: Path, controls: dict[str, Any]) -> None:
    options = replace(EXACT, timestamps="segment", **controls)
    clips = [load_samples(name) for name in ("mandarin", "japanese-32khz", "spanish", "swedish")]
    for batch in (1, 4):
        ours = transcribe(NativeRecognizer(whisper_base, replace(options, batch_size=batch)), clips, language="es")
        assert_equal(ours, transcribe(TransformersRecognizer(whisper_base, options), clips, language="es"))


@pytest.mark.parametrize("limit_s", [None, 0.0, 0.39, 30.0])
def test_the_first_timestamp_is_limited_as_by_the_processor_of_transformers(
    whisper_tiny_en: Path, limit_s: float | None
) -> None:
    """On random logits: on real speech whisper-tiny.en begins at 0 whatever the limit is."""
    tokens = load_tokens(whisper_tiny_en, replace(EXACT, max_initial_timestamp_s=limit_s))
    size = tokens.timestamp_begin + 1501
    config: Any = SimpleNamespace(
        eos_token_id=tokens.eot,
        no_timestamps_token_id=tokens.no_timestamps,
        max_initial_timestamp_index=50 if limit_s is None else round(limit_s / 0.02),
    )
    theirs = WhisperTimeStampLogitsProcessor(config, begin_index=1)
    rules = LogitsRules(tokens, size, True, torch.device("cpu"))
    logits = torch.randn(50, size, generator=torch.Generator().manual_seed(3))
    start = torch.full((50, 1), tokens.sot)
    expected = theirs(cast(torch.LongTensor, start), cast(torch.FloatTensor, logits)) + 0.0
    masked = rules.apply_first(logits, rules.start(start.tolist()))
    assert torch.equal(masked, expected)


@pytest.mark.slow
def test_drafts_do_not_change_the_text(whisper_tiny_en: Path, clips: list[PCM16]) -> None:
    options = replace(EXACT, **REPETITION, timestamps="segment")
    plain = transcribe(NativeRecognizer(whisper_tiny_en, options), clips, PROMPTS)
    drafting = NativeRecognizer(whisper_tiny_en, replace(options, speculative="on"), whisper_tiny_en)
    drafted = transcribe(drafting, clips, PROMPTS)
    assert [each.tokens for each in drafted] == [each.tokens for each in plain]
    assert drafting.stats.accepted > 0.8 * drafting.stats.proposed > 0


@pytest.mark.slow
def test_numbers_do_not_depend_on_the_batch(whisper_tiny_en: Path, clips: list[PCM16]) -> None:
    options = replace(EXACT, **REPETITION, window="gated", prefix="Well,", timestamps="segment")
    together = transcribe(NativeRecognizer(whisper_tiny_en, options), clips, PROMPTS)
    alone = NativeRecognizer(whisper_tiny_en, replace(options, batch_size=1))
    assert transcribe(alone, clips, PROMPTS) == together


class PrefixedGenerate:
    """`generate` that continues a prefix.

    Its rules count the text from `num_begun` ids before the end of the decoder's input on.
    """

    def __init__(self, folder: Path, options: RecognizerOptions, monkeypatch: pytest.MonkeyPatch) -> None:
        self._recognizer = TransformersRecognizer(folder, replace(options, prefix=None))
        self._tokens, self._timed = Tokens.load(folder), options.timestamps != "none"
        self._max_new_tokens = options.max_new_tokens
        self._prefix = self._tokens.prefix(options.prefix, self._timed)
        num_begun = len(self._prefix) if self._timed else 0
        for processor in (WhisperTimeStampLogitsProcessor, SuppressTokensAtBeginLogitsProcessor):
            monkeypatch.setattr(
                processor, "set_begin_index", lambda own, index: setattr(own, "begin_index", index - num_begun)
            )

    def __call__(self, clip: PCM16, prompt: Prompt | None) -> tuple[int, ...]:
        """Returns the ids behind the prefix, without the end token."""
        before = [*self._tokens.previous_text(prompt), *self._tokens.prompt("en", timestamps=self._timed)]
        given = torch.tensor([[*before, *self._prefix]])
        model: Any = self._recognizer._model.module
        model.generation_config.max_length = self._max_new_tokens  # generate adds the length of the input
        with torch.inference_mode():
            ids = model.generate(
                self._recognizer._features([clip]),
                decoder_input_ids=given,
                return_timestamps=self._timed,
                num_beams=1,
                do_sample=False,
                force_unique_generate_call=True,
            )[0].tolist()[given.shape[1] :]
        return tuple(ids[: ids.index(self._tokens.eot)] if self._tokens.eot in ids else ids)


@pytest.mark.parametrize(
    ("timestamps", "prefix"),
    [
        ("segment", "He began a"),
        pytest.param("none", "He began a", marks=pytest.mark.slow),
        pytest.param("segment", "And", marks=pytest.mark.slow),
    ],
)
def test_a_prefix_is_continued_as_by_generate(
    whisper_tiny_en: Path, clips: list[PCM16], monkeypatch: pytest.MonkeyPatch, timestamps: str, prefix: str
) -> None:
    options = replace(EXACT, timestamps=timestamps, prefix=prefix, max_new_tokens=12)
    clips = [clips[0], clips[1][:25_000]]
    ours = transcribe(NativeRecognizer(whisper_tiny_en, options), clips, PROMPTS[:2])
    generate = PrefixedGenerate(whisper_tiny_en, options, monkeypatch)
    for mine, clip, prompt in zip(ours, clips, PROMPTS, strict=False):
        theirs = generate(clip, prompt)
        assert mine.tokens is not None
        assert mine.tokens[: len(theirs)] == theirs, "what follows is a further pass over the rest of the chunk"
    assert not ours[0].text.startswith(prefix)
