"""One process of a training: encodes its share of the corpus, trains the student and, as the first, evaluates it.

    audio ──> teacher ─────> shards on disk ──> train ────────────> student ──> evaluate ──> upload
    Arrow     encoder and    or recomputed      batches, loss,       a model     held-out     model folder,
    tables    main model     in every epoch     checkpoints          folder      audio        training.json

It does not use Ray: the audio streams are arguments, and progress goes to a callable. With several processes, each one
trains on its own share of the corpus, and they share gradients. Only the first process has held-out audio.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from distil_ray.assistant_training.dataset import Shards, iter_batches_forever
from distil_ray.assistant_training.evaluation import StudentEvaluator
from distil_ray.assistant_training.student_decoder import StudentDecoder
from distil_ray.assistant_training.teacher import Example, Teacher
from distil_ray.assistant_training.trainer import DistillationLoss, History, fit, loss_vocabulary
from distil_ray.config import AssistantConfig
from distil_ray.errors import SettingsError
from distil_ray.output.run_context import Run
from distil_ray.pipeline.model_setup import StorageFolderReader
from distil_ray.pipeline.transcribe_stage import make_recognizer_options
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.model import load_model, resolve_dtype
from distil_ray.whisper.student import evenly_spaced_layers
from distil_ray.whisper.weights_cache import cache_root

MIN_AGREEMENT = 0.9  # share of the tokens that the main model predicts again; with less, another model made them
LOG_INTERVAL_S = 30.0  # seconds between two messages about the audio that was encoded

AudioTables = Iterator[pa.Table]
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """Arguments of every process; pickled.

    Attributes:
        run: The run, with its settings.
        training: Name of the training.
        token_ids: All token ids of the training data.
        initial_student: Folder of the student to start from; None for layers of the main model.
        current_assistant: Folder of the assistant that the student is compared with; None if there is none.
    """

    run: Run
    training: str
    token_ids: tuple[int, ...]
    initial_student: str | None
    current_assistant: str | None


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """The processes that train together.

    Attributes:
        on_status: Called with progress messages.
        report: Called with figures and a checkpoint or None; all processes call it together.
        rank: Number of this process, from 0.
        size: Number of processes.
        threads: CPU threads of each process.
        wrap: Wraps a module so that it shares gradients with the other processes.
        all_reduce_min: Returns the minimum of a number over all processes.
        state: Checkpoint to resume from, if any.
    """

    on_status: Callable[[str], None]
    report: Callable[[Figures, dict[str, Any] | None], None]
    rank: int = 0
    size: int = 1
    threads: int = 1
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    all_reduce_min: Callable[[float], float] = lambda number: number
    state: dict[str, Any] | None = None


def train(
    assignment: TrainingSpec,
    audio_rows: Callable[[], AudioTables],
    held_out: Callable[[], AudioTables],
    group: WorkerGroup,
) -> None:
    """Trains a student. The first process uploads it and then reports its figures.

    Args:
        assignment: Arguments of the training.
        audio_rows: Returns this process's share of the training audio, one epoch, as tables of `AUDIO_SCHEMA`.
        held_out: Returns the held-out audio.
        group: The processes of the training.

    Raises:
        SettingsError: The audio does not match the tokens, or the loss does not decrease.
    """
    run, settings = assignment.run, assignment.run.config.assistant
    teacher = Teacher(
        _fetch(run, run.config.model.name, run.model_revision), make_recognizer_options(run), group.threads
    )
    tokens, module, device = teacher.tokens, teacher.model.module, teacher.model.device
    student = _make_student(assignment, teacher)
    evaluate = _make_evaluator(assignment, teacher, held_out, group) if group.rank == 0 else None

    def check() -> float:
        return evaluate.agreement(student) if evaluate is not None else 0.0

    def on_checkpoint(state: Figures, history: History) -> None:
        group.report(_progress_figures(history), state if group.rank == 0 else None)

    step = 0 if group.state is None else group.state["history"]["step"]
    if group.state is not None:
        group.on_status(f"resumed at step {step:,}")
    shards = Shards(_cache_folder(assignment) / f"{group.rank}-of-{group.size}")
    try:
        portions = _example_source(shards, audio_rows, teacher, settings, group)
        ids = loss_vocabulary(assignment.token_ids, tokens.eot, tokens.suppress).to(device)
        history = fit(
            student,
            iter_batches_forever(portions, settings.batch_audio_s, (settings.seed, group.rank, step), tokens.eot),
            DistillationLoss(ids, module.config.vocab_size, settings.kl_weight, settings.token_weight),
            settings,
            check,
            on_checkpoint,
            state=group.state,
            autocast=_autocast_dtype(device),
            wrap=group.wrap,
            all_reduce_min=group.all_reduce_min,
        )
        _require_loss_decrease(history, assignment, group)
        done = (
            {}
            if evaluate is None
            else evaluate.evaluate(student, history, assignment.training, assignment.current_assistant)
        )
    except SettingsError:  # a retry of this training, which would use the shards, has the same error
        shards.delete()
        raise
    group.report({"stage": "done", **done}, None)
    shards.delete()


def _fetch(run: Run, name: str, revision: str | None) -> Path:
    return fetch_weights(name, revision, run.config.model.cache_dir, StorageFolderReader(run.storage))


def _cache_folder(assignment: TrainingSpec) -> Path:
    return cache_root(assignment.run.config.model.cache_dir) / "states" / assignment.training


def _make_student(assignment: TrainingSpec, teacher: Teacher) -> StudentDecoder:
    """Returns the student before training: layers of the main model, or the initial student."""
    settings, module = assignment.run.config.assistant, teacher.model.module
    if assignment.initial_student is None:
        numbers = evenly_spaced_layers(module.config.decoder_layers, settings.layers)
    else:
        module = load_model(_fetch(assignment.run, assignment.initial_student, None), dtype="float32").module
        numbers = list(range(module.config.decoder_layers))
        torch.set_num_threads(teacher.threads)
    return StudentDecoder(module, numbers, settings.dropout).to(teacher.model.device)


def _make_evaluator(
    assignment: TrainingSpec, teacher: Teacher, held_out: Callable[[], AudioTables], group: WorkerGroup
) -> StudentEvaluator:
    """Encodes the held-out audio. Raises `SettingsError` if its tokens are not the main model's."""
    audio_rows: list[dict[str, Any]] = []
    examples: list[Example] = []
    for portion in held_out():
        audio_rows += portion.to_pylist()
        examples += teacher.make_examples(portion.to_pylist())
        if sum(one.audio_s for one in examples) >= assignment.run.config.assistant.held_out_s:
            break
    group.on_status(f"encoded {sum(one.audio_s for one in examples):,.0f} s of held-out audio")
    _require_audio(audio_rows)
    _require_main_model_tokens(teacher, assignment)
    return StudentEvaluator(assignment.run, teacher, audio_rows, examples)


