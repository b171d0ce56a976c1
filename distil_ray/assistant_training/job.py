"""Runs a training of an assistant, from its settings to the current assistant.

    transcripts ──> training_examples ──> ray_train ────> training.json ──> comparison ──> current.json
    of a run        selection             train and        results of        with the       replaced if
                                          evaluate         the student       current one    better

The name of a training is a hash of its data and settings. The same command therefore resumes an interrupted training,
and reports the result of a finished one. Students are never deleted, only checkpoints.
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

# Settings that determine the student. `init_from` as it is set: the meaning of auto changes when the student becomes
# the current assistant, and the same command has to find the student.
NAMED_SETTINGS = {
    *("layers", "steps", "budget_s", "batch_audio_s", "learning_rate", "dropout", "kl_weight", "token_weight"),
    *("init_from", "held_out_share", "seed"),
}

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Result of a training.

    Attributes:
        training: Name of the training.
        figures: Content of training.json.
        replaced: True if the student is the current assistant now, in place of another one or of none.
        reason: Reason for that, or for keeping the current one.
    """

    training: str
    figures: Figures
    replaced: bool
    reason: str


def train_assistant(config: Config, console: Console, *, force: bool = False) -> ExitCode:
    """Trains an assistant on the output's transcripts; a better one becomes the current one. Raises `SettingsError`."""
    train(config, console, None, force=force)
    return ExitCode.DONE


def show_training_plan(config: Config, console: Console) -> ExitCode:
    """Prints the data and the steps of a training. Writes nothing and starts neither a model nor Ray.

    Raises:
        SettingsError: Settings are missing or wrong, or there is not enough data.
    """
    uri = _require_locations(config)
    model = resolve_model(config)
    run = build_run(config, model, console)
    current = read_current_assistant(uri, run.storage)
    data = _select_data(run, model.require_config_dir("assistant training"), current, None)
    log_training_data(data, console)
    training = _training_name(run, data)
    if _read_report(run, training) is not None:
        log_field("already done", student_uri(uri, training), console)
        return ExitCode.DONE
    log_field("training", training, console)
    settings = config.assistant
    limit = "" if settings.budget_s is None else f", or until {format_duration(settings.budget_s)} have passed"
    log_field(
        "work",
        f"{settings.steps:,} steps of {settings.batch_audio_s:g} s of audio{limit}",
        console,
        num_steps=settings.steps,
        batch_audio_s=settings.batch_audio_s,
    )
    return ExitCode.DONE


def train(config: Config, console: Console, partition: str | None, *, force: bool = False) -> TrainingResult:
    """Trains an assistant, and makes it the current one if it is better.

    Args:
        config: Settings.
        console: Console for messages.
        partition: Folder of the transcripts to train on; None for all.
        force: Take the lease of the folder of assistants even if another training holds it.

    Raises:
        SettingsError: Settings are missing or wrong, or there is not enough data.
        RunError: The training failed.
    """
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
            run.storage.delete(record_uri(uri, training))  # of an earlier student whose report was deleted
            _train_student(run, training, data, current, console)
            figures = _read_report(run, training)
        else:
            log_field("already done", student_uri(uri, training), console)
        if figures is None:
            raise RunError(f"{student_uri(uri, training)}: the student was not uploaded. Re-run the same command")
        lease.check()
        outcome = _replace_if_better(run, training, data, current, figures)
        run.storage.delete(training_uri(uri, training))
    log_result(outcome, uri, console)
    return outcome


def _require_locations(config: Config) -> str:
    uri = config.assistant.uri
    if uri is None:
        raise SettingsError("assistant.uri is not set. Set it to the folder of trained assistants.")
    if not config.output.uri and config.assistant.labels_uri is None:
        raise SettingsError(
            "output.uri is not set. Set it to the output whose transcripts to train on, or set assistant.labels_uri."
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
            f"output.uri={run.config.output.uri}: there are no transcripts. Run jobs/transcribe.py first."
        )
    return select_training_data(
        ledger, run.model_identity, settings, _held_out_before(current, settings), run.storage, partition
    )


def _held_out_before(current: CurrentAssistant | None, settings: AssistantConfig) -> str | None:
    """Returns the unit by which the current assistant held out the same data as these settings; None if it did not."""
    if current is None:
        return None
    units = ("speaker", "recording") if settings.hold_out_by == "auto" else (settings.hold_out_by,)
    return next((unit for unit in units if current.held_out == _held_out(unit, settings)), None)


def _held_out(unit: str, settings: AssistantConfig) -> Figures:
    """Returns a description of the held-out data: chosen by hash, or the split of a data set."""
    held_out = {"by": unit, "share": settings.held_out_share, "seed": settings.seed}
    return held_out if unit != "split" else held_out | {"labels_uri": settings.labels_uri}


def _training_name(run: Run, data: TrainingData) -> str:
    settings = run.config.assistant.model_dump(include=NAMED_SETTINGS)
    window = resolve_window(run.config)
    facts = [run.model_identity, data.fingerprint, data.hold_out_by, window, settings]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _train_student(
    run: Run, training: str, data: TrainingData, current: CurrentAssistant | None, console: Console
) -> None:
    """Trains on the cluster. The student is uploaded when it returns."""
    from distil_ray.assistant_training.ray_train import train_on_cluster
    from distil_ray.assistant_training.worker import TrainingSpec
    from distil_ray.cli import signals
    from distil_ray.pipeline import ray_cluster

    initial_student = _initial_student(run, data, current)
    log_field("initial weights", initial_student or f"{run.config.assistant.layers} layers of the main model", console)
    current_assistant = _current_assistant(run, current)
    assignment = TrainingSpec(run, training, tuple(sorted(data.token_ids)), initial_student, current_assistant)
    printed: set[str] = set()

    def on_status(item: str | Figures) -> None:
        message = item if isinstance(item, str) else format_progress(item)
        if message and message not in printed:
            printed.add(message)
            log_field("training", message, console)

    with ray_cluster.connect_cluster(run.config.resources) as cluster:
        signals.restore_handlers()
        log_field("on", cluster, console)
        train_on_cluster(assignment, data, on_status)


