"""The files of a run folder (settings, summary, events, plan), and the rows of the output that belong to the run.

No figures are computed here. A run that did not finish has no summary; then only rows with its run id belong to it.
"""

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distil_ray.config import Config
from distil_ray.config.loader import parse_config
from distil_ray.errors import SettingsError
from distil_ray.evaluation.statistics import RowFilter
from distil_ray.output.ledger import TRANSCRIPTS, list_data_files
from distil_ray.output.run_context import PARTITION_PREFIX, RUNS_FOLDER, SUCCESS_FILE, parse_start
from distil_ray.schema import open_parquet
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import MissingError
from distil_ray.storage.uris import join

Figures = Mapping[str, Any]
Floats = NDArray[np.float64]

CONFIG, SUMMARY, EVENTS = "config.yaml", "summary.json", "events.jsonl"


@dataclass(frozen=True, slots=True)
class PlanTotals:
    """Totals of the plan: recordings, tasks, and estimated seconds of audio."""

    num_recordings: int
    num_tasks: int
    estimated_s: float


@dataclass(frozen=True, slots=True)
class RunEvents:
    """The facts in events.jsonl that pages use. Its lines are commit results in the order of arrival.

    Attributes:
        at_s: Seconds from the start of the recognizers to each result that has a time, ascending. float64.
        audio_s: Seconds of audio of the same results. float64.
        actors_alive: Recognizers alive at the same results; 0: unknown. float64.
        errors: Errors of whole tasks, by their ids.
        messages: Distinct warnings.
        num_committed: Files that were written.
    """

    at_s: Floats
    audio_s: Floats
    actors_alive: Floats
    errors: Mapping[str, str]
    messages: Sequence[str]
    num_committed: int

    @classmethod
    def of(cls, lines: Iterable[str | bytes]) -> Self:
        """Reads the lines one by one: a long run has millions."""
        at_s, audio_s, alive = array("d"), array("d"), array("d")
        errors: dict[str, str] = {}
        messages: dict[str, None] = {}
        num_committed = 0
        for line in lines:
            event = json.loads(line)
            if event.get("at_s"):
                at_s.append(event["at_s"])
                audio_s.append(event["audio_s"] or 0.0)
                alive.append(event["actors_alive"] or 0.0)
            if event.get("error"):
                errors[event["task_id"]] = str(event["error"])
            messages.update(dict.fromkeys(event.get("warnings") or ()))
            num_committed += bool(event.get("committed"))
        order = np.argsort(at_s, kind="stable")
        times, audio, recognizers = (np.array(column, np.float64)[order] for column in (at_s, audio_s, alive))
        return cls(times, audio, recognizers, errors, list(messages), num_committed)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of a run.

    Attributes:
        run_id: Name of the run.
        uri: URI of its folder.
        config: Its stored settings.
        config_text: The stored config.yaml, unchanged.
        summary: Content of summary.json; None if the run did not finish.
        events: The facts in its events.jsonl.
        planned: Totals of its plan.
        succeeded: True if the folder contains _SUCCESS.
    """

    run_id: str
    uri: str
    config: Config
    config_text: str
    summary: Figures | None
    events: RunEvents
    planned: PlanTotals
    succeeded: bool

    @property
    def partition_date(self) -> str | None:
        """Date of the partition that the run wrote to, ISO 8601; None without partitions."""
        day = self.config.output.partition
        return day.isoformat() if day else None


@dataclass(frozen=True, slots=True)
class Scope:
    """The rows that a page includes: those that `choose` selects from each of `files`."""

    files: Sequence[str]
    choose: RowFilter


def find_runs(output: str, storage: Storage) -> list[str]:
    """Returns the ids of the runs of an output in the order of their start.

    It is in the ids that runs get by themselves. For others, files tell: removing recordings or copying an output
    writes them again.
    """
    root = join(output, RUNS_FOLDER)
    started: dict[str, tuple[float, str]] = {}
    for entry in storage.list_files(root):
        run_id, _, name = entry.uri.removeprefix(f"{root}/").partition("/")
        if name == CONFIG:
            start = parse_start(run_id)
            started[run_id] = start.timestamp() if start else entry.modified or 0.0, run_id
    return sorted(started, key=lambda run_id: started[run_id])


def find_last_run(output: str, storage: Storage) -> str:
    """Returns the id of the run that started last. Raises `SettingsError` for an output without runs."""
    runs = find_runs(output, storage)
    if not runs:
        raise no_runs_error(output)
    return runs[-1]


def no_runs_error(output: str) -> SettingsError:
    """Returns the error for an output without runs."""
    return SettingsError(f"output.uri={output}: contains no run ({RUNS_FOLDER}/*/{CONFIG} not found)")


def read_run_folder(output: str, run_id: str, storage: Storage) -> RunFolder:
    """Returns the files of a run.

    Raises:
        SettingsError: The output has no such run.
        StorageError: A file cannot be read.
    """
    uri = join(output, RUNS_FOLDER, run_id)
    config_text = _text(join(uri, CONFIG), storage)
    if config_text is None:
        known = find_runs(output, storage)
        names = f"found: {', '.join(known[-5:])}{' and others' * (len(known) > 5)}" if known else "it has no runs"
        raise SettingsError(f"run_id={run_id}: no such run in {output} ({names})")
    summary = _text(join(uri, SUMMARY), storage)
    return RunFolder(
        run_id=run_id,
        uri=uri,
        config=parse_config(config_text, join(uri, CONFIG)),
        config_text=config_text,
        summary=json.loads(summary) if summary is not None else None,
        events=_read_events(join(uri, EVENTS), storage),
        planned=_read_plan(join(uri, "plan"), storage),
        succeeded=storage.stat(join(uri, SUCCESS_FILE)) is not None,
    )


def _read_events(uri: str, storage: Storage) -> RunEvents:
    try:
        with storage.open(uri) as file:
            return RunEvents.of(file)
    except MissingError:
        return RunEvents.of(())


def load_scope(folder: RunFolder, output: str, storage: Storage) -> Scope:
    """Returns the rows that the page of a run includes.

    For a nightly run these are the rows of its partition. For any other run they are all rows with its settings, from
    any run, because a resumed run includes the rows of the interrupted one. Without a summary: rows with its run id.
    """
    below = [f"{PARTITION_PREFIX}{folder.partition_date}"] if folder.partition_date else []
    files = list(list_data_files(join(output, TRANSCRIPTS, *below), storage))
    summary, keeps = folder.summary, folder.config.output.on_settings_change == "keep"

    def choose(table: pa.Table) -> pa.Table:
        if summary is None:
            return table.filter(pc.equal(table["run_id"], folder.run_id))
        return table if keeps else table.filter(pc.equal(table["fingerprint"], summary["fingerprint"]))

    return Scope(files, choose)


def _read_plan(uri: str, storage: Storage) -> PlanTotals:
    num_recordings, tasks, estimated_s = 0, set[str](), 0.0
    for ids, seconds in _plan_columns(list_data_files(uri, storage), storage):
        num_recordings += len(ids)
        tasks.update(ids.unique().to_pylist())
        estimated_s += pc.sum(seconds).as_py() or 0.0
    return PlanTotals(num_recordings, len(tasks), estimated_s)


def _plan_columns(files: Iterable[str], storage: Storage) -> Iterable[tuple[pa.ChunkedArray, pa.ChunkedArray]]:
    for uri in files:
        with storage.open(uri) as file:
            table = open_parquet(file).read(columns=["task_id", "estimated_s"])
            yield table["task_id"], table["estimated_s"]


def _text(uri: str, storage: Storage) -> str | None:
    try:
        return storage.read(uri).decode()
    except MissingError:
        return None
