"""The comparison of engines from its settings to its report."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine, plot
from benchmarks.clips import Sets, prepare
from benchmarks.comparison.catalog import BY_NAME, LONG, OWN, REQUIREMENTS, SETS, SHORT, Engine, select
from benchmarks.comparison.environments import UnavailableError, is_installed, python_of
from benchmarks.comparison.interleave import Outcome, Runner, own_python, race
from benchmarks.comparison.weights import in_format
from benchmarks.comparison.worker import Job
from benchmarks.figures import Figure, figures, ratio
from benchmarks.settings import EnginesSettings
from distil_ray.errors import ExitCode, RunError
from distil_ray.whisper.checkpoint import CheckpointInfo, load_checkpoint_info
from distil_ray.whisper.download import fetch_weights

Say = Callable[[str], None]
# Ours, which every engine is compared with.
BASELINES = ("full", "gated", "gated-15", "full-int8", "gated-int8", "gated-15-int8")


def compare(settings: EnginesSettings, console: Console) -> ExitCode:
    """Prints the table and writes the reports. Raises `RunError` if no engine could run."""
    say = _sayer(console)
    chosen = select(settings.engines)
    kept, report = Path(settings.kept).absolute(), Path(settings.report)
    limits = {SHORT: settings.num_clips, LONG: settings.num_long}
    sets = prepare(settings.clips, kept, settings.language, limits, settings.long_s)
    for name, clips in sets.items():
        say(f"{name}: {len(clips)} recordings, {sum(clip.audio_s for clip in clips) / 60:.1f} minutes")
    conditions = machine.describe()
    runners, left_out = _ready(chosen, settings, kept, sets, say)
    outcome = race(runners, settings.rounds, say)
    outcome = Outcome(outcome.answers, left_out | outcome.left_out)
    found = figures(outcome.answers, sets, settings.language)
    if not found:
        raise RunError("no engine could run:\n" + "\n".join(outcome.left_out.values()))
    console.print(table(found, [engine for engine in chosen if engine.name in outcome.answers]))
    _write(report, settings, conditions, found, outcome, sets)
    say(f"{machine.in_words(conditions)}; {settings.threads} threads, {settings.rounds} rounds")
    say(f"{report / 'engines.json'}, engines.svg, engines-texts.jsonl")
    return ExitCode.DONE


def _sayer(console: Console) -> Say:
    return lambda text: console.print(text, soft_wrap=True, markup=False, highlight=False)


def _ready(
    chosen: Sequence[Engine], settings: EnginesSettings, kept: Path, sets: Sets, say: Say
) -> tuple[list[Runner], dict[str, str]]:
    """Installs and converts what is missing: what can start, and why the rest cannot."""
    checkpoint = load_checkpoint_info(settings.model)
    model = fetch_weights(settings.model)
    runners, left_out = [], {}
    for engine in chosen:
        mine = {name: clips for name, clips in sets.items() if name in engine.sets}
        if not mine:
            continue
        try:
            python = interpreter(engine, kept / "environments", settings.install, say)
            weights = in_format(engine.weights, model, kept / "weights", python)
        except UnavailableError as error:
            left_out[engine.name] = str(error)
            say(f"left out: {error}")
            continue
        runners.append(runner(engine, python, weights, checkpoint, mine, settings.language, settings.threads))
    return runners, left_out


def interpreter(engine: Engine, folder: Path, may_install: bool, say: Say) -> Path:
    """The Python of an engine's environment, which is installed if it may be. Raises `UnavailableError`."""
    if engine.environment == OWN:
        return own_python()
    requirements = REQUIREMENTS[engine.environment]
    if not is_installed(engine.environment, requirements, folder):
        if not may_install:
            raise UnavailableError(f"{engine.name}: {engine.environment} is not installed, and install=false")
        say(f"installing {' '.join(requirements)}")
    return python_of(engine.environment, requirements, folder)


def runner(
    engine: Engine, python: Path, weights: Path, checkpoint: CheckpointInfo, sets: Sets, language: str, threads: int
) -> Runner:
    paths = {name: [str(clip.path) for clip in clips] for name, clips in sets.items()}
    job = Job(
        model=str(weights),
        threads=threads,
        language=language,
        is_multilingual=len(checkpoint.languages) > 1,
        chunk_s=checkpoint.chunk_length_s,
        options=dict(engine.options),
        warm_up=str(min((clip for clips in sets.values() for clip in clips), key=lambda clip: clip.audio_s).path),
        sets=paths,
    )
    return Runner(engine.name, python, f"benchmarks.engines.{engine.worker}", job)


def table(found: Sequence[Figure], engines: Sequence[Engine]) -> Table:
    """A row an engine; for each set its speed, its WER, and how many times faster ours are."""
    by_place = {(figure.engine, figure.set): figure for figure in found}
    baselines = {
        name: [engine for engine in BASELINES if (engine, name) in by_place]
        for name in SETS
        if any(figure.set == name for figure in found)
    }
    grid = Table(title="audio seconds per CPU second; n x: so many times faster is ours")
    grid.add_column("engine")
    for name, ours in baselines.items():
        for heading in (name, "WER %", *(f"{engine} is" for engine in ours)):
            grid.add_column(heading, justify="right")
    grid.add_column("peak MB", justify="right")
    for engine in engines:
        cells = [
            cell
            for name, ours in baselines.items()
            for cell in _cells(by_place.get((engine.name, name)), [by_place[each, name] for each in ours])
        ]
        peak = max(figure.peak_rss_mb for figure in found if figure.engine == engine.name)
        grid.add_row(engine.label, *cells, f"{peak:,.0f}")
    return grid


def _cells(figure: Figure | None, ours: Sequence[Figure]) -> list[str]:
    if figure is None:
        return [""] * (2 + len(ours))
    wer = "" if figure.wer is None else f"{100 * figure.wer:.2f}"
    return [f"{figure.speed:.1f}", wer, *(f"{each.speed / figure.speed:.1f} x" for each in ours)]


def _write(
    report: Path,
    settings: EnginesSettings,
    conditions: dict[str, Any],
    found: Sequence[Figure],
    outcome: Outcome,
    sets: Sets,
) -> None:
    report.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": conditions,
        "settings": asdict(settings),
        "requirements": REQUIREMENTS,
        "left_out": outcome.left_out,
        "figures": [
            asdict(figure) | {"speed": figure.speed, "speed_wall": figure.speed_wall, "wer": figure.wer}
            for figure in found
        ],
        "ratios": {
            baseline: {f"{f.engine}/{f.set}": ratio(found, baseline, f.engine, f.set) for f in found}
            for baseline in BASELINES
        },
    }
    (report / "engines.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    labels = {name: engine.label for name, engine in BY_NAME.items()}
    own = frozenset(name for name, engine in BY_NAME.items() if engine.environment == OWN)
    drawing = plot.draw(found, labels, own, machine.in_words(conditions))
    (report / "engines.svg").write_text(drawing, encoding="utf-8")
    lines = [
        json.dumps({"engine": engine, "set": answer.set, "id": clip.clip_id, "text": text, "reference": clip.reference})
        for engine, answers in outcome.answers.items()
        for answer in answers[: len(sets)]  # the first round
        for clip, text in zip(sets[answer.set], answer.texts, strict=True)
    ]
    (report / "engines-texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