def _initial_student(run: Run, data: TrainingData, current: CurrentAssistant | None) -> str | None:
    """Returns the folder of the student to start from; None for layers of the main model.

    The current assistant is not used if it was trained on audio that is held out now.
    """
    settings = run.config.assistant
    if settings.init_from == "main":
        return None
    if current is None:
        reason = "there is no current assistant"
    elif current.main_identity != run.model_identity:
        reason = "the current assistant belongs to another model"
    elif current.held_out != _held_out(data.hold_out_by, settings):
        reason = "the current assistant was trained with other held-out data"
    elif current.layers != settings.layers:
        reason = f"the current assistant has {current.layers} layers, not assistant.layers={settings.layers}"
    else:
        return current.folder(settings.uri or "")
    if settings.init_from == "auto":
        return None
    raise SettingsError(f"assistant.init_from=current: {reason} (assistant.uri={settings.uri}). Set it to auto or main")


def _current_assistant(run: Run, current: CurrentAssistant | None) -> str | None:
    """Returns the folder of the assistant that runs use now; None if they use none."""
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
    """Makes the student the current assistant if it is better than the current one and was never in use before."""
    settings = run.config.assistant
    uri = settings.uri or ""
    if current is not None and current.training == training:
        run.storage.put(record_uri(uri, training), current.encode())  # missing if the process was killed before it
        return TrainingResult(training, figures, False, "it is already in use")
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
        raise RunError(f"assistant.uri={uri}: {CURRENT} was changed during the training and is not replaced")
    run.storage.put(record_uri(uri, training), new.encode())
    return TrainingResult(training, figures, True, reason)


def _reason_to_keep_current(run: Run, training: str, current: CurrentAssistant | None, figures: Figures) -> str | None:
    """Returns the reason why the results of a training do not apply to the current assistant; None if they do."""
    uri = run.config.assistant.uri or ""
    now = _current_assistant(run, current)
    if _read(run, record := record_uri(uri, training)) is not None:
        return (
            f"it was in use before and was replaced; {now or 'none'} is in use now and is kept. To use it again, copy"
            f" {record} to {join(normalize(uri), CURRENT)}"
        )
    if (then := figures["compared_with"]) != now:
        return (
            f"it was compared with {then or 'none'}, but {now or 'none'} is in use now and is kept. Delete its {REPORT}"
            " and re-run the same command to train and compare it again"
        )
    return None


def compare_assistants(assistants: list[Figures], settings: AssistantConfig) -> tuple[bool, str]:
    """Returns whether the first is better than the second, if any, and than no assistant; and the reason as text."""
    new, *others = assistants
    current = others[0] if others else None
    name = "expected speedup" if settings.compare_by == "speed" else "tokens per main-model pass"

    def value(entry: Mapping[str, Any]) -> float:
        if settings.compare_by == "speed":
            return float(entry["speed_up"])
        return float(max(entry["tokens_per_pass"].values()))

    new_value, needed = value(new), settings.min_gain * max(1.0, value(current) if current else 1.0)
    baseline = f"the current assistant {value(current):.2f}" if current else "no assistant 1.00"
    reason = f"{name} {new_value:.2f}, {baseline}, assistant.min_gain={settings.min_gain:g}"
    return new_value >= needed, reason


def log_training_data(data: TrainingData, console: Console) -> None:
    summary = f"{format_duration(data.train_s)} of audio, {len(data.token_ids):,} different tokens"
    log_field("training data", summary, console)
    log_field("held out", f"{format_duration(data.held_out_s)}, by {data.hold_out_by}", console)
    if data.left_out:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in data.left_out.most_common())
        log_field("left out", f"recordings: {reasons}", console)


def format_progress(figures: Figures) -> str | None:
    if figures.get("stage") != "training":
        return None
    agreement = f", {100 * figures['agreement']:.1f} % of held-out tokens correct"
    return f"step {figures['step']:,}, {figures['elapsed_s']:,.0f} s, loss {figures['loss']:.3f}{agreement}"


def log_result(outcome: TrainingResult, uri: str, console: Console) -> None:
    figures = outcome.figures
    for entry in figures["assistants"]:
        per_pass = ", ".join(f"{number:.2f} with {drafts}" for drafts, number in entry["tokens_per_pass"].items())
        agreement = f"{100 * entry['agreement']:.1f} % of the held-out tokens correct"
        log_field(entry["name"], f"{agreement}; tokens per pass by number of drafts: {per_pass}", console)
        speedup = f"{entry['speed_up']:.2f} times as fast as without, with {entry['best_drafts']} drafts"
        log_field("", f"expected at batch size {figures['batch_size']} on {figures['device']}: {speedup}", console)
    log_field("as recognizer", _format_word_errors(figures["words"]), console)
    log_field("in use" if outcome.replaced else "not used", outcome.reason, console)
    log_field("student", student_uri(uri, outcome.training), console)


def _format_word_errors(words: Figures) -> str:
    """Returns the word error rates of the student's own transcripts."""
    text = f"over {format_duration(words['audio_s'])}: "
    if words["wer_to_main"] is not None:
        text += f"{100 * words['wer_to_main']:.1f} % of the words differ from the main model's"
    if words["wer"] is not None:
        text += f"; WER {100 * words['wer']:.1f} %, the main model's {100 * words['main_wer']:.1f} %"
    return f"{text}; normalizer {words['normalizer']}"
