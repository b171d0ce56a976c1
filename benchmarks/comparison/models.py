"""The `models` command: generation time, parameters and decoder parameters of two checkpoints.

These are the three figures of Distil-Whisper's notebook. Parameters are counted from the shapes in the headers of the
weight files, the tied output projection once, without loading them. Generation time is that of the chosen engine for
all clips, in CPU seconds and in wall-clock seconds.
"""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.clips import prepare_clips
from benchmarks.comparison.catalog import NATIVE, SHORT, select
from benchmarks.comparison.command import make_process
from benchmarks.comparison.interleave import current_python, run_interleaved
from benchmarks.comparison.results import EngineResult, summarize
from benchmarks.settings import ModelsSettings
from distil_ray.errors import ExitCode, RunError, SettingsError
from distil_ray.whisper.checkpoint import load_checkpoint_info
from distil_ray.whisper.download import fetch_weights

TIED = "proj_out.weight"  # the output projection is the embedding once more
DECODER = ("model.decoder.", "decoder.")
MAIN, STUDENT = "main", "student"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Number of parameters of a checkpoint."""

    total: int
    decoder: int


def count_parameters(folder: Path) -> Parameters:
    """Counts the shapes in the headers of every safetensors file of a model folder."""
    sizes: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        sizes |= {name: math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    sizes.pop(TIED, None)
    decoder = sum(size for name, size in sizes.items() if name.startswith(DECODER))
    return Parameters(sum(sizes.values()), decoder)


def compare_models(settings: ModelsSettings, console: Console) -> ExitCode:
    """Prints the figures and writes models.json.

    Raises:
        SettingsError: The engine does not run in this environment.
        RunError: One of the two checkpoints cannot run.
    """
    (engine,) = select([settings.engine])[:1]
    if engine.program != NATIVE or SHORT not in engine.sets:
        raise SettingsError(f"engine={settings.engine}: must be one that runs in this environment on short clips")
    cache_dir, report = Path(settings.cache_dir).absolute(), Path(settings.report)
    sets = prepare_clips(settings.clips, cache_dir, settings.language, {SHORT: settings.num_clips})
    names = {MAIN: settings.main, STUDENT: settings.student}
    machine_info = machine.describe_machine()
    runners, parameters = [], {}
    for role, name in names.items():
        folder = fetch_weights(name)
        parameters[role] = count_parameters(folder)
        ready = make_process(
            engine,
            current_python(),
            folder,
            load_checkpoint_info(name),
            sets,
            dict.fromkeys(sets, settings.language),
            settings.threads,
        )
        runners.append(replace(ready, name=role))
    interleaved = run_interleaved(
        runners, settings.rounds, lambda text: console.print(text, soft_wrap=True, markup=False)
    )
    if interleaved.left_out:
        raise RunError("\n".join(interleaved.left_out.values()))
    found = summarize(interleaved.results, sets, settings.language)
    console.print(table(names, found, parameters))
    console.print(machine.format_machine(machine_info), soft_wrap=True)
    content = {
        "machine": machine_info,
        "settings": asdict(settings),
        "figures": [asdict(figure) | {"wer": figure.wer} for figure in found],
        "parameters": {role: asdict(counted) for role, counted in parameters.items()},
    }
    report.mkdir(parents=True, exist_ok=True)
    (report / "models.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return ExitCode.DONE


def table(names: dict[str, str], found: Sequence[EngineResult], parameters: dict[str, Parameters]) -> Table:
    """Returns the table, one row per figure: main model, student, and their ratio."""
    by_role = {figure.engine: figure for figure in found}
    main, student = by_role[MAIN], by_role[STUDENT]
    grid = Table("", names[MAIN], names[STUDENT], "compared")
    for label, mine, its in (
        ("generation, CPU s", main.cpu_s, student.cpu_s),
        ("generation, s", main.wall_s, student.wall_s),
    ):
        grid.add_row(label, f"{mine:.1f}", f"{its:.1f}", f"{mine / its:.2f} times faster")
    for label, field in (("parameters", "total"), ("decoder parameters", "decoder")):
        of_main, of_student = (getattr(parameters[role], field) for role in (MAIN, STUDENT))
        share = f"{100 * of_student / of_main:.1f} % of the main model's"
        grid.add_row(label, f"{of_main:,}", f"{of_student:,}", share)
    wers = ["" if figure.wer is None else f"{100 * figure.wer:.2f}" for figure in (main, student)]
    grid.add_row("WER %", *wers, "")
    return grid
