"""Inventory of an output: the keys and counts of all rows, the folders of all runs, and other files.

Every file is read completely, so that damage is found, but only keys, counts and names are kept: a million rows take
about 40 MB. This module reports files that cannot be read and rows that contradict themselves. `verify.py` compares the
parts with each other.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from heapq import nlargest
from typing import Any

import numpy as np
import pyarrow as pa

from distil_ray.cli.console import NAMES_SHOWN
from distil_ray.errors import ErrorKind
from distil_ray.output.ledger import (
    IDENTITY,
    KEY,
    TRANSCRIPTS,
    Keys,
    id_keys,
    is_data_file,
    list_data_files,
    recording_keys,
)
from distil_ray.output.reader import open_transcripts
from distil_ray.output.run_context import RUNS_FOLDER, SUCCESS_FILE
from distil_ray.pipeline.planner import task_id
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.recognition.quality_flags import UNTRANSCRIBED_SPEECH
from distil_ray.schema import TRANSCRIPT, open_parquet, transcript_schema
from distil_ray.storage.atomic_files import TEMPORARY
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join
from distil_ray.types import EDITS, WORD_COUNTS, Status

UNKNOWN_LANGUAGE = "unknown"
BATCH_ROWS = 1024  # rows in memory at once; one of them may be the transcript of ten hours
KINDS = frozenset(ErrorKind)
STATUSES = frozenset(Status)

Summary = dict[str, Any]


@dataclass(slots=True)
class Findings:
    """Results of a check.

    Attributes:
        differences: Faults of the output.
        notes: Harmless observations.
    """

    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class FingerprintRows:
    """Counts over all rows of one fingerprint. `sums` are the sums of the columns `WORD_COUNTS`."""

    statuses: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    quality_flags: Counter[str] = field(default_factory=Counter)
    normalizers: Counter[tuple[str, str]] = field(default_factory=Counter)  # (language, normalizer) of scored rows
    audio_s: float = 0.0
    unheard_s: float = 0.0

    @property
    def num_rows(self) -> int:
        return self.statuses.total()

    def add(self, other: "FingerprintRows") -> None:
        for name in ("statuses", "models", "runs", "sums", "quality_flags", "normalizers"):
            getattr(self, name).update(getattr(other, name))
        self.audio_s += other.audio_s
        self.unheard_s += other.unheard_s


@dataclass(slots=True)
class UntranscribedSpeech:
    """Recordings with the flag `UNTRANSCRIBED_SPEECH`.

    Attributes:
        num_recordings: Their number.
        seconds: Seconds of speech without text in all of them.
        worst: (seconds, recording_id) of the `NAMES_SHOWN` recordings with the most, in descending order.
    """

    num_recordings: int = 0
    seconds: float = 0.0
    worst: list[tuple[float, str]] = field(default_factory=list)

    def add(self, other: "UntranscribedSpeech") -> None:
        self.num_recordings += other.num_recordings
        self.seconds += other.seconds
        self.worst = nlargest(NAMES_SHOWN, [*self.worst, *other.worst])


@dataclass(frozen=True, slots=True)
class RenamedFile:
    """The rows of a file whose name does not follow from them.

    Attributes:
        keys: Their ledger keys.
        runs: The time at which each of their runs recognized the first of them, by run id.
    """

    keys: Keys
    runs: dict[str, datetime]


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows of the readable files.

    Attributes:
        keys: Ledger keys, with the fingerprint, in the order of the files; shape (num_rows,).
        ids: Keys of the recording ids; shape (num_rows,).
        kinds: Counts by fingerprint.
        renamed: Files whose names do not follow from their rows, by the task id in the name.
        num_files: Number of data files.
        untranscribed: Recordings with untranscribed speech.
    """

    keys: Keys
    ids: Keys
    kinds: dict[str, FingerprintRows]
    renamed: dict[str, RenamedFile]
    num_files: int
    untranscribed: UntranscribedSpeech


@dataclass(slots=True)
class RunFolder:
    """The folder of a run: its files, as relative paths, and its summary; None if there is no readable one."""

    run_id: str
    files: set[str] = field(default_factory=set)
    summary: Summary | None = None

    @property
    def succeeded(self) -> bool:
        return SUCCESS_FILE in self.files

    def count_files(self, folder: str) -> int:
        """Returns the number of files in one of its subfolders."""
        return sum(name.startswith(f"{folder}/") for name in self.files)


@dataclass(frozen=True, slots=True)
class Inventory:
    """Content of an output: rows, run folders by name, and leftover temporary files."""

    rows: Rows
    runs: dict[str, RunFolder]
    temporary: list[str]


