"""Training of a student: teacher, student decoder, data set, trainer and evaluation on real speech."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import WhisperConfig, WhisperForConditionalGeneration

from distil_ray.assistant_training import evaluation
from distil_ray.assistant_training import trainer as fitting
from distil_ray.assistant_training.dataset import Batch, Shards, collate, iter_batches_forever
from distil_ray.assistant_training.evaluation import compute_draft_metrics, correct_drafts, num_passes
from distil_ray.assistant_training.student_decoder import StudentDecoder
from distil_ray.assistant_training.teacher import Example, Teacher
from distil_ray.assistant_training.trainer import DistillationLoss, History, fit, loss_vocabulary
from distil_ray.config import AssistantConfig
from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native import speculation_cost
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.native.speculation_cost import SpeculationCosts
from distil_ray.recognition.native.speculative import draft_vocabulary
from distil_ray.whisper.student import create_student
from tests.assistant_training.factories import make_run
from tests.support.clips import load_samples

OPTIONS = RecognizerOptions(dtype="float32", window="gated", batch_size=4)
CLIPS = 4


@pytest.fixture(scope="module")
def teacher(whisper_tiny_en: Path) -> Teacher:
    return Teacher(whisper_tiny_en, OPTIONS, threads=1)


@pytest.fixture(scope="module")
def examples(whisper_tiny_en: Path, teacher: Teacher) -> list[Example]:
    """Returns examples of a few clips with the main model's own tokens."""
    pcm = [load_samples(name) for name in ("cards-003", "austen-0880-8khz", "austen-0930", "cards-005")]
    hypotheses = NativeRecognizer(whisper_tiny_en, OPTIONS).transcribe(pcm, ["en"] * len(pcm))
    audio_rows = [
        {"pcm": audio_row.tobytes(), "tokens": list(one.tokens), "window_s": one.window_s, "language": "en"}
        for audio_row, one in zip(pcm, hypotheses, strict=True)
    ]
    return list(teacher.make_examples(audio_rows))


def _drafted(teacher: Teacher) -> torch.Tensor:
    return draft_vocabulary(teacher.tokens, teacher.model.module.config.vocab_size)


def test_the_main_model_predicts_its_own_tokens_again(examples: list[Example], teacher: Teacher) -> None:
    assert len(examples) == CLIPS and teacher.agreement.share == 1.0
    for one in examples:
        assert one.top_ids[:, 0].tolist() == [*one.tokens, teacher.tokens.eot]
        assert one.top_probs.astype(np.float32).sum(axis=1).max() < 1.01
        assert one.window_positions < len(one.states)  # followed by subsampled silence


def test_student_decoder_and_drafting_decoder_have_the_same_logits(examples: list[Example], teacher: Teacher) -> None:
    """For a padded batch of texts of different lengths, with the same layers, masks and silence bias."""
    student = StudentDecoder(teacher.model.module, [0, 1, 2, 3]).eval()
    batch = collate(examples, teacher.tokens.eot).to(torch.device("cpu"), torch.float32)
    cache, slots = teacher.decoder.new_cache(len(examples)), torch.arange(len(examples))
    with torch.inference_mode():
        for slot, one in zip(slots, examples, strict=True):
            states = torch.from_numpy(one.states).float()[None]
            teacher.decoder.write_windows(states, cache, slot[None], one.window_positions)
        drafting = teacher.decoder.prefill(batch.ids, cache, slots, batch.states.shape[1]).flatten(0, 1)[
            batch.loss_indices
        ]
        trained = student(batch.ids, batch.states, batch.mask).flatten(0, 1)[batch.loss_indices]

    assert torch.allclose(drafting, trained, atol=1e-3)


def test_a_student_predicts_with_the_output_projection_of_its_main_model() -> None:
    sizes: dict[str, Any] = {"vocab_size": 300, "d_model": 16, "encoder_layers": 1, "decoder_layers": 2}
    heads: dict[str, Any] = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    for is_tied in (True, False):
        config = WhisperConfig(**sizes, **heads, pad_token_id=0, tie_word_embeddings=is_tied)
        module: Any = WhisperForConditionalGeneration(config)
        hidden, ids = torch.randn(3, 16), torch.tensor([4, 99, 250])
        expected = module.proj_out(hidden)[:, ids]
        assert torch.allclose(StudentDecoder(module, [0, 1]).logits(hidden, ids), expected, atol=1e-6)


