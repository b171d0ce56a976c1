"""A training process: errors of missing audio, and which shards are deleted from the disk."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from distil_ray.assistant_training import worker
from distil_ray.assistant_training.dataset import Batch
from distil_ray.assistant_training.teacher import Agreement, Example
from distil_ray.assistant_training.trainer import History
from distil_ray.assistant_training.worker import TrainingSpec, WorkerGroup
from distil_ray.errors import DistilRayError, ErrorKind, SettingsError
from distil_ray.storage.storage_errors import StorageError
from tests.assistant_training.factories import make_run

ALONE = WorkerGroup(on_status=lambda message: None, report=lambda figures, state: None)


def _assignment(folder: Path) -> TrainingSpec:
    return TrainingSpec(make_run(f"model.cache_dir={folder}"), "training", (1, 2), None, None)


def _teacher(*_: Any) -> Any:
    """Returns a teacher that makes no examples."""
    tokens = SimpleNamespace(eot=9, suppress=())
    model = SimpleNamespace(module=SimpleNamespace(config=SimpleNamespace(vocab_size=10)), device=torch.device("cpu"))
    return SimpleNamespace(tokens=tokens, model=model, agreement=Agreement(), make_examples=lambda audio_rows: iter(()))


def test_missing_held_out_audio_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="none of the audio of the transcripts can be read"):
        worker._make_evaluator(_assignment(tmp_path), _teacher(), lambda: iter(()), ALONE)


class _FakeEvaluator:
    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def evaluate(self, *_: Any) -> dict[str, Any]:
        if self._error is not None:
            raise self._error
        return {}


@pytest.mark.parametrize(
    ("losses", "error", "stays"),
    [
        ((2.0, 1.0), None, False),
        ((1.0, 2.0), None, False),  # the loss has not decreased, and would not in a retry
        (
            (2.0, 1.0),
            StorageError(ErrorKind.STORAGE, "the student could not be uploaded"),
            True,
        ),  # the same command resumes
    ],
)
def test_shards_are_kept_only_for_a_training_that_can_be_resumed(
    losses: tuple[float, ...],
    error: Exception | None,
    stays: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assignment = _assignment(tmp_path)
    monkeypatch.setattr(worker, "_fetch", lambda *_: tmp_path)
    monkeypatch.setattr(worker, "Teacher", _teacher)
    monkeypatch.setattr(worker, "_make_student", _teacher)
    monkeypatch.setattr(worker, "_make_evaluator", lambda *_: _FakeEvaluator(error))
    monkeypatch.setattr(worker, "_iter_examples", lambda *_: iter(()))
    monkeypatch.setattr(worker, "fit", lambda *_, **__: History(losses=list(enumerate(losses))))

    failed = False
    try:
        worker.train(assignment, lambda: iter(()), lambda: iter(()), ALONE)
    except DistilRayError:
        failed = True

    assert failed == (error is not None or losses[-1] > losses[0])
    assert worker._cache_folder(assignment).exists() == stays


def _example(token: int) -> Example:
    top = np.zeros((2, 1))
    states = np.zeros((50, 4), np.float16)  # of 1 s
    return Example(states, 50, 0.0, (1,), (token,), top.astype(np.int32), top.astype(np.float16))


def test_a_resumed_training_does_not_repeat_the_batches_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose corpus may take longer than the whole training. With the same seed each part is the same again."""
    examples = [_example(token) for token in range(100)]
    seen: list[tuple[int, ...]] = []

    def fit(_: Any, batches: Iterator[Batch], *__: Any, **___: Any) -> History:
        seen.append(tuple(int(next(batches).target[0]) for _ in examples))
        return History(losses=[(0, 2.0), (1, 1.0)])

    monkeypatch.setattr(worker, "_fetch", lambda *_: tmp_path)
    monkeypatch.setattr(worker, "Teacher", _teacher)
    monkeypatch.setattr(worker, "_make_student", _teacher)
    monkeypatch.setattr(worker, "_make_evaluator", lambda *_: _FakeEvaluator(None))
    monkeypatch.setattr(worker, "_example_source", lambda *_: lambda _: iter([examples]))
    monkeypatch.setattr(worker, "fit", fit)
    run = make_run(f"model.cache_dir={tmp_path}", "assistant.batch_audio_s=1")  # each example is a batch
    assignment = TrainingSpec(run, "training", (1, 2), None, None)
    resumed = replace(ALONE, state={"history": {"step": 50}})
    for group in (ALONE, resumed, ALONE, resumed):
        worker.train(assignment, lambda: iter(()), lambda: iter(()), group)
    assert seen[0] == seen[2] != seen[1] == seen[3]
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(100))
