"""A training, from its settings to the assistant in use.

    transcripts ──> training_examples ──> ray_train ───> training.json ──> decision ──> current.json
    of a run        selection             teach, train,   figures of the    better?      replaced
                                          evaluate        student                        or kept

The name of a training is a hash of its data and settings. The same command therefore resumes a training that was
stopped, and reports the result of one that has ended. Only checkpoints are deleted.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from distil_ray.assistant_training.evaluation import REPORT
from distil_ray.assistant_training.label_set_examples import select_labeled_data
from distil_ray.assistant_training.training_examples import TrainingData, select_training_data
from distil_ray.cli.console import format_duration, log_field
from distil_ray.config import AssistantConfig, Config
from distil_ray.errors import ExitCode, RunError, SettingsError
from distil_ray.output.lease import acquire_lease
from distil_ray.output.ledger import Ledger
from distil_ray.output.run_context import Run, resolve_window
from distil_ray.pipeline.assistant_selection import (
    CURRENT,
    CurrentAssistant,
    read_current_assistant,
    record_uri,
    replace_current_assistant,
    student_uri,
    training_uri,
)
from distil_ray.pipeline.model_setup import resolve_model
from distil_ray.pipeline.setup import build_run
from distil_ray.storage.storage_errors import MissingError, StorageError
from distil_ray.storage.uris import join, normalize
from distil_ray.whisper.tokenizer import Tokens

# What decides how a student comes out; the rest decides when it is used, and how long one waits. `begin` as it is asked
# for: what auto means changes as soon as the student is in use, and the same command is to find it.
NAMED_SETTINGS = {
    *("layers", "steps", "budget_s", "batch_audio_s", "learning_rate", "dropout", "kl_weight", "token_weight"),
    *("init_from", "held_out_share", "seed"),
}

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Result of a training: its name, the student's figures, whether it is in use from now on, and the reason."""

    training: str
    figures: Figures
    replaced: bool
    reason: str


def train_assistant(config: Config, console: Console, *, force: bool = False) -> ExitCode:
    """Trains an assistant on what the output holds and puts it to use if it is better. Raises `SettingsError`."""
    train(config, console, None, force=force)
    return ExitCode.DONE


def train(config: Config, console: Console, partition: str | None, *, force: bool = False) -> TrainingResult:
    """As `train_assistant`; `partition`: the folder of the transcripts that are learned from, None: all."""
    uri = _require_locations(config)
    model = resolve_model(config)
    config_dir = model.require_config_dir("assistant training")
    run = build_run(config, model, console)
    current = read_current_assistant(uri, run.storage)
    data = _select_data(run, config_dir, current, partition)
    log_training_data(data, console)
    training = _training_name(run, data)
    log_field("training", training, console)
    with acquire_lease(normalize(uri), training, config.output.lease_s, run.storage, force=force) as lease:
        figures = _read_report(run, training)
        if figures is None:
            run.storage.delete(record_uri(uri, training))  # that of a student before, whose report somebody has removed
            _train_student(run, training, data, current, console)
            figures = _read_report(run, training)
        else:
            log_field("done already", f"{student_uri(uri, training)}", console)
        if figures is None:
            raise RunError(
                f"{student_uri(uri, training)}: the student was not uploaded; the same command does it again"
            )
        lease.check()
        outcome = _replace_if_better(run, training, data, current, figures)
        run.storage.delete(training_uri(uri, training))
    log_result(outcome, uri, console)
    return outcome


def _require_locations(config: Config) -> str:
    uri = config.assistant.uri
    if uri is None:
        raise SettingsError("assistant.uri is not set. Give the folder where assistants are to be kept.")
    if not config.output.uri and config.assistant.labels_uri is None:
        raise SettingsError(
            "output.uri is not set. Give the output whose transcripts are to be learned from, or assistant.labels_uri."
        )
    return uri


def _select_data(run: Run, config_dir: Path, current: CurrentAssistant | None, partition: str | None) -> TrainingData:
    settings = run.config.assistant
    if settings.labels_uri is not None and partition is None:
        return select_labeled_data(settings.labels_uri, Tokens.load(config_dir), settings, run.storage)
    try:
        ledger = Ledger.read(normalize(run.config.output.uri), run.storage)
    except StorageError as error:
        raise SettingsError(f"output.uri={run.config.output.uri}: {error}") from error
    if not ledger.num_rows:
        raise SettingsError(
            f"output.uri={run.config.output.uri}: there are no transcripts. Transcribe something first."
        )
    return select_training_data(
        ledger, run.model_identity, settings, _held_out_before(current, settings), run.storage, partition
    )


