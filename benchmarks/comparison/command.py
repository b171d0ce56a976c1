"""The `engines` command: prepares the engines, runs them by turns, prints the table and writes the reports."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.clips import ClipSets, prepare_clips
from benchmarks.comparison import chart
from benchmarks.comparison.catalog import BY_NAME, LONG, NATIVE, OWN, REQUIREMENTS, SETS, SHORT, Engine, select
from benchmarks.comparison.environments import UnavailableError, ensure_environment, is_installed
from benchmarks.comparison.interleave import EngineProcess, InterleavedResults, current_python, run_interleaved
from benchmarks.comparison.results import EngineResult, ratio, summarize
from benchmarks.comparison.weights import convert_checkpoint
from benchmarks.comparison.worker import Job
from benchmarks.settings import EnginesSettings
from distil_ray.errors import ExitCode, RunError
from distil_ray.whisper.checkpoint import CheckpointInfo, load_checkpoint_info
from distil_ray.whisper.download import fetch_weights

Say = Callable[[str], None]
# Engines of this package; every engine is compared with each of them.
NATIVE_ENGINES = ("full", "gated", "gated-15", "full-int8", "gated-int8", "gated-15-int8")


def compare_engines(settings: EnginesSettings, console: Console) -> ExitCode:
    """Prints the table and writes engines.json, engines.svg and engines-texts.jsonl.

    Raises:
        RunError: No engine could run.
    """
    on_message = _message_printer(console)
    chosen = select(settings.engines)
    cache_dir, report = Path(settings.cache_dir).absolute(), Path(settings.report)
    limits = {SHORT: settings.num_clips, LONG: settings.num_long}
    sets = prepare_clips(settings.clips, cache_dir, settings.language, limits, settings.long_s)
    for name, clips in sets.items():
        on_message(f"{name}: {len(clips)} recordings, {sum(clip.audio_s for clip in clips) / 60:.1f} minutes")
    machine_info = machine.describe_machine()
    runners, left_out = _ready(chosen, settings, cache_dir, sets, on_message)
    interleaved = run_interleaved(runners, settings.rounds, on_message)
    interleaved = InterleavedResults(interleaved.results, left_out | interleaved.left_out)
    found = summarize(interleaved.results, sets, settings.language)
    if not found:
        raise RunError("no engine could run:\n" + "\n".join(interleaved.left_out.values()))
    console.print(table(found, [engine for engine in chosen if engine.name in interleaved.results]))
    _write(report, settings, machine_info, found, interleaved, sets)
    on_message(f"{machine.format_machine(machine_info)}; {settings.threads} threads, {settings.rounds} rounds")
    on_message(f"{report / 'engines.json'}, engines.svg, engines-texts.jsonl")
    return ExitCode.DONE


def _message_printer(console: Console) -> Say:
    return lambda text: console.print(text, soft_wrap=True, markup=False, highlight=False)


def _ready(
    chosen: Sequence[Engine], settings: EnginesSettings, cache_dir: Path, sets: ClipSets, on_message: Say
) -> tuple[list[EngineProcess], dict[str, str]]:
    """Installs and converts what is missing.

    Returns the processes that can start, and the reasons of those that cannot.
    """
    checkpoint = load_checkpoint_info(settings.model)
    model = fetch_weights(settings.model)
    runners, left_out = [], {}
    for engine in chosen:
        mine = {name: clips for name, clips in sets.items() if name in engine.sets}
        if not mine:
            continue
        try:
            python = find_interpreter(engine, cache_dir / "environments", settings.install, on_message)
            weights = convert_checkpoint(engine.program.weights, model, cache_dir / "weights", python)
        except UnavailableError as error:
            left_out[engine.name] = str(error)
            on_message(f"left out: {error}")
            continue
        languages = dict.fromkeys(mine, settings.language)
        runners.append(make_process(engine, python, weights, checkpoint, mine, languages, settings.threads))
    return runners, left_out


def find_interpreter(engine: Engine, folder: Path, may_install: bool, on_message: Say) -> Path:
    """Returns the Python of an engine's environment, which is installed first if `may_install`.

    Raises:
        UnavailableError: The environment is missing and cannot or must not be installed.
    """
    environment = engine.program.environment
    if environment == OWN:
        return current_python()
    requirements = REQUIREMENTS[environment]
    if not is_installed(environment, requirements, folder):
        if not may_install:
            raise UnavailableError(f"{engine.name}: {environment} is not installed, and install=false")
        on_message(f"installing {' '.join(requirements)}")
    return ensure_environment(environment, requirements, folder)


def make_process(
    engine: Engine,
    python: Path,
    weights: Path,
    checkpoint: CheckpointInfo,
    sets: ClipSets,
    languages: Mapping[str, str | None],
    threads: int,
    warm_up: bool = True,
) -> EngineProcess:
    """Returns the process of an engine for these sets, ready to start.

    Args:
        engine: The engine.
        python: Interpreter of its environment.
        weights: Its weights.
        checkpoint: The checkpoint that they were made from.
        sets: Clips by set.
        languages: Language of each set; None: detected.
        threads: CPU threads.
        warm_up: Transcribe the shortest clip before time is measured.
    """
    paths = {name: [str(clip.path) for clip in clips] for name, clips in sets.items()}
    shortest = min((clip for clips in sets.values() for clip in clips), key=lambda clip: clip.audio_s)
    job = Job(
        model=str(weights),
        threads=threads,
        is_multilingual=len(checkpoint.languages) > 1,
        chunk_s=checkpoint.chunk_length_s,
        options=dict(engine.options),
        warm_up=str(shortest.path) if warm_up else "",
        sets=paths,
        languages=dict(languages),
    )
    return EngineProcess(engine.name, python, f"benchmarks.engines.{engine.program.worker}", job)


def table(found: Sequence[EngineResult], engines: Sequence[Engine]) -> Table:
    """Returns the table, one row per engine: speed and WER of each set, and the speed-up of each native engine."""
    by_engine_and_set = {(figure.engine, figure.set): figure for figure in found}
    baselines = {
        name: [engine for engine in NATIVE_ENGINES if (engine, name) in by_engine_and_set]
        for name in SETS
        if any(figure.set == name for figure in found)
    }
    grid = Table(title="audio seconds per CPU second; n x: the native engine is n times faster")
    grid.add_column("engine")
    for name, native in baselines.items():
        for heading in (name, "WER %", *(f"vs {engine}" for engine in native)):
            grid.add_column(heading, justify="right")
    grid.add_column("peak MB", justify="right")
    for engine in engines:
        cells = [
            cell
            for name, native in baselines.items()
            for cell in _cells(
                by_engine_and_set.get((engine.name, name)), [by_engine_and_set[each, name] for each in native]
            )
        ]
        peak = max(figure.peak_rss_mb for figure in found if figure.engine == engine.name)
        grid.add_row(engine.label, *cells, f"{peak:,.0f}")
    return grid


def _cells(figure: EngineResult | None, native: Sequence[EngineResult]) -> list[str]:
    if figure is None:
        return [""] * (2 + len(native))
    wer = "" if figure.wer is None else f"{100 * figure.wer:.2f}"
    return [f"{figure.speed:.1f}", wer, *(f"{each.speed / figure.speed:.1f} x" for each in native)]


def _write(
    report: Path,
    settings: EnginesSettings,
    machine_info: dict[str, Any],
    found: Sequence[EngineResult],
    interleaved: InterleavedResults,
    sets: ClipSets,
) -> None:
    report.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": machine_info,
        "settings": asdict(settings),
        "requirements": REQUIREMENTS,
        "left_out": interleaved.left_out,
        "figures": [
            asdict(figure) | {"speed": figure.speed, "speed_wall": figure.speed_wall, "wer": figure.wer}
            for figure in found
        ],
        "ratios": {
            baseline: {f"{f.engine}/{f.set}": ratio(found, baseline, f.engine, f.set) for f in found}
            for baseline in NATIVE_ENGINES
        },
    }
    (report / "engines.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    labels = {name: engine.label for name, engine in BY_NAME.items()}
    native = frozenset(name for name, engine in BY_NAME.items() if engine.program == NATIVE)
    drawing = chart.draw_bar_chart(found, labels, native, machine.format_machine(machine_info))
    (report / "engines.svg").write_text(drawing, encoding="utf-8")
    lines = [
        json.dumps({"engine": engine, "set": result.set, "id": clip.clip_id, "text": text, "reference": clip.reference})
        for engine, results in interleaved.results.items()
        for result in results[: len(sets)]  # the first round
        for clip, text in zip(sets[result.set], result.texts, strict=True)
    ]
    (report / "engines-texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