def test_tokens_outside_of_the_draft_vocabulary_count_as_wrong(examples: list[Example], teacher: Teacher) -> None:
    student = StudentDecoder(teacher.model.module, [0, 1, 2, 3])
    few = torch.cat([torch.arange(1000), torch.arange(teacher.tokens.eot, teacher.model.module.config.vocab_size)])
    right, rarely = (correct_drafts(student, examples, teacher, ids) for ids in (_drafted(teacher), few))

    for one, mine, its in zip(examples, right, rarely, strict=True):
        targets = [*one.tokens[1:], teacher.tokens.eot]
        assert not any(its[index] for index, token in enumerate(targets) if 1000 <= token < teacher.tokens.eot)
        assert its.sum() <= mine.sum() <= len(targets)
    assert np.concatenate(right).mean() > 0.9


def test_a_chunk_whose_audio_has_changed_is_left_out(examples: list[Example], teacher: Teacher) -> None:
    noise = np.random.default_rng(0).integers(-3000, 3000, 48_000).astype(np.int16).tobytes()
    audio_row = {"pcm": noise, "tokens": list(examples[0].tokens), "window_s": 4.0, "language": "en"}
    before = teacher.agreement.chunks_left_out

    assert list(teacher.make_examples([audio_row])) == [] and teacher.agreement.chunks_left_out == before + 1


def test_examples_are_read_from_disk_unchanged_and_once_per_epoch(examples: list[Example], tmp_path: Path) -> None:
    shards = Shards(tmp_path / "states")
    shards.fill(iter([examples[:1], examples[1:]]))

    (first,), rest = shards.read()
    assert shards.is_complete
    for mine, its in zip([first, *rest], examples, strict=True):
        assert (mine.prompt, mine.tokens, mine.window_positions) == (its.prompt, its.tokens, its.window_positions)
        assert np.array_equal(mine.states, its.states) and np.array_equal(mine.top_ids, its.top_ids)

    batches = iter_batches_forever(shards.read, examples[0].audio_s * 2, seed=(0,), eot=50256)
    seconds, targets = 0.0, list[int]()
    while seconds < sum(one.audio_s for one in examples) - 1e-6:
        batch = next(batches)
        seconds += batch.audio_s
        targets += batch.target.tolist()
    assert sorted(targets) == sorted(token for one in examples for token in (*one.tokens, 50256))


def test_training_makes_a_student_agree_and_goes_on_from_a_checkpoint(
    examples: list[Example], teacher: Teacher, whisper_tiny_en: Path, tmp_path: Path
) -> None:
    student = StudentDecoder(teacher.model.module, [0, 3])
    drafted, tokens = _drafted(teacher), teacher.tokens
    before = compute_draft_metrics("", correct_drafts(student, examples, teacher, drafted), None).agreement
    ids = loss_vocabulary({token for one in examples for token in one.tokens}, tokens.eot, tokens.suppress)
    loss = DistillationLoss(ids, teacher.model.module.config.vocab_size, 0.8, 0.5)
    kept: list[dict[str, object]] = []

    def train(steps: int, state: dict[str, object] | None) -> History:
        def batches() -> Iterator[list[Example]]:
            return iter([examples])

        return fit(
            student,
            iter_batches_forever(lambda _: batches(), 60.0, (0,), tokens.eot),
            loss,
            AssistantConfig(steps=steps, learning_rate=1e-3),
            lambda: 0.5,
            lambda state, _: kept.append(state),
            state=state,
        )

    train(10, None)
    history = train(24, kept[-1])
    after = compute_draft_metrics("", correct_drafts(student, examples, teacher, drafted), None).agreement

    assert history.step == 24 and len(history.losses) == 24 and history.checks[-1][0] == 24
    assert history.has_decreased and after > before + 0.3

    create_student(whisper_tiny_en, tmp_path, 2, trained=student.checkpoint())
    from transformers import WhisperForConditionalGeneration

    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    ours = StudentDecoder(loaded, [0, 1])
    assert all(torch.equal(mine, its) for mine, its in zip(ours.parameters(), student.parameters(), strict=True))