def _held_out_before(current: CurrentAssistant | None, settings: AssistantConfig) -> str | None:
    """By what the assistant in use held out what these settings hold out as well; None if it did not."""
    if current is None:
        return None
    asked = ("speaker", "recording") if settings.hold_out_by == "auto" else (settings.hold_out_by,)
    return next((by for by in asked if current.held_out == _held_out(by, settings)), None)


def _held_out(by: str, settings: AssistantConfig) -> Figures:
    """Describes the held-out data: by hash, or the split of a data set."""
    held_out = {"by": by, "share": settings.held_out_share, "seed": settings.seed}
    return held_out if by != "split" else held_out | {"labels_uri": settings.labels_uri}


def _training_name(run: Run, data: TrainingData) -> str:
    settings = run.config.assistant.model_dump(include=NAMED_SETTINGS)
    window = resolve_window(run.config)
    facts = [run.model_identity, data.fingerprint, data.hold_out_by, window, settings]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _train_student(
    run: Run, training: str, data: TrainingData, current: CurrentAssistant | None, console: Console
) -> None:
    """Has the cluster train; the student is uploaded when it returns."""
    from distil_ray.assistant_training.ray_train import train_on_cluster
    from distil_ray.assistant_training.worker import TrainingSpec
    from distil_ray.cli import signals
    from distil_ray.pipeline import ray_cluster

    initial_student = _initial_student(run, data, current)
    log_field("begins with", initial_student or f"{run.config.assistant.layers} layers of the main model", console)
    current_assistant = _current_assistant(run, current)
    assignment = TrainingSpec(run, training, tuple(sorted(data.token_ids)), initial_student, current_assistant)
    told: set[str] = set()

    def on_status(item: str | Figures) -> None:
        words = item if isinstance(item, str) else format_progress(item)
        if words and words not in told:
            told.add(words)
            log_field("training", words, console)

    with ray_cluster.connect_cluster(run.config.resources) as words:
        signals.restore_handlers()
        log_field("on", words, console)
        train_on_cluster(assignment, data, on_status)


def _initial_student(run: Run, data: TrainingData, current: CurrentAssistant | None) -> str | None:
    """The folder of the student to go on from; one that has heard what is held out now must not be."""
    settings = run.config.assistant
    if settings.init_from == "main":
        return None
    if current is None:
        why = "there is none"
    elif current.main_identity != run.model_identity:
        why = "it is another model's"
    elif current.held_out != _held_out(data.hold_out_by, settings):
        why = "it held out others"
    elif current.layers != settings.layers:
        why = f"it has {current.layers} layers, not assistant.layers={settings.layers}"
    else:
        return current.folder(settings.uri or "")
    if settings.init_from == "auto":
        return None
    raise SettingsError(f"assistant.init_from=current: {why} at assistant.uri={settings.uri}. Take auto or main")


def _current_assistant(run: Run, current: CurrentAssistant | None) -> str | None:
    """The assistant that runs use so far."""
    if current is not None and current.main_identity == run.model_identity:
        return current.folder(run.config.assistant.uri or "")
    return run.config.model.assistant


def _read_report(run: Run, training: str) -> Figures | None:
    content = _read(run, join(student_uri(run.config.assistant.uri or "", training), REPORT))
    return None if content is None else dict(json.loads(content))


def _read(run: Run, uri: str) -> bytes | None:
    try:
        return run.storage.read(uri)
    except MissingError:
        return None


def _replace_if_better(
    run: Run, training: str, data: TrainingData, current: CurrentAssistant | None, figures: Figures
) -> TrainingResult:
    """Replaces the assistant in use if the new one is better than that very one, and never was in use before."""
    settings = run.config.assistant
    uri = settings.uri or ""
    if current is not None and current.training == training:
        run.storage.put(record_uri(uri, training), current.encode())  # a kill may have come before it
        return TrainingResult(training, figures, False, "it is in use already")
    if reason := _reason_to_keep_current(run, training, current, figures):
        return TrainingResult(training, figures, False, reason)
    is_better, reason = compare_assistants(figures["assistants"], settings)
    if not is_better:
        return TrainingResult(training, figures, False, reason)
    new = CurrentAssistant(
        training=training,
        main_model=run.config.model.name,
        main_identity=run.model_identity,
        trained_at=datetime.now(UTC).isoformat(timespec="seconds"),
        held_out=_held_out(data.hold_out_by, settings),
        layers=figures["layers"],
        figures={name: figures["assistants"][0][name] for name in ("agreement", "tokens_per_pass", "speed_up")},
        before=current.training if current is not None else None,
    )
    if not replace_current_assistant(uri, new, current, run.storage):
        raise RunError(f"assistant.uri={uri}: current.json was changed meanwhile, and stays as it is")
    run.storage.put(record_uri(uri, training), new.encode())
    return TrainingResult(training, figures, True, reason)


