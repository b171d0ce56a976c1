"""The `planning` command: seconds and memory of the ledger and of the plan, for very many recordings.

An output with as many rows as recordings is written first. A separate process then reads it as the ledger and plans, so
that the cost of writing is not included. Listing is not measured, because it depends on the store.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.comparison.interleave import ROOT
from benchmarks.planning.run import FINGERPRINT, make_recording
from benchmarks.settings import PlanningSettings
from distil_ray.errors import ExitCode, RunError
from distil_ray.output.ledger import TRANSCRIPTS
from distil_ray.schema import TRANSCRIPT, to_parquet_bytes
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import Status

ROWS_A_FILE = 2000  # of a task of short recordings
TEXT = "He hoped there would be stew for dinner, turnips and carrots and bruised potatoes and fat mutton pieces. "

Figures = dict[str, Any]


def measure_planning(settings: PlanningSettings, console: Console) -> ExitCode:
    """Prints the table and writes planning.json.

    Raises:
        RunError: A measured process fails.
    """
    facts = machine.describe_machine()
    results: list[Figures] = []
    for number in settings.recordings:
        with TemporaryDirectory(prefix="distil-ray-planning-", dir=settings.folder or None) as folder:
            _make_output(folder, number)
            results.append({"recordings": number} | _measure(folder, number, round(number * settings.done_share)))
    report = Path(settings.report)
    report.mkdir(parents=True, exist_ok=True)
    (report / "planning.json").write_text(json.dumps({"machine": facts, "results": results}, indent=2) + "\n")
    console.print(_table(results))
    console.print(machine.format_machine(facts), style="dim")
    return ExitCode.DONE


def _make_output(folder: str, num_rows: int) -> None:
    storage = Storage()
    for first in range(0, num_rows, ROWS_A_FILE):
        numbers = range(first, min(first + ROWS_A_FILE, num_rows))
        uri = join(folder, TRANSCRIPTS, f"task-{first:09d}.parquet")
        storage.put(uri, to_parquet_bytes(make_rows(numbers)))


def make_rows(numbers: Sequence[int]) -> pa.Table:
    """Returns rows of `TRANSCRIPT` for the recordings with these numbers."""
    now = datetime.now(UTC)
    columns: dict[str, list[Any]] = {name: [] for name in ("recording_id", "uri", "source_size", "source_version")}
    for one in map(make_recording, numbers):
        for name, column in columns.items():
            column.append(getattr(one, name))
    same = {"status": Status.OK, "fingerprint": FINGERPRINT, "processed_at": now}
    known = columns | {name: [value] * len(numbers) for name, value in same.items()}
    known["text"] = [TEXT + name for name in columns["recording_id"]]
    return pa.table({one.name: known.get(one.name, [None] * len(numbers)) for one in TRANSCRIPT}, schema=TRANSCRIPT)


def _measure(folder: str, num_recordings: int, num_done: int) -> Figures:
    command = [sys.executable, "-m", "benchmarks.planning.run", folder, str(num_recordings), str(num_done)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RunError(f"planning {num_recordings:,} recordings failed: {process.stderr.strip()[-500:]}")
    figures: Figures = json.loads(process.stdout)
    return figures


def _table(results: Sequence[Figures]) -> Table:
    table = Table(box=None)
    for heading in ("recordings", "done", "step", "CPU s", "wall s", "peak MiB", "bytes per recording"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for result in results:
        number = result["recordings"]
        for name in ("ledger", "plan"):
            took = result[name]
            share = (took["peak_mib"] - took["before_mib"]) * 2**20 / number
            cells = (f"{took['cpu_s']:.1f}", f"{took['wall_s']:.1f}", f"{took['peak_mib']:.0f}", f"{share:.0f}")
            table.add_row(f"{number:,}", f"{result['done']:,}", name, *cells)
    return table
