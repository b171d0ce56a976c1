"""The `accuracy` command: transcribes what is missing, scores, prints the tables and writes the reports."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import machine
from benchmarks.accuracy.modes import PROGRAMS, Mode, select_modes
from benchmarks.accuracy.recordings import prepare_recordings
from benchmarks.accuracy.report import ModelResult, comparison_table, comparison_title, rates_table, write_reports
from benchmarks.accuracy.results import ModeResult
from benchmarks.accuracy.transcripts import Portion, TranscriptStore, transcribe_missing
from benchmarks.clips import ClipSets
from benchmarks.comparison.catalog import REQUIREMENTS
from benchmarks.comparison.command import find_interpreter, make_process
from benchmarks.comparison.environments import UnavailableError
from benchmarks.comparison.interleave import run_engine
from benchmarks.comparison.weights import convert_checkpoint
from benchmarks.comparison.worker import SetResult
from benchmarks.settings import AccuracySettings
from distil_ray.errors import ExitCode, RunError, SettingsError
from distil_ray.output.run_context import RECOGNITION_VERSION
from distil_ray.whisper.checkpoint import load_checkpoint_info
from distil_ray.whisper.download import fetch_weights

GIVEN, DETECTED = "given", "detected"
ENGLISH = "en"
SET_LIMIT_S = 7200.0  # seconds for one portion: the longest recording in the slowest program, on a shared machine

Say = Callable[[str], None]


def compare_accuracy(settings: AccuracySettings, console: Console) -> ExitCode:
    """Prints the tables and writes accuracy.json, accuracy.md and accuracy-texts.jsonl.

    Raises:
        SettingsError: A setting is unknown or wrong, or there is no recording.
        RunError: No program could run.
    """
    modes = _check(settings)

    def on_message(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    machine_info = machine.describe_machine()
    found = [_compare_on_model(model, modes, settings, on_message) for model in settings.models]
    for each in found:
        console.print(rates_table(each))
        for kind, comparisons in each.comparisons().items():
            console.print(comparison_table(comparison_title(kind, each.model), comparisons))
    report = Path(settings.report)
    write_reports(report, found, settings, machine_info)
    on_message(machine.format_machine(machine_info))
    on_message(f"{report / 'accuracy.json'}, accuracy.md, accuracy-texts.jsonl")
    return ExitCode.DONE


def _check(settings: AccuracySettings) -> list[Mode]:
    """Returns the modes. Raises `SettingsError` for a wrong setting."""
    if settings.language not in (GIVEN, DETECTED):
        raise SettingsError(f"language={settings.language}: must be {GIVEN} or {DETECTED}")
    if settings.share > 1:
        raise SettingsError(f"share={settings.share:g}: must be at most 1")
    if unknown := [name for name in settings.again if name not in PROGRAMS]:
        raise SettingsError(f"again={unknown[0]}: must be among {', '.join(PROGRAMS)}")
    return select_modes(settings.engines, settings.modes)


def _compare_on_model(model: str, modes: Sequence[Mode], settings: AccuracySettings, on_message: Say) -> ModelResult:
    """Returns the results of all modes with one checkpoint.

    Raises:
        RunError: There are no transcripts.
    """
    sets = prepare_recordings(
        settings.clips,
        Path(settings.cache_dir).absolute(),
        settings.column,
        settings.sets,
        settings.share,
        settings.num_clips,
        settings.max_s,
        load_checkpoint_info(model).languages,
    )
    for name, clips in sets.items():
        on_message(f"{model}, {name}: {len(clips)} recordings, {sum(clip.audio_s for clip in clips) / 60:.1f} minutes")
    stores: dict[Mode, TranscriptStore] = {}
    left_out: dict[str, str] = {}
    for mode in modes:
        path = _store_path(mode, model, settings)
        if mode.program in settings.again:
            path.unlink(missing_ok=True)
        store = TranscriptStore(path)
        try:
            if settings.transcribe:
                start = _make_start(mode, model, settings, on_message)
                number = transcribe_missing(sets, store, mode.recordings_at_once, start, on_message)
                on_message(f"{model}, {mode.engine.label}: {number} recordings transcribed")
            elif not any(store.get(clip) for clips in sets.values() for clip in clips):
                raise UnavailableError(f"{mode.engine.label}: nothing is stored")
        except UnavailableError as error:
            left_out[mode.engine.label] = str(error)
            on_message(f"left out: {error}")
        else:
            stores[mode] = store
    if not stores:
        raise RunError("no engine has a transcript:\n" + "\n".join(left_out.values()))
    return ModelResult(model, _score(sets, stores, on_message), left_out)


def _make_start(
    mode: Mode, model: str, settings: AccuracySettings, on_message: Say
) -> Callable[[Sequence[Portion]], Iterator[SetResult]]:
    """Returns the function that starts the program of a mode; what is missing is installed and converted then."""

    def start(portions: Sequence[Portion]) -> Iterator[SetResult]:
        cache_dir = Path(settings.cache_dir).absolute()
        python = find_interpreter(mode.engine, cache_dir / "environments", settings.install, on_message)
        folder = fetch_weights(model)
        weights = convert_checkpoint(mode.engine.program.weights, folder, cache_dir / "weights", python)
        named = {str(number): list(portion) for number, portion in enumerate(portions)}
        languages = {
            name: portion[0].language or ENGLISH if settings.language == GIVEN else None
            for name, portion in named.items()
        }
        process = make_process(
            mode.engine,
            python,
            weights,
            load_checkpoint_info(model),
            named,
            languages,
            settings.threads,
            warm_up=False,
        )
        return run_engine(process, SET_LIMIT_S)

    return start


def _store_path(mode: Mode, model: str, settings: AccuracySettings) -> Path:
    """Returns the file of a mode's transcripts: another one for other weights, versions, options or languages."""
    versions = REQUIREMENTS.get(mode.engine.program.environment, ())
    identity: list[Any] = [str(fetch_weights(model)), versions, mode.engine.options, settings.language]
    if mode.is_own:
        identity.append(RECOGNITION_VERSION)  # its texts change with it
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    name = f"{mode.program}-{mode.name}-{digest}.jsonl"
    return Path(settings.cache_dir) / "accuracy" / model.rpartition(":")[2].replace("/", "_") / name


def _score(sets: ClipSets, stores: Mapping[Mode, TranscriptStore], on_message: Say) -> list[ModeResult]:
    """Returns the scored transcripts of each mode, of the recordings that all modes have."""
    transcripts = {
        mode: {
            clip.clip_id: transcript
            for clips in sets.values()
            for clip in clips
            if (transcript := store.get(clip)) is not None
        }
        for mode, store in stores.items()
    }
    common = set.intersection(*(set(found) for found in transcripts.values()))
    if num_others := sum(map(len, sets.values())) - len(common):
        on_message(f"left out: {num_others} recordings that not every engine has transcribed")
    kept = {name: [clip for clip in clips if clip.clip_id in common] for name, clips in sets.items()}
    if not common:
        raise RunError("no recording has a transcript of every engine; choose fewer with engines= or modes=")
    return [ModeResult.of(mode, kept, found) for mode, found in transcripts.items()]
