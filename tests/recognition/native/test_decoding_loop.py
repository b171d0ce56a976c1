"""The decoding loop as on a GPU, on a CPU: recording and the kernel are replaced by what they compute."""

import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native import (
    batch_state,
    beam_search,
    best_of,
    decoding_loop,
    hypotheses_loop,
    kv_cache,
    logits_rules,
    prompt_batches,
    repetition_rules,
    slot_loop,
)
from distil_ray.recognition.native import decoder as decoder_module
from distil_ray.recognition.native.alignment import Aligner
from distil_ray.recognition.native.attention import reference_attention
from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.decoding_task import AlignmentLevel, DecodingStats, DecodingTask
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.recognition.native.logits_rules import LogitsRules
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.native.scheduler import GPU_POLICY, TaskGroup
from distil_ray.recognition.native.slot_loop import LoopParts, SlotLoop
from distil_ray.types import Hypothesis
from distil_ray.whisper.features import LogMel, StagedBatch
from tests.support.clips import load_samples
from tests.whisper.small import VOCAB_SIZE, small_tokens

SIZES: dict[str, Any] = {
    "d_model": 128,
    "attn_implementation": "sdpa",
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 512,
    "decoder_ffn_dim": 512,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "decoder_start_token_id": 0,
}


OPTIONS = RecognizerOptions(dtype="float32", batch_size=4, window="gated")


@pytest.fixture(scope="module")
def clips() -> list[PCM16]:
    """Five clips of up to 5 s, and the first second of one."""
    names = ("librispeech-61", "austen-0880-8khz", "cards-005", "austen-0930", "cards-003")
    found = [load_samples(name) for name in names]
    return [*found, found[0][:16_000]]


@pytest.fixture(scope="module")
def exact(whisper_tiny_en: Path, clips: list[PCM16]) -> list[Hypothesis]:
    """What a CPU makes of them."""
    return english(NativeRecognizer(whisper_tiny_en, OPTIONS), clips)


