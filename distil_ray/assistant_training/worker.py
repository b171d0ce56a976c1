"""What a process does that trains: hears its share of the corpus, fits the student, and, as the first, weighs it.

    sound ──> hear ───────> shards on disk ──> fit ──────────────> student ──> weigh ──> upload
     Arrow     encoder and   or computed        batches, loss,      a model     held     model folder,
     tables    main model    again every pass   checkpoints         folder      out      training.json

It runs without Ray: streams come as arguments, reports go to a callable. Of several processes each hears and keeps a
share of its own, whichever comes to it, and draws batches from it for as long as the training lasts; gradients are what
they have in common. Held-out speech is the first one's alone.
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

from distil_ray.assistant_training.dataset import Shards, endless_batches
from distil_ray.assistant_training.evaluation import Judge
from distil_ray.assistant_training.student_decoder import StudentDecoder
from distil_ray.assistant_training.teacher import Example, Teacher
from distil_ray.assistant_training.trainer import History, Loss, fit, vocabulary
from distil_ray.config import AssistantConfig
from distil_ray.errors import SettingsError
from distil_ray.output.run_context import Run
from distil_ray.pipeline.model_setup import StorageFolderReader
from distil_ray.pipeline.transcribe_stage import make_recognizer_options
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.model import load_model, resolve_dtype
from distil_ray.whisper.student import evenly_spaced_layers
from distil_ray.whisper.weights_cache import cache_root

LEAST_OWN = 0.9  # of the tokens that the main model says again; fewer: they are not its own

TELL_EVERY_S = 30.0  # seconds between two lines on what was heard

Sounds = Iterator[pa.Table]
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Assignment:
    """What every process is told; pickled. ``token_ids``: all that are to be learned.

    ``begin_with``: folder of a student to go on from, None: layers of the main model; ``in_use``: folder of the
    assistant that the new one is compared with.
    """

    run: Run
    training: str
    token_ids: tuple[int, ...]
    begin_with: str | None
    in_use: str | None


@dataclass(frozen=True, slots=True)
class Company:
    """The processes that train together. ``wrap`` shares a module's gradients, ``agree`` gives the smallest number.

    ``report``: figures for whoever watches, and a checkpoint; every process calls it, each time they all do.
    ``tell``: a sentence for whoever watches. ``state``: the checkpoint to go on from, if there is one. ``threads``: of
    each process.
    """

    tell: Callable[[str], None]
    report: Callable[[Figures, dict[str, Any] | None], None]
    rank: int = 0
    size: int = 1
    threads: int = 1
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    agree: Callable[[float], float] = lambda number: number
    state: dict[str, Any] | None = None


def train(
    assignment: Assignment, sounds: Callable[[], Sounds], held_out: Callable[[], Sounds], company: Company
) -> None:
    """Trains; the last report of the first process holds the figures of the student, which it has uploaded by then.

    `sounds`: this process' share of the corpus, once through; `held_out`: what is never trained on, all of it. Raises
    `SettingsError` where the sound is not that of the tokens, or where the loss does not fall.
    """
    run, settings = assignment.run, assignment.run.config.assistant
    teacher = Teacher(
        _fetch(run, run.config.model.name, run.model_revision), make_recognizer_options(run), company.threads
    )
    tokens, module, device = teacher.tokens, teacher.model.module, teacher.model.device
    student = _student(assignment, teacher)
    judge = _judge(assignment, teacher, held_out, company) if company.rank == 0 else None

    def check() -> float:
        return judge.agreement(student) if judge is not None else 0.0

    def keep(state: Figures, history: History) -> None:
        company.report(_in_figures(history), state if company.rank == 0 else None)

    if company.state is not None:
        company.tell(f"goes on at step {company.state['history']['step']:,}")
    shards = Shards(_cache_folder(assignment) / f"{company.rank}-of-{company.size}")
    try:
        portions = _portions(shards, sounds, teacher, settings, company)
        ids = vocabulary(assignment.token_ids, tokens.eot, tokens.suppress).to(device)
        history = fit(
            student,
            endless_batches(portions, settings.batch_audio_s, settings.seed + company.rank, tokens.eot),
            Loss(ids, module.config.vocab_size, settings.kl_weight, settings.token_weight),
            settings,
            check,
            keep,
            state=company.state,
            autocast=_autocast(device),
            wrap=company.wrap,
            agree=company.agree,
        )
        _require_fallen(history, assignment, company)
        done = {} if judge is None else judge.judge(student, history, assignment.training, assignment.in_use)
    except SettingsError:  # another try of this training, which would use what was heard, does not mend it
        shards.delete()
        raise
    company.report({"stage": "done", **done}, None)
    shards.delete()


def _fetch(run: Run, name: str, revision: str | None) -> Path:
    return fetch_weights(name, revision, run.config.model.cache_dir, StorageFolderReader(run.storage))


def _cache_folder(assignment: Assignment) -> Path:
    return cache_root(assignment.run.config.model.cache_dir) / "states" / assignment.training


def _student(assignment: Assignment, teacher: Teacher) -> StudentDecoder:
    """The student before training: layers of the main model, or what was trained before."""
    settings, module = assignment.run.config.assistant, teacher.model.module
    if assignment.begin_with is None:
        numbers = evenly_spaced_layers(module.config.decoder_layers, settings.layers)
    else:
        module = load_model(_fetch(assignment.run, assignment.begin_with, None), dtype="float32").module
        numbers = list(range(module.config.decoder_layers))
        torch.set_num_threads(teacher.threads)
    return StudentDecoder(module, numbers, settings.dropout).to(teacher.model.device)


def _judge(assignment: Assignment, teacher: Teacher, held_out: Callable[[], Sounds], company: Company) -> Judge:
    """Hears what is held out. Raises `SettingsError` where its tokens are not the main model's."""
    sounds: list[dict[str, Any]] = []
    examples: list[Example] = []
    for portion in held_out():
        sounds += portion.to_pylist()
        examples += teacher.hear(portion.to_pylist())
        if sum(one.seconds for one in examples) >= assignment.run.config.assistant.held_out_s:
            break
    company.tell(f"{sum(one.seconds for one in examples):,.0f} s of held-out audio heard")
    _require_sound(sounds)
    _require_own(teacher, assignment)
    return Judge(assignment.run, teacher, sounds, examples)


