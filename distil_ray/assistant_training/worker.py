"""One process of a training: encodes its share of the corpus, trains the student and, as the first, evaluates it.

    audio ──> teach ───────> shards on disk ──> train ────────────> student ──> evaluate ──> upload
    Arrow     encoder and    or recomputed      batches, loss,       a model     held-out     model folder,
    tables    main model     every pass         checkpoints          folder      speech       training.json

It runs without Ray: streams are arguments, and progress goes to a callable. With several processes each keeps the share
of the corpus that reaches it and draws batches from it; they share gradients. Held-out speech belongs to the first
process.
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

MIN_AGREEMENT = 0.9  # of the tokens that the main model says again; fewer: they are not its own

LOG_INTERVAL_S = 30.0  # seconds between two lines on what was heard

AudioTables = Iterator[pa.Table]
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """Arguments of every process; pickled. ``token_ids``: all token ids to be learned.

    ``begin_with``: folder of a student to go on from, None: layers of the main model; ``in_use``: folder of the
    assistant that the new one is compared with.
    """

    run: Run
    training: str
    token_ids: tuple[int, ...]
    initial_student: str | None
    current_assistant: str | None


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """The processes that train together. ``wrap`` shares a module's gradients, ``agree`` gives the smallest number.

    ``report``: figures for whoever watches, and a checkpoint; every process calls it, each time they all do.
    ``tell``: a sentence for whoever watches. ``state``: the checkpoint to go on from, if there is one. ``threads``: of
    each process.
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
    """Trains; the last report of the first process holds the figures of the student, which it has uploaded by then.

    `sounds`: this process' share of the corpus, once through; `held_out`: what is never trained on, all of it. Raises
    `SettingsError` where the sound is not that of the tokens, or where the loss does not fall.
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

    if group.state is not None:
        group.on_status(f"goes on at step {group.state['history']['step']:,}")
    shards = Shards(_cache_folder(assignment) / f"{group.rank}-of-{group.size}")
    try:
        portions = _example_source(shards, audio_rows, teacher, settings, group)
        ids = loss_vocabulary(assignment.token_ids, tokens.eot, tokens.suppress).to(device)
        history = fit(
            student,
            iter_batches_forever(portions, settings.batch_audio_s, settings.seed + group.rank, tokens.eot),
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
    except SettingsError:  # another try of this training, which would use what was heard, does not mend it
        shards.delete()
        raise
    group.report({"stage": "done", **done}, None)
    shards.delete()


def _fetch(run: Run, name: str, revision: str | None) -> Path:
    return fetch_weights(name, revision, run.config.model.cache_dir, StorageFolderReader(run.storage))


def _cache_folder(assignment: TrainingSpec) -> Path:
    return cache_root(assignment.run.config.model.cache_dir) / "states" / assignment.training


def _make_student(assignment: TrainingSpec, teacher: Teacher) -> StudentDecoder:
    """The student before training: layers of the main model, or what was trained before."""
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
    """Hears what is held out. Raises `SettingsError` where its tokens are not the main model's."""
    audio_rows: list[dict[str, Any]] = []
    examples: list[Example] = []
    for portion in held_out():
        audio_rows += portion.to_pylist()
        examples += teacher.make_examples(portion.to_pylist())
        if sum(one.audio_s for one in examples) >= assignment.run.config.assistant.held_out_s:
            break
    group.on_status(f"{sum(one.audio_s for one in examples):,.0f} s of held-out audio heard")
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
    """Returns the source of `endless_batches`.

    It reads shards, which are filled now if they are incomplete, or recomputes the states in each pass.
    """
    if settings.encoder_states == "recomputed":
        return lambda _: _iter_examples(audio_rows(), teacher, group, None)
    if not group.all_reduce_min(float(shards.is_complete)):
        shards.fill(_iter_examples(audio_rows(), teacher, group, settings.budget_s))
    return shards.read


def _iter_examples(
    audio_rows: AudioTables, teacher: Teacher, group: WorkerGroup, most_s: float | None
) -> Iterator[list[Example]]:
    """Portions of examples; no more once they have taken `most_s` seconds."""
    seconds, began = 0.0, time.monotonic()
    told = began
    for portion in audio_rows:
        examples = list(teacher.make_examples(portion.to_pylist()))
        seconds += sum(one.audio_s for one in examples)
        if time.monotonic() - told >= LOG_INTERVAL_S:
            told = time.monotonic()
            group.on_status(f"{seconds:,.0f} s of audio heard")
        yield examples
        if most_s is not None and time.monotonic() - began >= most_s:
            group.on_status(
                f"assistant.budget_s={most_s:g}: no more is heard, {seconds:,.0f} s of audio are learned from"
            )
            break
    _require_audio(seconds)


def _require_audio(found: object) -> None:
    if not found:
        raise SettingsError(
            "none of the audio that the transcripts tell of can be had any more: see that their `uri` can be read here"
        )


def _require_main_model_tokens(teacher: Teacher, assignment: TrainingSpec) -> None:
    found = teacher.agreement
    if found.share < MIN_AGREEMENT:
        raise SettingsError(
            f"model.name={assignment.run.config.model.name} says only {100 * found.share:.0f} % of the held-out tokens"
            " again: the transcripts are another model's, or made with another decoding.task or input.channels, or the"
            " audio has changed since"
        )


def _require_loss_decrease(history: History, assignment: TrainingSpec, group: WorkerGroup) -> None:
    """A student that begins trained may have little left to learn; its loss must be a number, in all processes."""
    fallen = history.has_decreased if assignment.initial_student is None else np.isfinite(history.loss)
    if not group.all_reduce_min(float(fallen)):
        settings = assignment.run.config.assistant
        raise SettingsError(
            f"assistant.learning_rate={settings.learning_rate:g}: after {history.step} steps the loss has not fallen"
            f" ({history.losses[0][1]:.3f} at first, {history.loss:.3f} at last). Set it lower, or train for longer"
        )


def _progress_figures(history: History) -> Figures:
    """Returns the progress figures for the driver."""
    step, elapsed_s, right = history.checks[-1]
    return {"stage": "training", "step": step, "elapsed_s": elapsed_s, "loss": history.loss, "agreement": right}


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the processor or GPU is good at it, which ``auto`` knows."""
    number, _ = resolve_dtype("auto", device)
    return number if number == torch.bfloat16 else None
