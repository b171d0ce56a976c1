"""Beam search and several samples in the decoding loop: real speech, beside transformers' `generate`."""

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import torch
from transformers import GenerationMixin, WhisperFeatureExtractor, WhisperForConditionalGeneration

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native import slot_loop
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.native.scheduler import GPU_POLICY
from distil_ray.recognition.transformers_recognizer import TransformersRecognizer
from distil_ray.types import Hypothesis, Prompt
from tests.support.clips import load_samples

EOT, NO_TIMESTAMPS = 50256, 50362  # of English-only checkpoints
BEAMS = RecognizerOptions(dtype="float32", batch_size=3, threads=1, num_beams=5)


@pytest.fixture(scope="module")
def clips() -> list[PCM16]:
    """Four clips of English speech, 0.5 to 4 s; two of them cut short in a word."""
    found = [load_samples(name) for name in ("librispeech-61", "austen-0890", "cards-005", "austen-0930")]
    return [found[0][:9_000], found[1][:25_000], *found[2:]]


def english(recognizer: NativeRecognizer | TransformersRecognizer, clips: list[PCM16]) -> list[Hypothesis]:
    return recognizer.transcribe(clips, ["en"] * len(clips))


def assert_same(ours: list[Hypothesis], theirs: list[Hypothesis]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.tokens == other.tokens
        assert mine.segments == other.segments
        assert mine.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-4)
        assert mine.no_speech_prob == pytest.approx(other.no_speech_prob, abs=1e-4)
        for word, same in zip(mine.words or (), other.words or (), strict=True):
            assert (word.text, word.start_s, word.end_s) == (same.text, same.start_s, same.end_s)
            assert word.probability == pytest.approx(same.probability, abs=1e-4)


def test_tokens_equal_generate_in_any_order(whisper_tiny_en: Path, clips: list[PCM16]) -> None:
    """Three chunks in two slots: one takes the place of another that has ended."""
    clips = [*clips[:2], clips[3]]
    reference = english(TransformersRecognizer(whisper_tiny_en, BEAMS), clips)
    greedy = english(NativeRecognizer(whisper_tiny_en, replace(BEAMS, num_beams=1)), clips)
    assert [each.tokens for each in greedy] != [each.tokens for each in reference]
    order = random.Random(1).sample(range(len(clips)), len(clips))
    native = NativeRecognizer(whisper_tiny_en, replace(BEAMS, batch_size=2))
    assert_same(english(native, [clips[i] for i in order]), [reference[i] for i in order])


@pytest.mark.slow
@pytest.mark.parametrize("timestamps", ["none", "segment", "word"])
@pytest.mark.parametrize(("num_beams", "penalty"), [(2, 1.0), (4, 0.3), (5, 2.0)])
def test_times_and_penalties_equal_generate(
    whisper_tiny_en: Path, clips: list[PCM16], timestamps: str, num_beams: int, penalty: float
) -> None:
    options = replace(BEAMS, timestamps=timestamps, num_beams=num_beams, length_penalty=penalty)
    speech = [*clips[2:], load_samples("sonnet-1")[:400_000]]  # the last one takes several passes
    native, reference = NativeRecognizer(whisper_tiny_en, options), TransformersRecognizer(whisper_tiny_en, options)
    assert_same(english(native, speech), english(reference, speech))


@pytest.mark.slow
def test_a_multilingual_checkpoint_equals_generate(whisper_base: Path) -> None:
    options = replace(BEAMS, timestamps="segment")
    native, reference = NativeRecognizer(whisper_base, options), TransformersRecognizer(whisper_base, options)
    speech, languages = [load_samples("mandarin"), load_samples("spanish")], ["zh", "es"]
    assert_same(native.transcribe(speech, languages), reference.transcribe(speech, languages))