@pytest.fixture
def gpu_pace(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The loop works as on a GPU. Recording and replaying are listed, and replayed steps run as they are."""
    events: list[str] = []

    def record(work: Callable[[], None]) -> Callable[[], None]:
        events.append("recorded")

        def replay() -> None:
            events.append("replayed")
            work()

        return replay

    monkeypatch.setattr(slot_loop, "policy_for", lambda device: GPU_POLICY)
    monkeypatch.setattr("distil_ray.recognition.native.recognizer.recorder_factory", lambda device: lambda: record)
    return events


@pytest.fixture
def copied_numbers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines that assign a number to what a tensor of indices selects, or to one element.

    On a GPU torch copies such a number to the device, and waits for all work before it. A slice is filled instead.
    """
    lines: list[str] = []
    assign = torch.Tensor.__setitem__

    def note(tensor: torch.Tensor, index: Any, value: Any) -> None:
        indices = index if isinstance(index, tuple) else (index,)
        is_copied = tensor[index].ndim == 0 or any(isinstance(each, torch.Tensor) for each in indices)
        if isinstance(value, (bool, int, float)) and is_copied:
            lines.append(str(traceback.extract_stack(limit=2)[0]))
        assign(tensor, index, value)

    monkeypatch.setattr(torch.Tensor, "__setitem__", note)
    return lines


def english(recognizer: NativeRecognizer, clips: list[PCM16]) -> list[Hypothesis]:
    return recognizer.transcribe(clips, ["en"] * len(clips))


def assert_same_texts(mine: list[Hypothesis], others: list[Hypothesis]) -> None:
    assert [each.tokens for each in mine] == [each.tokens for each in others]
    assert [each.quality_flags for each in mine] == [each.quality_flags for each in others]
    assert [each.avg_logprob for each in mine] == pytest.approx(
        [each.avg_logprob for each in others], rel=1e-5, abs=1e-4
    )


@pytest.mark.parametrize("kernel", [None, reference_attention], ids=["products", "kernel"])
def test_padded_recorded_steps_with_few_polls_change_no_text(
    whisper_tiny_en: Path,
    clips: list[PCM16],
    exact: list[Hypothesis],
    gpu_pace: list[str],
    monkeypatch: pytest.MonkeyPatch,
    kernel: Callable[..., torch.Tensor] | None,
) -> None:
    """Six chunks of several window lengths in four slots: sent ahead, padded, ended up to eight tokens late."""
    monkeypatch.setattr(decoder_module, "choose_single_query_attention", lambda *_: (kernel, None))
    ahead = NativeRecognizer(whisper_tiny_en, replace(OPTIONS, self_check=False))
    assert_same_texts(english(ahead, clips), exact)
    assert gpu_pace.count("replayed") > gpu_pace.count("recorded") > 0


def test_a_repetition_found_while_the_device_works_is_truncated_where_it_ends(
    whisper_tiny_en: Path, clips: list[PCM16], gpu_pace: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every text counts as a loop from its sixteenth token on: rows end there, not where the host saw it."""
    monkeypatch.setattr(
        "distil_ray.recognition.native.recognizer.has_repetition_loop", lambda tokens: len(tokens) >= 16
    )
    monkeypatch.setattr("distil_ray.recognition.native.fallback.needs_full_window", lambda *_: False)
    ahead = NativeRecognizer(whisper_tiny_en, OPTIONS)
    rules = ahead._loops.parts.rules
    for suppressed in (rules._suppressed, rules._suppressed_first):
        suppressed[ahead._tokens.eot] = float("-inf")  # else they would end by themselves
    found = english(ahead, clips)
    assert {len(each.tokens) for each in found} == {16}
    assert ahead.stats.steps <= 2 * (16 + 2 * 8), "in each of two turns a row takes two more polls, at most"


@pytest.mark.parametrize(
    ("timestamps", "temperature", "ngram_size", "num_texts"),
    [(False, 0.0, 0, 1), (True, 0.4, 3, 1), (True, 0.0, 3, 3), (True, 0.4, 0, 3)],
)
def test_nothing_but_the_poll_waits_for_the_device(
    monkeypatch: pytest.MonkeyPatch,
    copied_numbers: list[str],
    timestamps: bool,
    temperature: float,
    ngram_size: int,
    num_texts: int,
) -> None:
    """On a device without data, where whatever asks for some fails: chunks admitted, passed on, moved, cut."""
    device = torch.device("meta")
    one_text, several = (decoding_loop, batch_state), (slot_loop, beam_search, best_of)
    for module in (kv_cache, prompt_batches, logits_rules, repetition_rules, *one_text, *several):
        monkeypatch.setattr(module, "copy_async", lambda values, device: torch.tensor(values, device=device))
    tokens, pcm = small_tokens(), np.zeros(80_000, np.int16)
    model: Any = WhisperForConditionalGeneration(WhisperConfig(**SIZES, vocab_size=VOCAB_SIZE, num_mel_bins=80))
    model.to(torch.bfloat16).to(device)
    encoder, log_mel = Encoder(model), LogMel(80, device)
    encoder.add_silence_context()
    rules = LogitsRules(
        tokens, VOCAB_SIZE, timestamps, device, repetition_penalty=1.0 + ngram_size, no_repeat_ngram_size=ngram_size
    )
    decoder = Decoder(model)
    aligner = Aligner(decoder, [(0, 0)], 7, tokens.eot)
    parts = LoopParts(
        encoder, decoder, rules, log_mel, tokens, DecodingStats(), aligner, lambda *_: AlignmentLevel.NONE
    )
    cache = decoder.new_cache(16, num_texts)
    loop: SlotLoop
    if num_texts == 1:
        loop = decoding_loop.DecodingLoop(parts, cache, print)
    elif temperature == 0.0:
        loop = hypotheses_loop.BeamLoop(parts, cache, RecognizerOptions(num_beams=num_texts))
    else:
        loop = hypotheses_loop.BestOfLoop(parts, cache, num_texts)
    monkeypatch.setattr(TaskGroup, "stage", lambda group, _: StagedBatch(torch.zeros(4, 82_000, device=device), 600))
    tasks = [DecodingTask(i, pcm, tokens.prompt("en"), 600, 30, temperature=temperature) for i in range(8)]
    tasks[5:] = [replace(each, prompt=(tokens.sot_prev, 5, *each.prompt), num_previous=2) for each in tasks[5:]]
    tasks[7:] = [replace(each, num_begun=1) for each in tasks[7:]]
    copied_numbers.clear()  # loading may wait
    with torch.inference_mode():
        loop._admit([TaskGroup(tasks[:4]), TaskGroup(tasks[4:])], list(range(16)))
        loop._run_steps()
        loop._slots.release([0])
        loop._compact_slots()
        loop._rows.truncate(3, 5)
        loop._run_steps()
        assert copied_numbers == []
        with pytest.raises(NotImplementedError, match="no data"):
            loop._poll_finished()