def take_inventory(output: str, storage: Storage, findings: Findings) -> Inventory:
    """Lists an output once and reads all of its transcripts and summaries."""
    runs: dict[str, RunFolder] = {}
    temporary: list[str] = []
    others: list[str] = []

    def iter_data_files() -> Iterator[str]:
        for entry in storage.list_files(output):
            name = entry.uri.removeprefix(f"{output}/")
            top, _, rest = name.partition("/")
            if is_temporary(name):
                temporary.append(name)
            elif top == RUNS_FOLDER:
                _add_file(runs, rest)
            elif top == TRANSCRIPTS and is_data_file(name):
                yield entry.uri
            elif top == TRANSCRIPTS:
                others.append(name)

    rows = _read_rows(iter_data_files(), storage, findings, num_request_threads(output))
    _read_summaries(output, runs, storage, findings)
    if others:
        findings.notes.append(f"{len(others)} files in {TRANSCRIPTS}/ are not data files, such as {others[0]}")
    return Inventory(rows, runs, temporary)


def list_run_folders(output: str, storage: Storage, findings: Findings) -> dict[str, RunFolder]:
    """Returns the run folders of an output by name, without reading transcripts."""
    runs: dict[str, RunFolder] = {}
    folder = join(output, RUNS_FOLDER)
    for entry in storage.list_files(folder):
        _add_file(runs, entry.uri.removeprefix(f"{folder}/"))
    _read_summaries(output, runs, storage, findings)
    return runs


def is_temporary(name: str) -> bool:
    """Returns True for a temporary file that an interrupted write has left."""
    return name.rsplit("/", 1)[-1].startswith(TEMPORARY)


def _add_file(runs: dict[str, RunFolder], name: str) -> None:
    """Adds a file to its run; `name` is relative to the folder of all runs."""
    run_id, _, file = name.partition("/")
    if file:
        runs.setdefault(run_id, RunFolder(run_id)).files.add(file)


@dataclass(frozen=True, slots=True)
class _File:
    """The rows of one data file, and its faults."""

    uri: str
    keys: Keys
    ids: Keys
    kinds: dict[str, FingerprintRows]
    runs: dict[str, datetime]
    untranscribed: UntranscribedSpeech
    faults: list[str]


def _read_rows(uris: Iterator[str], storage: Storage, findings: Findings, threads: int) -> Rows:
    keys, ids, kinds = [np.empty(0, KEY)], [np.empty(0, KEY)], defaultdict[str, FingerprintRows](FingerprintRows)
    renamed: dict[str, RenamedFile] = {}
    untranscribed = UntranscribedSpeech()
    num_files = 0
    for file in ordered_parallel_map(lambda uri: _read_file(uri, storage), uris, threads):
        num_files += 1
        findings.differences += [f"{file.uri}: {fault}" for fault in file.faults]
        keys.append(file.keys)
        ids.append(file.ids)
        for name, kind in file.kinds.items():
            kinds[name].add(kind)
        untranscribed.add(file.untranscribed)
        name = file.uri.rsplit("/", 1)[-1].removeprefix("task-").removesuffix(".parquet")
        if len(file.keys) and name != task_id(file.keys):
            renamed[name] = RenamedFile(file.keys, file.runs)
    return Rows(np.concatenate(keys), np.concatenate(ids), dict(kinds), renamed, num_files, untranscribed)


def _read_file(uri: str, storage: Storage) -> _File:
    """Decodes all pages of a file. Of a damaged file the rows before the damage count."""
    keys, ids, kinds = [np.empty(0, KEY)], [np.empty(0, KEY)], defaultdict[str, FingerprintRows](FingerprintRows)
    faults: list[str] = []
    runs: dict[str, datetime] = {}
    untranscribed = UntranscribedSpeech()
    try:
        with open_transcripts(uri, storage, verify_checksums=True) as file:
            schema = file.parquet.schema_arrow
            faults += _compare_schema(schema, file.version)
            if not set(_NEEDED) <= set(schema.names):
                return _File(uri, keys[0], ids[0], {}, runs, untranscribed, faults)
            for batch in file.parquet.iter_batches(BATCH_ROWS):  # decodes all pages, also of columns that are not used
                rows = batch.select(_NEEDED).to_pydict()
                for name in (_UNHEARD, _LANGUAGES):
                    rows[name] = batch[name].to_pylist() if name in batch.schema.names else [None] * len(batch)
                faults += _find_contradictions(rows)
                names, sizes, versions = (rows[name] for name in IDENTITY)
                keys.append(recording_keys(names, sizes, versions, rows["fingerprint"]))
                ids.append(id_keys(names))
                for run, time in zip(rows["run_id"], rows["processed_at"], strict=True):
                    runs[run] = min(time, runs.get(run, time))
                _count(rows, kinds)
                untranscribed.add(_count_untranscribed(rows))
    except StorageError as error:
        faults.append(str(error))
    except (pa.ArrowException, OSError, ValueError) as error:
        faults.append(f"cannot be read as Parquet ({' '.join(str(error).split())[:300]})")
    return _File(uri, np.concatenate(keys), np.concatenate(ids), dict(kinds), runs, untranscribed, faults)


_NEEDED = [
    *(*IDENTITY, "fingerprint", "status", "error_kind", "duration_s", "language", "model"),
    *("run_id", "processed_at"),
    *("normalizer", "quality_flags", "wer", *WORD_COUNTS),
]
_UNHEARD, _LANGUAGES = "unheard_s", "languages"  # may be missing in files of earlier versions