def _example_source(
    shards: Shards,
    audio_rows: Callable[[], AudioTables],
    teacher: Teacher,
    settings: AssistantConfig,
    group: WorkerGroup,
) -> Callable[[np.random.Generator], Iterator[list[Example]]]:
    """Returns the source of examples for `iter_batches_forever`.

    It reads shards, which are filled first if they are incomplete, or recomputes the states in each epoch.
    """
    if settings.encoder_states == "recomputed":
        return lambda _: _iter_examples(audio_rows(), teacher, group, None)
    if not group.all_reduce_min(float(shards.is_complete)):
        shards.fill(_iter_examples(audio_rows(), teacher, group, settings.budget_s))
    return shards.read


def _iter_examples(
    audio_rows: AudioTables, teacher: Teacher, group: WorkerGroup, limit_s: float | None
) -> Iterator[list[Example]]:
    """Yields the examples of each table of audio, and stops when this has taken `limit_s` seconds."""
    seconds, began = 0.0, time.monotonic()
    logged = began
    for portion in audio_rows:
        examples = list(teacher.make_examples(portion.to_pylist()))
        seconds += sum(one.audio_s for one in examples)
        if time.monotonic() - logged >= LOG_INTERVAL_S:
            logged = time.monotonic()
            group.on_status(f"encoded {seconds:,.0f} s of audio")
        yield examples
        if limit_s is not None and time.monotonic() - began >= limit_s:
            group.on_status(f"assistant.budget_s={limit_s:g}: encoding ends, training uses {seconds:,.0f} s of audio")
            break
    _require_audio(seconds)


def _require_audio(found: object) -> None:
    if not found:
        raise SettingsError(
            "none of the audio of the transcripts can be read. Check that the locations in their column `uri` still"
            " exist and can be read from this machine"
        )


def _require_main_model_tokens(teacher: Teacher, assignment: TrainingSpec) -> None:
    found = teacher.agreement
    if found.share < MIN_AGREEMENT:
        raise SettingsError(
            f"model.name={assignment.run.config.model.name} predicts only {100 * found.share:.0f} % of the held-out"
            " tokens. The transcripts were made by another model or with another decoding.task or input.channels, or"
            " the audio has changed"
        )


def _require_loss_decrease(history: History, assignment: TrainingSpec, group: WorkerGroup) -> None:
    """Raises `SettingsError` if the loss has not decreased in one of the processes.

    The loss of a student that was trained before has to be finite only: it may already be at its minimum.
    """
    has_decreased = history.has_decreased if assignment.initial_student is None else np.isfinite(history.loss)
    if not group.all_reduce_min(float(has_decreased)):
        settings = assignment.run.config.assistant
        raise SettingsError(
            f"assistant.learning_rate={settings.learning_rate:g}: after {history.step} steps the loss has not decreased"
            f" ({history.losses[0][1]:.3f} at first, {history.loss:.3f} at last). Set it lower, or train longer"
        )


def _progress_figures(history: History) -> Figures:
    """Returns the progress figures for the driver."""
    step, elapsed_s, agreement = history.checks[-1]
    return {"stage": "training", "step": step, "elapsed_s": elapsed_s, "loss": history.loss, "agreement": agreement}


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Returns bfloat16 if ``model.dtype=auto`` uses it on this device, otherwise None."""
    dtype, _ = resolve_dtype("auto", device)
    return dtype if dtype == torch.bfloat16 else None
