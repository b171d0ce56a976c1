"""What a GPU is given: the same work, here on a CPU, with recording and the kernel replaced by what they mean."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import WhisperConfig, WhisperForConditionalGeneration

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native import batch_state, decoding_loop, kv_cache
from distil_ray.recognition.native.alignment import Aligner
from distil_ray.recognition.native.attention import choose_single_query_attention, reference_attention
from distil_ray.recognition.native.cuda_graphs import GraphRunner
from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.decoding_task import AlignmentLevel, DecodingStats, DecodingTask
from distil_ray.recognition.native.device import choose_slots, is_out_of_memory
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.recognition.native.logits_rules import LogitsRules
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.native.scheduler import GPU_POLICY, StepShape, TaskGroup, group_tasks, pop_groups
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
LARGEST = StepShape(
    rows=40, text_positions=464, encoder_positions=1504, is_ragged=True, prompt_length=0, is_sampled=False
)


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
    """The loop works as on a GPU; recorded passes are told by what they were recorded as, and done as they are."""
    told: list[str] = []

    def record(work: Callable[[], None]) -> Callable[[], None]:
        told.append("recorded")

        def replay() -> None:
            told.append("replayed")
            work()

        return replay

    monkeypatch.setattr(decoding_loop, "policy_for", lambda device: GPU_POLICY)
    monkeypatch.setattr(decoding_loop, "create_recorder", lambda device: record)
    return told


def english(recognizer: NativeRecognizer, clips: list[PCM16]) -> list[Hypothesis]:
    return recognizer.transcribe(clips, ["en"] * len(clips))


def assert_same_texts(mine: list[Hypothesis], others: list[Hypothesis]) -> None:
    assert [each.tokens for each in mine] == [each.tokens for each in others]
    assert [each.quality_flags for each in mine] == [each.quality_flags for each in others]
    assert [each.avg_logprob for each in mine] == pytest.approx(
        [each.avg_logprob for each in others], rel=1e-5, abs=1e-4
    )


@pytest.mark.parametrize("kernel", [None, reference_attention], ids=["products", "kernel"])
def test_padded_passes_that_are_recorded_and_seldom_looked_at_change_no_text(
    whisper_tiny_en: Path,
    clips: list[PCM16],
    exact: list[Hypothesis],
    gpu_pace: list[str],
    monkeypatch: pytest.MonkeyPatch,
    kernel: Callable[..., torch.Tensor] | None,
) -> None:
    """Six chunks of several window lengths in four slots: sent ahead, padded, ended up to eight tokens late."""
    ahead = NativeRecognizer(whisper_tiny_en, OPTIONS)
    monkeypatch.setattr(ahead._decoder, "_single_query_attention", kernel)
    assert_same_texts(english(ahead, clips), exact)
    assert gpu_pace.count("replayed") > gpu_pace.count("recorded") > 0


def test_a_loop_found_while_the_device_works_on_is_cut_where_it_ends(
    whisper_tiny_en: Path, clips: list[PCM16], gpu_pace: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every text counts as a loop from its sixteenth token on: rows end there, not where the host saw it."""
    monkeypatch.setattr(
        "distil_ray.recognition.native.recognizer.has_repetition_loop", lambda tokens: len(tokens) >= 16
    )
    monkeypatch.setattr("distil_ray.recognition.native.fallback.needs_full_window", lambda *_: False)
    ahead = NativeRecognizer(whisper_tiny_en, OPTIONS)
    for rules in (ahead._rules._suppressed, ahead._rules._suppressed_first):
        rules[ahead._tokens.eot] = float("-inf")  # else they would end by themselves
    found = english(ahead, clips)
    assert {len(each.tokens) for each in found} == {16}
    assert ahead.stats.steps <= 2 * (16 + 2 * 8), "in either of two turns a row takes two looks more, at most"


@pytest.mark.parametrize(("timestamps", "temperature"), [(False, 0.0), (True, 0.4)])
def test_nothing_but_the_look_waits_for_the_device(
    monkeypatch: pytest.MonkeyPatch, timestamps: bool, temperature: float
) -> None:
    """On a device without data, where whatever asks for some fails: chunks admitted, passed on, moved, cut."""
    device = torch.device("meta")
    for module in (kv_cache, decoding_loop, batch_state):
        monkeypatch.setattr(module, "copy_async", lambda values, device: torch.tensor(values, device=device))
    tokens, pcm = small_tokens(), np.zeros(80_000, np.int16)
    model: Any = WhisperForConditionalGeneration(WhisperConfig(**SIZES, vocab_size=VOCAB_SIZE, num_mel_bins=80))
    model.to(torch.bfloat16).to(device)
    encoder, log_mel = Encoder(model), LogMel(80, device)
    encoder.add_silence_context()
    rules = LogitsRules(tokens, VOCAB_SIZE, timestamps, device)
    decoder = Decoder(model)
    loop = decoding_loop.DecodingLoop(
        encoder,
        decoder,
        rules,
        log_mel,
        tokens,
        slots=16,
        stats=DecodingStats(),
        warn=print,
        aligner=Aligner(decoder, [(0, 0)], 7, tokens.eot),
        alignment_for=lambda *_: AlignmentLevel.NONE,
    )
    monkeypatch.setattr(TaskGroup, "stage", lambda group, _: StagedBatch(torch.zeros(4, 82_000, device=device), 600))
    tasks = [DecodingTask(i, pcm, tokens.prompt("en"), 600, 30, temperature=temperature) for i in range(8)]
    with torch.inference_mode():
        loop._admit([TaskGroup(tasks[:4]), TaskGroup(tasks[4:])], list(range(16)))
        loop._run_steps(0)
        loop._slots.release([0])
        loop._compact_slots()
        loop._state.truncate(3, 5)
        loop._run_steps(0)
        with pytest.raises(NotImplementedError, match="no data"):
            loop._poll_finished()