def _portions(
    shards: Shards, sounds: Callable[[], Sounds], teacher: Teacher, settings: AssistantConfig, company: Company
) -> Callable[[np.random.Generator], Iterator[list[Example]]]:
    """What `endless_batches` draws from: shards, filled now if they are not yet, or each pass heard anew."""
    if settings.encoder_states == "recomputed":
        return lambda _: _heard(sounds(), teacher, company, None)
    if not company.agree(float(shards.is_complete)):
        shards.fill(_heard(sounds(), teacher, company, settings.budget_s))
    return shards.read


def _heard(sounds: Sounds, teacher: Teacher, company: Company, most_s: float | None) -> Iterator[list[Example]]:
    """Portions of examples; no more once they have taken `most_s` seconds."""
    seconds, began = 0.0, time.monotonic()
    told = began
    for portion in sounds:
        examples = list(teacher.hear(portion.to_pylist()))
        seconds += sum(one.seconds for one in examples)
        if time.monotonic() - told >= TELL_EVERY_S:
            told = time.monotonic()
            company.tell(f"{seconds:,.0f} s of audio heard")
        yield examples
        if most_s is not None and time.monotonic() - began >= most_s:
            company.tell(f"assistant.budget_s={most_s:g}: no more is heard, {seconds:,.0f} s of audio are learned from")
            break
    _require_sound(seconds)


def _require_sound(found: object) -> None:
    if not found:
        raise SettingsError(
            "none of the audio that the transcripts tell of can be had any more: see that their `uri` can be read here"
        )


def _require_own(teacher: Teacher, assignment: Assignment) -> None:
    found = teacher.agreement
    if found.share < LEAST_OWN:
        raise SettingsError(
            f"model.name={assignment.run.config.model.name} says only {100 * found.share:.0f} % of the held-out tokens"
            " again: the transcripts are another model's, or made with another decoding.task or input.channels, or the"
            " audio has changed since"
        )


def _require_fallen(history: History, assignment: Assignment, company: Company) -> None:
    """A student that begins trained may have little left to learn; its loss must be a number, in all processes."""
    fallen = history.has_fallen if assignment.begin_with is None else np.isfinite(history.loss)
    if not company.agree(float(fallen)):
        settings = assignment.run.config.assistant
        raise SettingsError(
            f"assistant.learning_rate={settings.learning_rate:g}: after {history.step} steps the loss has not fallen"
            f" ({history.losses[0][1]:.3f} at first, {history.loss:.3f} at last). Set it lower, or train for longer"
        )


def _in_figures(history: History) -> Figures:
    """How it stands, for who watches."""
    step, elapsed_s, right = history.checks[-1]
    return {"stage": "training", "step": step, "elapsed_s": elapsed_s, "loss": history.loss, "agreement": right}


def _autocast(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the processor or GPU is good at it, which ``auto`` knows."""
    number, _ = resolve_dtype("auto", device)
    return number if number == torch.bfloat16 else None