@pytest.mark.slow
def test_windows_of_a_section_equal_the_long_form_of_generate(whisper_tiny_en: Path) -> None:
    pcm = load_samples("sonnet-1")
    options = replace(BEAMS, num_beams=2, timestamps="segment", long_form=True, no_speech_threshold=None)
    (windows,) = NativeRecognizer(whisper_tiny_en, options).transcribe_sections([pcm], ["en"])
    model: Any = WhisperForConditionalGeneration.from_pretrained(whisper_tiny_en, dtype=torch.float32)
    features = WhisperFeatureExtractor.from_pretrained(whisper_tiny_en)(
        pcm.astype(np.float32) / 32768,
        sampling_rate=16_000,
        truncation=False,
        padding="longest",
        return_attention_mask=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        generated = model.generate(**features, num_beams=2, return_timestamps=True, return_segments=True)
    assert len(windows) > 2
    theirs = [int(token) for segment in generated["segments"][0] for token in segment["tokens"]]
    assert [token for window in windows for token in window.hypothesis.tokens] == theirs


@pytest.mark.slow
def test_a_limit_of_tokens_equals_generate(whisper_tiny_en: Path, clips: list[PCM16]) -> None:
    options = replace(BEAMS, max_new_tokens=6, num_beams=2)
    native, reference = NativeRecognizer(whisper_tiny_en, options), TransformersRecognizer(whisper_tiny_en, options)
    ours = english(native, clips[1:3])
    assert_same(ours, english(reference, clips[1:3]))
    assert ours[0].quality_flags == ("max_tokens_reached",)


def test_minimum_bayes_risk_selects_among_the_texts_that_generate_returns(
    whisper_tiny_en: Path, clips: list[PCM16]
) -> None:
    """The texts, their probabilities and the edit distances come from elsewhere."""
    options = replace(BEAMS, beam_selection="minimum_bayes_risk")
    clips = clips[:2]  # the others take four seconds each
    found = english(NativeRecognizer(whisper_tiny_en, options), clips)
    assert english(NativeRecognizer(whisper_tiny_en, replace(options, batch_size=1)), clips) == found
    model: Any = WhisperForConditionalGeneration.from_pretrained(whisper_tiny_en, dtype=torch.float32)
    extract = WhisperFeatureExtractor.from_pretrained(whisper_tiny_en)
    selected = []
    for pcm, hypothesis in zip(clips, found, strict=True):
        features = extract(pcm.astype(np.float32) / 32768, sampling_rate=16_000, return_tensors="pt").input_features
        with torch.no_grad():
            encoded = model.model.encoder(features)
            texts: Any = GenerationMixin.generate(  # Whisper's own one returns the best text five times
                model,
                encoder_outputs=encoded,
                decoder_input_ids=torch.tensor([[EOT + 1, NO_TIMESTAMPS]]),
                num_beams=5,
                num_return_sequences=5,
                early_stopping=False,
            )
        written = [[token for token in text if token < EOT] for text in texts.tolist()]
        weights = [math.exp(_logprob(model, encoded, text)) for text in written]
        risks = [
            sum(weight * _num_edits(one, two) for two, weight in zip(written, weights, strict=True)) for one in written
        ]
        chosen = risks.index(min(risks))
        assert list(hypothesis.tokens) == written[chosen]
        selected.append(chosen)
    assert any(selected)  # not always the text with the best score


def _logprob(model: Any, encoded: Any, text: list[int]) -> float:
    """Returns the log-probability of a text among those that the decoding rules allow."""
    prompt, config = [EOT + 1, NO_TIMESTAMPS], model.generation_config
    with torch.no_grad():
        ids = torch.tensor([[*prompt, *text]])
        logits = model(encoder_outputs=encoded, decoder_input_ids=ids).logits[0, 1:].double()
    logits[:, config.suppress_tokens] = float("-inf")
    logits[0, config.begin_suppress_tokens] = float("-inf")
    steps = logits.log_softmax(dim=-1)
    return float(sum(step[token] for step, token in zip(steps, [*text, EOT], strict=True)))


def _num_edits(one: list[int], two: list[int]) -> int:
    """Returns the edit distance of tokens, as that of words that stand for them."""
    aligned = jiwer.process_words(" ".join(map(str, one)), " ".join(map(str, two)))
    return aligned.substitutions + aligned.deletions + aligned.insertions


@pytest.fixture(scope="module")
def gated(whisper_tiny_en: Path, clips: list[PCM16]) -> list[Hypothesis]:
    """Chunks in windows of their own lengths, one at a time."""
    return english(NativeRecognizer(whisper_tiny_en, replace(BEAMS, batch_size=1, window="gated")), clips)


def test_every_number_is_the_same_to_the_bit_whatever_else_is_in_the_batch(
    whisper_tiny_en: Path, clips: list[PCM16], gated: list[Hypothesis]
) -> None:
    together = NativeRecognizer(whisper_tiny_en, replace(BEAMS, batch_size=16, window="gated"))
    assert english(together, clips[::-1])[::-1] == gated
    assert len({hypothesis.window_s for hypothesis in gated}) > 2


def test_with_few_polls_no_text_changes(
    whisper_tiny_en: Path, clips: list[PCM16], gated: list[Hypothesis], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: rows end up to eight steps before the host sees it."""
    monkeypatch.setattr(slot_loop, "policy_for", lambda device: GPU_POLICY)
    ahead = NativeRecognizer(whisper_tiny_en, replace(BEAMS, window="gated"))
    assert [each.tokens for each in english(ahead, clips)] == [each.tokens for each in gated]


@pytest.mark.slow
def test_prompts_of_different_lengths_share_a_batch(whisper_tiny_en: Path, clips: list[PCM16]) -> None:
    prompts = [Prompt("Spades, hearts, clubs and diamonds."), None, Prompt("A novel by Jane Austen. " * 4)]
    chunks, options = clips[1:], replace(BEAMS, num_beams=2, window="gated")
    together, alone = (NativeRecognizer(whisper_tiny_en, replace(options, batch_size=size)) for size in (3, 1))
    found = together.transcribe(chunks, ["en"] * 3, None, prompts)
    assert found == [
        alone.transcribe([chunk], ["en"], None, [prompt])[0] for chunk, prompt in zip(chunks, prompts, strict=True)
    ]


def test_a_repetitive_beam_ends_a_short_window(
    whisper_tiny_en: Path, clips: list[PCM16], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def is_repetitive(tokens: list[int]) -> bool:
        seen.append(len(tokens))
        return len(tokens) >= 8

    monkeypatch.setattr("distil_ray.recognition.native.recognizer.has_repetition_loop", is_repetitive)
    recognizer = NativeRecognizer(whisper_tiny_en, replace(BEAMS, window="gated", num_beams=2))
    (found,) = english(recognizer, clips[3:4])
    assert seen == [8]
    assert found.window_s == 30.0 and "redecoded" in found.quality_flags


@pytest.fixture(scope="module")
def noise() -> PCM16:
    """Noise of which a text is unlikely at every temperature."""
    return (np.random.default_rng(0).standard_normal(48_000) * 3000).astype(np.int16)


def test_a_chunk_that_fails_with_beams_is_sampled(whisper_tiny_en: Path, noise: PCM16, clips: list[PCM16]) -> None:
    """The most likely of several samples, the same in every batch; and the first of them is that of a single one."""
    options = replace(
        BEAMS,
        num_beams=2,
        max_new_tokens=12,
        temperatures=(0.0, 1.0),
        logprob_threshold=-0.01,
        no_speech_threshold=None,
    )
    chunks = [noise, clips[0]]
    several, single = (
        english(NativeRecognizer(whisper_tiny_en, replace(options, best_of=number)), chunks) for number in (4, 1)
    )
    alone = NativeRecognizer(whisper_tiny_en, replace(options, best_of=4, batch_size=1))
    assert english(alone, chunks[:1]) == several[:1]
    assert {each.temperature for each in (*several, *single)} == {1.0}
    for best, one in zip(several, single, strict=True):
        assert (best.avg_logprob or 0.0) >= (one.avg_logprob or 0.0) - 1e-6
    assert [each.tokens for each in several] != [each.tokens for each in single]


@pytest.mark.parametrize("best_of", [1, 2])
def test_the_window_after_a_sampled_one_is_decoded_with_beams(
    small_checkpoint: Path, noise: PCM16, monkeypatch: pytest.MonkeyPatch, best_of: int
) -> None:
    section = np.tile(noise, 13)  # 39 s: with so few tokens, the second window begins at 30 s
    options = replace(BEAMS, timestamps="segment", long_form=True, no_speech_threshold=None, max_new_tokens=3)
    searched, greedy = (
        NativeRecognizer(small_checkpoint, replace(options, num_beams=number)).transcribe_sections([section], ["en"])[0]
        for number in (5, 1)
    )
    is_sampled = iter([True, False, False])
    monkeypatch.setattr(
        "distil_ray.recognition.native.recognizer.needs_higher_temperature", lambda *_: next(is_sampled)
    )
    sampling = replace(options, temperatures=(0.0, 1.0), best_of=best_of)
    (sampled,) = NativeRecognizer(small_checkpoint, sampling).transcribe_sections([section], ["en"])
    assert [each.hypothesis.temperature for each in sampled] == [1.0, 0.0]
    assert sampled[1] == searched[1]
    assert sampled[1].hypothesis.tokens != greedy[1].hypothesis.tokens


def test_an_assistant_and_beams_exclude_each_other(whisper_tiny_en: Path) -> None:
    with pytest.raises(ValueError, match="an assistant drafts for greedy decoding only"):
        NativeRecognizer(whisper_tiny_en, BEAMS, whisper_tiny_en)