def _reason_to_keep_current(run: Run, training: str, current: CurrentAssistant | None, figures: Figures) -> str | None:
    """Returns why figures of an earlier training do not apply to the assistant in use now; None if they do."""
    uri = run.config.assistant.uri or ""
    now = _current_assistant(run, current)
    if _read(run, record := record_uri(uri, training)) is not None:
        return (
            f"it was in use before, and {now or 'none'} is now, which stays so; to go back, copy {record} to"
            f" {join(normalize(uri), CURRENT)}"
        )
    if (then := figures["compared_with"]) != now:
        return (
            f"it was compared with {then or 'none'}, and {now or 'none'} is in use now, which stays so; without its"
            f" {REPORT} the same command trains and compares it anew"
        )
    return None


def compare_assistants(assistants: list[Figures], settings: AssistantConfig) -> tuple[bool, str]:
    """Returns whether the first is better than the second, if any, and than no assistant; and the reason in words."""
    new, *others = assistants
    beside = others[0] if others else None
    name = "expected speed-up" if settings.compare_by == "speed" else "tokens of a main-model pass"

    def value(entry: Mapping[str, Any]) -> float:
        if settings.compare_by == "speed":
            return float(entry["speed_up"])
        return float(max(entry["tokens_per_pass"].values()))

    mine, needed = value(new), settings.min_gain * max(1.0, value(beside) if beside else 1.0)
    rival = f"the one in use has {value(beside):.2f}" if beside else "none has 1.00"
    told = f"{name} {mine:.2f}, {rival}, assistant.min_gain={settings.min_gain:g}"
    return mine >= needed, told


def log_training_data(data: TrainingData, console: Console) -> None:
    words = f"{format_duration(data.train_s)} of audio, {len(data.token_ids):,} different tokens"
    log_field("to learn", words, console)
    log_field("held out", f"{format_duration(data.held_out_s)}, by {data.hold_out_by}", console)
    if data.left_out:
        left = ", ".join(f"{reason} {number:,}" for reason, number in data.left_out.most_common())
        log_field("left out", left, console)


def format_progress(figures: Figures) -> str | None:
    if figures.get("stage") != "training":
        return None
    right = f", {100 * figures['agreement']:.1f} % of held-out tokens right"
    return f"step {figures['step']:,}, {figures['elapsed_s']:,.0f} s, loss {figures['loss']:.3f}{right}"


def log_result(outcome: TrainingResult, uri: str, console: Console) -> None:
    figures = outcome.figures
    for entry in figures["assistants"]:
        per_pass = ", ".join(f"{number:.2f} of {drafts}" for drafts, number in entry["tokens_per_pass"].items())
        right = f"{100 * entry['agreement']:.1f} % of the held-out tokens right"
        log_field(entry["name"], f"{right}; tokens a pass by drafts: {per_pass}", console)
        faster = f"{entry['speed_up']:.2f} times as fast as without, with {entry['best_drafts']} drafts"
        log_field("", f"expected at batch {figures['batch_size']} on {figures['device']}: {faster}", console)
    log_field("alone", f"as a recognizer, {_format_word_errors(figures['words'])}", console)
    log_field("in use" if outcome.replaced else "left", outcome.reason, console)
    log_field("student", student_uri(uri, outcome.training), console)


def _format_word_errors(words: Figures) -> str:
    """A student's words beside the main model's and the references'."""
    told = f"over {format_duration(words['audio_s'])}: "
    if words["wer_to_main"] is not None:
        told += f"{100 * words['wer_to_main']:.1f} % of the words differ from the main model's"
    if words["wer"] is not None:
        told += f"; WER {100 * words['wer']:.1f} %, the main model's {100 * words['main_wer']:.1f} %"
    return f"{told}; normalizer {words['normalizer']}"