def test_the_first_pass_of_a_shape_is_done_the_second_recorded_the_third_replayed() -> None:
    done: list[str] = []
    graphs = GraphRunner(lambda work: lambda: done.append("replay"), done.append)
    for shape in (1, 1, 2, 1, 2):
        graphs.run(shape, lambda: done.append("work"))
    assert done == ["work", "replay", "work", "replay", "replay"]


def test_a_pass_that_cannot_be_recorded_is_done_and_the_reason_is_told() -> None:
    done, warnings = list[int](), list[str]()

    def refuse(work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    graphs = GraphRunner(refuse, warnings.append)
    for _ in range(4):
        graphs.run("shape", lambda: done.append(1))
    assert len(done) == 4
    assert len(warnings) == 1 and "operation not permitted when stream is capturing)" in warnings[0]


def test_the_first_cause_is_told_where_ending_a_recording_fails_too() -> None:
    warnings = list[str]()

    def refuse(work: Callable[[], None]) -> Callable[[], None]:
        try:
            raise RuntimeError("cannot copy while recording")
        finally:
            raise RuntimeError("operation failed due to a previous error")

    graphs = GraphRunner(refuse, warnings.append)
    for _ in range(2):
        graphs.run("shape", lambda: None)
    assert len(warnings) == 1 and "(cannot copy while recording)" in warnings[0]


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_ends_in_several_words(error: Exception, is_full: bool) -> None:
    assert is_out_of_memory(error) is is_full


def test_memory_that_ends_while_recording_is_not_a_fault_of_recording() -> None:
    def full(work: Callable[[], None]) -> Callable[[], None]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    graphs = GraphRunner(full, print)
    graphs.run("shape", lambda: None)
    with pytest.raises(torch.OutOfMemoryError):
        graphs.run("shape", lambda: None)


@given(st.integers(1, 40), st.integers(1, 464), st.integers(1, 1504))
def test_a_padded_shape_holds_the_exact_one_and_padding_it_again_changes_nothing(
    rows: int, text: int, window: int
) -> None:
    exact = StepShape(rows, text, window, False, 4, True)
    padded = exact.padded(LARGEST, reads_by_length=False)
    assert padded.rows >= rows and padded.text_positions >= text and padded.encoder_positions >= window
    assert padded.rows <= max(8, 3 * rows // 2)
    assert padded.padded(LARGEST, reads_by_length=False) == padded
    by_length = exact.padded(LARGEST, reads_by_length=True)
    assert (by_length.text_positions, by_length.encoder_positions, by_length.rows) == (464, 1504, padded.rows)


@given(st.lists(st.sampled_from((200, 1600, 3000)), max_size=60), st.integers(1, 64), st.integers(1, 60_000))
def test_groups_hold_every_chunk_once_of_one_length_each_and_fit_into_what_is_free(
    frames: list[int], most: int, positions: int
) -> None:
    pcm = np.zeros(1, np.int16)
    groups = group_tasks([DecodingTask(i, pcm, (), length, 1) for i, length in enumerate(frames)], positions, most)
    assert sorted(task.index for group in groups for task in group.tasks) == list(range(len(frames)))
    for group in groups:
        assert len({task.num_frames for task in group.tasks}) == 1
        assert len(group.tasks) <= most
        assert len(group.tasks) == 1 or len(group.tasks) * group.num_frames // 2 <= positions
    num = len(frames)
    first = pop_groups(groups, most)
    assert not frames or 1 <= sum(len(group.tasks) for group in first) <= most
    assert sum(len(group.tasks) for group in (*first, *groups)) == num


def test_free_slots_are_filled_by_even_groups() -> None:
    """64 places for windows of 16 s, of which 48 would fit into the encoder at once: twice 32, not 48 and 16."""
    pcm = np.zeros(1, np.int16)
    groups = group_tasks([DecodingTask(i, pcm, (), 1600, 1) for i in range(64)], 48 * 800, 64)
    assert [len(group.tasks) for group in groups] == [32, 32]


def test_without_triton_a_gpu_gets_plain_products_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "distil_ray.recognition.native.triton_attention", raising=False)
    kernel, note = choose_single_query_attention(torch.device("cuda"), torch.bfloat16, 64)
    assert kernel is None
    assert note is not None and "plain products" in note and "triton" in note


INTERPRETED = """
import torch
from distil_ray.recognition.native.device import choose_slots
from distil_ray.recognition.native.logits_rules import Rules
from distil_ray.recognition.native.attention import TOLERANCE, trial
from distil_ray.recognition.native.triton_attention import attend

for dtype, tolerance in TOLERANCE.items():
    found = trial(attend, torch.device("cpu"), dtype, 64)
    assert found < tolerance, f"{dtype}: {found}"
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with torch's CUDA builds")
def test_the_kernel_gives_what_plain_products_give() -> None:
    """In Triton's interpreter, which has to be asked for before anything is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", INTERPRETED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("free_gib", "slots"), [(130, 216), (20, 32), (2, 3), (0.1, 1)])
def test_the_batch_follows_from_free_memory(monkeypatch: pytest.MonkeyPatch, free_gib: float, slots: int) -> None:
    """At large-v3's third of a GB a chunk; half of the memory stays free for the encoder."""
    free = int(free_gib * 2**30)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, free))
    found, note = choose_slots(None, torch.device("cuda"), 2 * 32 * 1280 * (464 + 1500) * 2)
    assert found == slots
    assert note is not None and f"{free_gib:.1f} GiB of free GPU memory" in note