def _compare_schema(schema: pa.Schema, version: int) -> list[str]:
    """Compares names and types of columns with `TRANSCRIPT`.

    The order of columns is free. Fields of later versions are accepted, because programs that rewrite files often drop
    the metadata with the version.
    """
    expected = transcript_schema(version)
    lacking = [name for name in expected.names if name not in schema.names]
    more = [name for name in schema.names if name not in TRANSCRIPT.names]
    other = [
        f"{name} is {schema.field(name).type}, not {expected.field(name).type}"
        for name in expected.names
        if name in schema.names
        and schema.field(name).type not in (expected.field(name).type, TRANSCRIPT.field(name).type)
    ]
    faults = [f"lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}"] if lacking else []
    faults += [f"has unknown columns: {', '.join(more)}"] if more else []
    return faults + [f"column {words}" for words in other]


def _find_contradictions(rows: dict[str, list[Any]]) -> list[str]:
    """Returns the contradictions within rows, each with one row that has it."""
    faults = {}
    for i, name in enumerate(rows["recording_id"]):
        status, kind, words = rows["status"][i], rows["error_kind"][i], rows["num_ref_words"][i]
        edits = [rows[column][i] for column in EDITS]
        if name is None or rows["fingerprint"][i] is None:
            faults["without an id or a fingerprint"] = name
        elif status not in STATUSES:
            faults[f"with the unknown status {status}"] = name
        elif (kind is not None and kind not in KINDS) or (kind is None and status in (Status.FAILED, Status.PARTIAL)):
            faults[f"with status {status} and error_kind {kind}"] = name
        elif words and (None in edits or abs(rows["wer"][i] * words - sum(edits)) > 1e-6 * words):
            faults["whose wer is not edits / num_ref_words"] = name
    return [f"has a row {words}: {name}" for words, name in faults.items()]


def _count(rows: dict[str, list[Any]], kinds: dict[str, FingerprintRows]) -> None:
    for i, name in enumerate(rows["fingerprint"]):
        kind = kinds[str(name)]
        kind.statuses[rows["status"][i]] += 1
        kind.models[rows["model"][i]] += 1
        kind.runs[rows["run_id"][i]] += 1
        kind.audio_s += rows["duration_s"][i] or 0.0
        kind.unheard_s += rows[_UNHEARD][i] or 0.0
        kind.quality_flags.update(rows["quality_flags"][i] or ())
        if rows["num_ref_words"][i] is not None:
            kind.normalizers[_name_languages(rows, i), rows["normalizer"][i] or ""] += 1
        for column in WORD_COUNTS:
            kind.sums[column] += rows[column][i] or 0


def _name_languages(rows: dict[str, list[Any]], i: int) -> str:
    """Returns the code of the language of a row, or of all its languages."""
    shares = rows[_LANGUAGES][i] or ()
    several = sorted(one["language"] for one in shares) if len(shares) > 1 else ()
    return " and ".join(several) or rows["language"][i] or UNKNOWN_LANGUAGE


def _count_untranscribed(rows: dict[str, list[Any]]) -> UntranscribedSpeech:
    found = [
        (seconds or 0.0, str(name))
        for name, flags, seconds in zip(rows["recording_id"], rows["quality_flags"], rows[_UNHEARD], strict=True)
        if UNTRANSCRIBED_SPEECH in (flags or ())
    ]
    return UntranscribedSpeech(len(found), sum(seconds for seconds, _ in found), found)


def _read_summaries(output: str, runs: dict[str, RunFolder], storage: Storage, findings: Findings) -> None:
    for run in runs.values():
        uri = join(output, RUNS_FOLDER, run.run_id, "summary.json")
        if "summary.json" not in run.files:
            if run.succeeded:
                findings.differences.append(f"run {run.run_id} has {SUCCESS_FILE} but no summary.json")
            continue
        try:
            run.summary = json.loads(storage.read(uri))
        except (StorageError, ValueError) as error:
            findings.differences.append(f"{uri}: cannot be read ({error})")


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task of a plan: keys (with the run's fingerprint), id keys and ids of its recordings."""

    task_id: str
    keys: Keys
    ids: Keys
    names: list[str]


def read_plan(uri: str, fingerprint: str, storage: Storage) -> Iterator[PlannedTask]:
    """Yields the tasks of a plan.

    Raises:
        StorageError, ArrowException, ValueError: The plan cannot be read.
    """
    for file in list_data_files(uri, storage):
        with storage.open(file) as source:
            parquet = open_parquet(source)
            for group in range(parquet.num_row_groups):
                rows = parquet.read_row_group(group, columns=["task_id", *IDENTITY])
                ids, sizes, versions = (rows[name].to_pylist() for name in IDENTITY)
                keys = recording_keys(ids, sizes, versions, [fingerprint] * len(ids))
                yield PlannedTask(rows["task_id"][0].as_py(), keys, id_keys(ids), ids)