def test_the_current_assistant_is_evaluated_with_the_costs_of_its_own_passes(
    examples: list[Example], teacher: Teacher, whisper_tiny_en: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(decoder: Any, rows: int, positions: int, columns: Sequence[int]) -> tuple[float, dict[int, float]]:
        is_main = decoder is teacher.decoder
        passes.append(is_main)
        return 0.0, dict.fromkeys(columns, 1.0 if is_main else 0.1 * len(decoder._layers))

    passes: list[bool] = []
    monkeypatch.setattr(speculation_cost, "_measure_decoder", timed)
    monkeypatch.setattr(evaluation, "compute_word_errors", lambda *_: {})
    (current_assistant := tmp_path / "two").mkdir()
    create_student(whisper_tiny_en, current_assistant, 2)
    evaluate = evaluation.StudentEvaluator(make_run(f"assistant.uri={tmp_path}"), teacher, [], examples)

    student = StudentDecoder(teacher.model.module, [0, 1, 2, 3])
    figures = evaluate.evaluate(student, History(), "four", str(current_assistant))

    new, before = figures["assistants"]
    assert (figures["layers"], figures["compared_with"]) == (4, str(current_assistant))
    assert passes == [True, False, False]  # the main model is timed once
    for metrics, layers in ((new, 4), (before, 2)):
        gain = max(kept / (1 + 0.1 * layers * drafts) for drafts, kept in metrics["tokens_per_pass"].items())
        assert metrics["speed_up"] == pytest.approx(gain)


class _Clock(threading.local):
    """A separate clock for each thread; a thread simulates a process."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class _LinearStudent(torch.nn.Module):
    """A minimal model in place of a student."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = torch.eye(2)
        self.weight = torch.nn.Parameter(torch.ones(2, 2))

    def forward(self, ids: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return self.weight[ids]

    def logits(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return hidden[:, ids]


def test_checks_take_at_most_a_fifth_of_the_time_and_happen_at_the_same_step_in_all_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, barrier, calls = _Clock(), threading.Barrier(2, timeout=20), list[tuple[float, float]]()
    monkeypatch.setattr(fitting, "time", clock)
    zeros = torch.zeros(1, 1, dtype=torch.long)
    batch = Batch(zeros, zeros, zeros, zeros[0], zeros[0], zeros, torch.ones(1, 1), audio_s=1.0)
    settings = AssistantConfig(steps=10_000, budget_s=1000, eval_interval_s=10)

    def all_reduce_min(number: float) -> float:
        calls.append((number, clock.now))
        barrier.wait()
        numbers, times = zip(*calls[-2:], strict=True)
        barrier.wait()
        clock.now = max(times)  # the faster process waits
        return float(min(numbers))

    def run(rank: int) -> History:
        def batches() -> Iterator[Batch]:
            while True:
                clock.now += 1 + 0.3 * rank
                yield batch

        def check() -> float:
            clock.now += 50 * (rank == 0)  # only the first process has held-out audio
            return 0.5

        student: Any = _LinearStudent()
        loss = DistillationLoss(torch.arange(2), 2, 0.8, 0.5)
        return fit(student, batches(), loss, settings, check, lambda *_: None, all_reduce_min=all_reduce_min)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))

    assert first.checks == second.checks
    num_checks = len(first.checks) - 1  # without the final one
    assert num_checks >= 3 and 50 * num_checks <= 0.2 * first.elapsed_s


def test_a_loss_that_does_not_decrease_is_detected() -> None:
    def history(*losses: float) -> History:
        return History(losses=list(enumerate(losses, 1)))

    assert history(9.0, 8.0, 7.0).has_decreased
    for failed in (history(9.0, 30.0, 12.0), history(9.0), history(9.0, float("nan")), history()):
        assert not failed.has_decreased


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 8))
def test_a_pass_accepts_drafts_up_to_the_first_wrong_one(right: list[bool], drafts: int) -> None:
    passes, left = 0, list(right)
    while left:
        passes += 1
        for _ in range(drafts):
            if not left or not left.pop(0):
                break
        else:
            left = left[1:]  # the main model's own token after the drafts

    assert num_passes(np.array(right), drafts) == passes


def test_the_best_number_of_drafts_depends_on_the_costs_of_passes() -> None:
    right = [np.array([True, True, False] * 6)]
    free = SpeculationCosts(0.0, dict.fromkeys(range(1, 10), 1.0), 0.0, 0.0)
    expensive = SpeculationCosts(0.0, {columns: float(columns) for columns in range(1, 10)}, 0.0, 1.0)

    assert compute_draft_metrics("", right, free).speed_up == pytest.approx(3.0)
    best = compute_draft_metrics("", right, expensive)
    assert best.best_drafts == 2 and best.speed_up is not None and best.speed_up < 1
