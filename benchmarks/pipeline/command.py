"""The `pipeline` command: CPU seconds of a whole run with a null recognizer, by audio format and by role of the
process.

Each format is run twice, with different amounts of audio. The difference is the cost of the audio; the remainder is the
start-up cost, Ray's included. The number of CPU cores that keep one GPU busy follows from it.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.clips import decode_audio, list_local_recordings
from benchmarks.comparison.interleave import ROOT
from benchmarks.pipeline.corpus import RATES, build_corpus
from benchmarks.pipeline.process_tree import TreeCost, measure_process_tree
from benchmarks.settings import PipelineSettings
from distil_ray.audio.pcm import PCM16
from distil_ray.config.loader import dump_config, load_config
from distil_ray.errors import ExitCode, RunError, SettingsError

GPU_RTFX = 1000.0  # audio seconds a second that one GPU recognizes
HOUR_S = 3600.0
RUN_ID = "cost"
MODEL = "packaged:whisper-base"  # what the driver reads a config and a tokenizer of; its weights are never loaded
# Part of a process's command line -> its role; the first that fits.
ROLES = (
    ("benchmarks.pipeline.run", "driver"),
    ("distil_ray.audio.subprocess_worker", "decoder"),
    ("decode_tasks", "decode task"),
    ("NullTranscribeStage", "transcribe actor"),
    ("write_parts", "write task"),
)
OTHER = "Ray"  # raylet, gcs, agents, workers between tasks


@dataclass(frozen=True, slots=True)
class RunCost:
    """One run: its amount of audio and the CPU seconds of its processes."""

    audio_s: float
    num_recordings: int
    tree: TreeCost


@dataclass(frozen=True, slots=True)
class FormatCost:
    """Cost of one audio format.

    Attributes:
        name: The format.
        cpu_s_per_hour: CPU seconds per hour of audio, by role, without the start-up.
        start_cpu_s: CPU seconds of the start-up.
    """

    name: str
    cpu_s_per_hour: dict[str, float]
    start_cpu_s: float

    @property
    def total_s_per_hour(self) -> float:
        return sum(self.cpu_s_per_hour.values())

    @property
    def speed(self) -> float:
        """Audio seconds per CPU second."""
        return HOUR_S / self.total_s_per_hour

    @property
    def cores_per_gpu(self) -> float:
        """CPU cores that feed a GPU of `GPU_RTFX`."""
        return GPU_RTFX / self.speed


def compute_format_cost(name: str, small: RunCost, large: RunCost) -> FormatCost:
    """Returns the cost per hour of audio from the difference of two runs, and the start-up cost of the smaller one."""
    hours = (large.audio_s - small.audio_s) / HOUR_S
    roles = dict.fromkeys([*(role for _, role in ROLES), OTHER], 0.0)
    per_hour = {role: (large.tree.cpu_s.get(role, 0.0) - small.tree.cpu_s.get(role, 0.0)) / hours for role in roles}
    start = small.tree.total_s - sum(per_hour.values()) * small.audio_s / HOUR_S
    return FormatCost(name, per_hour, start)


def measure_pipeline(settings: PipelineSettings, console: Console) -> ExitCode:
    """Prints the table and writes pipeline.json.

    Raises:
        SettingsError: A format is unknown, or `start_fraction` is not between 0 and 1.
        RunError: A run fails.
    """
    if unknown := [name for name in settings.formats if name not in RATES]:
        raise SettingsError(f"formats={unknown[0]}: must be among {', '.join(RATES)}")
    if not 0 < settings.start_fraction < 1:
        raise SettingsError(f"start_fraction={settings.start_fraction}: must lie between 0 and 1")
    machine_info = machine.describe_machine()
    report = Path(settings.report)
    speech = np.concatenate(
        [decode_audio(r.uri) for r in list_local_recordings(settings.audio, report.parent.absolute())]
    )
    found: list[tuple[FormatCost, RunCost, RunCost]] = []
    for name in settings.formats:
        small = _run(speech, name, settings.start_fraction, settings)
        large = _run(speech, name, 1.0, settings)
        found.append((compute_format_cost(name, small, large), small, large))
        for run in (small, large):
            console.print(f"{name}: {run.audio_s / 60:.1f} minutes, {run.tree.total_s:.1f} s CPU", highlight=False)
    console.print(table([each for each, _, _ in found]))
    console.print(machine.format_machine(machine_info), soft_wrap=True)
    _write(report, settings, machine_info, found)
    return ExitCode.DONE


def _run(speech: PCM16, name: str, share: float, settings: PipelineSettings) -> RunCost:
    """Runs one job over a corpus in a temporary folder, which is deleted afterwards."""
    num_recordings = max(1, round(share * settings.hours * HOUR_S / settings.recording_s))
    with TemporaryDirectory(prefix="distil-ray-bench-") as folder:
        root = Path(folder)
        audio_s = build_corpus(speech, name, settings.recording_s, num_recordings, root / "audio")
        overrides = [f"input.uri={root / 'audio'}", f"output.uri={root / 'out'}", f"run_id={RUN_ID}"]
        config = load_config(None, [*overrides, f"model.name={MODEL}", "decoding.language=en"])
        (root / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.pipeline.run", str(root / "config.yaml")]
        tree = measure_process_tree(
            command, classify_process, {**os.environ, "PYTHONPATH": str(ROOT)}, root / "log.txt"
        )
        if tree.exit_code or not (root / "out" / "runs" / RUN_ID / "_SUCCESS").exists():
            raise RunError(f"the run over {name} failed:\n{(root / 'log.txt').read_text(errors='replace')[-2000:]}")
    return RunCost(audio_s, num_recordings, tree)


def classify_process(command_line: str) -> str:
    """Returns the role of a process, from its command line."""
    return next((role for part, role in ROLES if part in command_line), OTHER)


def table(found: Sequence[FormatCost]) -> Table:
    """Returns the table, one row per format."""
    roles = [*(role for _, role in ROLES), OTHER]
    grid = Table(title="CPU seconds per hour of audio, without the start-up")
    grid.add_column("format")
    for heading in (*roles, "all", "audio s per CPU s", f"cores per GPU at RTFx {GPU_RTFX:,.0f}", "start-up, CPU s"):
        grid.add_column(heading, justify="right")
    for each in found:
        by_role = [f"{each.cpu_s_per_hour[role]:.1f}" for role in roles]
        totals = [f"{each.total_s_per_hour:.1f}", f"{each.speed:,.0f}", f"{each.cores_per_gpu:.2f}"]
        grid.add_row(each.name, *by_role, *totals, f"{each.start_cpu_s:.1f}")
    return grid


def _write(
    report: Path,
    settings: PipelineSettings,
    machine_info: dict[str, Any],
    found: Sequence[tuple[FormatCost, RunCost, RunCost]],
) -> None:
    content = {
        "machine": machine_info,
        "settings": asdict(settings),
        "formats": [
            asdict(each)
            | {"speed": each.speed, "cores_per_gpu": each.cores_per_gpu, "runs": [asdict(small), asdict(large)]}
            for each, small, large in found
        ],
    }
    report.mkdir(parents=True, exist_ok=True)
    (report / "pipeline.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
