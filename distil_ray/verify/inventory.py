"""What lies in an output, looked at file by file: every row as two keys, every run's folder, whatever else is there.

Everything is read to its last byte, so that a damaged file is found, but only keys, counts and names are kept: a
million rows are some 40 MB. Nothing is repaired and nothing is judged here but files that cannot be read and rows that
contradict themselves; whether the parts agree with each other is verify.py's question.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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
from distil_ray.schema import TRANSCRIPT, transcript_schema
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
    """What was found: a difference is a fault of the output; a note is worth knowing and harmless."""

    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Kind:
    """All rows of one fingerprint, in counts. `sums` are those of `WORD_COUNTS`, `quality_flags` count recordings."""

    statuses: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    quality_flags: Counter[str] = field(default_factory=Counter)
    normalizers: Counter[tuple[str, str]] = field(default_factory=Counter)  # of scored rows, with their language
    audio_s: float = 0.0
    unheard_s: float = 0.0

    @property
    def num_rows(self) -> int:
        return self.statuses.total()

    def add(self, other: "Kind") -> None:
        for name in ("statuses", "models", "runs", "sums", "quality_flags", "normalizers"):
            getattr(self, name).update(getattr(other, name))
        self.audio_s += other.audio_s
        self.unheard_s += other.unheard_s


@dataclass(slots=True)
class Untranscribed:
    """The recordings with the flag `UNTRANSCRIBED_SPEECH`: how many, the seconds of speech without text in all of
    them, and the `NAMES_SHOWN` with the most, as (seconds, recording_id), most first."""

    num_recordings: int = 0
    seconds: float = 0.0
    worst: list[tuple[float, str]] = field(default_factory=list)

    def add(self, other: "Untranscribed") -> None:
        self.num_recordings += other.num_recordings
        self.seconds += other.seconds
        self.worst = nlargest(NAMES_SHOWN, [*self.worst, *other.worst])


@dataclass(frozen=True, slots=True)
class Rows:
    """Every row of the readable files: `keys` (ledger.py's, with the fingerprint) and `ids`, shape (num_rows,), in the
    order of the files. `renamed`: task id by the file's name -> the keys of its rows, where these do not make that
    name."""

    keys: Keys
    ids: Keys
    kinds: dict[str, Kind]
    renamed: dict[str, Keys]
    num_files: int
    untranscribed: Untranscribed


@dataclass(slots=True)
class RunFolder:
    """A run's folder by its files, relative to it. `summary` is None where there is none that can be read."""

    run_id: str
    files: set[str] = field(default_factory=set)
    summary: Summary | None = None

    @property
    def succeeded(self) -> bool:
        return SUCCESS_FILE in self.files

    def below(self, folder: str) -> int:
        """How many files lie in one of its folders."""
        return sum(name.startswith(f"{folder}/") for name in self.files)


@dataclass(frozen=True, slots=True)
class Inventory:
    """Rows, run folders by name, and temporary files that nobody reads."""

    rows: Rows
    runs: dict[str, RunFolder]
    temporary: list[str]


def take(output: str, storage: Storage, findings: Findings) -> Inventory:
    """Lists the output once and reads all of its transcripts and summaries."""
    runs: dict[str, RunFolder] = {}
    temporary: list[str] = []
    others: list[str] = []

    def sorted_out() -> Iterator[str]:
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

    rows = _read_rows(sorted_out(), storage, findings, num_request_threads(output))
    _read_summaries(output, runs, storage, findings)
    if others:
        findings.notes.append(f"{len(others)} files in {TRANSCRIPTS}/ are no data, such as {others[0]}")
    return Inventory(rows, runs, temporary)


def take_runs(output: str, storage: Storage, findings: Findings) -> dict[str, RunFolder]:
    """The runs' folders alone, by their names."""
    runs: dict[str, RunFolder] = {}
    folder = join(output, RUNS_FOLDER)
    for entry in storage.list_files(folder):
        _add_file(runs, entry.uri.removeprefix(f"{folder}/"))
    _read_summaries(output, runs, storage, findings)
    return runs


def is_temporary(name: str) -> bool:
    """Whether storage.py's writer has left it behind."""
    return name.rsplit("/", 1)[-1].startswith(TEMPORARY)


def _add_file(runs: dict[str, RunFolder], name: str) -> None:
    """`name` below the folder of all runs."""
    run_id, _, file = name.partition("/")
    if file:
        runs.setdefault(run_id, RunFolder(run_id)).files.add(file)


@dataclass(frozen=True, slots=True)
class _File:
    """One file's rows, and what is wrong with it."""

    uri: str
    keys: Keys
    ids: Keys
    kinds: dict[str, Kind]
    untranscribed: Untranscribed
    faults: list[str]


def _read_rows(uris: Iterator[str], storage: Storage, findings: Findings, threads: int) -> Rows:
    keys, ids, kinds = [np.empty(0, KEY)], [np.empty(0, KEY)], defaultdict[str, Kind](Kind)
    renamed: dict[str, Keys] = {}
    untranscribed = Untranscribed()
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
            renamed[name] = file.keys
    return Rows(np.concatenate(keys), np.concatenate(ids), dict(kinds), renamed, num_files, untranscribed)


def _read_file(uri: str, storage: Storage) -> _File:
    """All of a file's pages are decoded; of an unreadable file what came before the damage counts."""
    keys, ids, kinds = [np.empty(0, KEY)], [np.empty(0, KEY)], defaultdict[str, Kind](Kind)
    faults: list[str] = []
    untranscribed = Untranscribed()
    try:
        with open_transcripts(uri, storage, verify_checksums=True) as file:
            schema = file.parquet.schema_arrow
            faults += _compare_schema(schema, file.version)
            if not set(_NEEDED) <= set(schema.names):
                return _File(uri, keys[0], ids[0], {}, untranscribed, faults)
            for batch in file.parquet.iter_batches(BATCH_ROWS):  # as it lies there: all of its pages
                rows = batch.select(_NEEDED).to_pydict()
                rows[_ADDED] = batch[_ADDED].to_pylist() if _ADDED in batch.schema.names else [None] * len(batch)
                faults += _contradictions(rows)
                names, sizes, versions = (rows[name] for name in IDENTITY)
                keys.append(recording_keys(names, sizes, versions, rows["fingerprint"]))
                ids.append(id_keys(names))
                _count(rows, kinds)
                untranscribed.add(_untranscribed(rows))
    except StorageError as error:
        faults.append(str(error))
    except (pa.ArrowException, OSError, ValueError) as error:
        faults.append(f"cannot be read as Parquet ({' '.join(str(error).split())[:300]})")
    return _File(uri, np.concatenate(keys), np.concatenate(ids), dict(kinds), untranscribed, faults)


_NEEDED = [
    *(*IDENTITY, "fingerprint", "status", "error_kind", "duration_s", "language", "model", "run_id"),
    *("normalizer", "quality_flags", "wer", *WORD_COUNTS),
]
_ADDED = "unheard_s"  # a file of an earlier version may lack it


def _compare_schema(schema: pa.Schema, version: int) -> list[str]:
    """Names and types against `TRANSCRIPT`; the order of columns is free, and fields that the version lacked may be
    there: what rewrites files often drops their metadata."""
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
    faults += [f"has columns that no output has: {', '.join(more)}"] if more else []
    return faults + [f"column {words}" for words in other]


def _contradictions(rows: dict[str, list[Any]]) -> list[str]:
    """What a row cannot say of itself, with the first row that does."""
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
            faults["whose wer is not its edits over its words"] = name
    return [f"has a row {words}: {name}" for words, name in faults.items()]


def _count(rows: dict[str, list[Any]], kinds: dict[str, Kind]) -> None:
    for i, name in enumerate(rows["fingerprint"]):
        kind = kinds[str(name)]
        kind.statuses[rows["status"][i]] += 1
        kind.models[rows["model"][i]] += 1
        kind.runs[rows["run_id"][i]] += 1
        kind.audio_s += rows["duration_s"][i] or 0.0
        kind.unheard_s += rows[_ADDED][i] or 0.0
        kind.quality_flags.update(rows["quality_flags"][i] or ())
        if rows["num_ref_words"][i] is not None:
            kind.normalizers[rows["language"][i] or UNKNOWN_LANGUAGE, rows["normalizer"][i] or ""] += 1
        for column in WORD_COUNTS:
            kind.sums[column] += rows[column][i] or 0


def _untranscribed(rows: dict[str, list[Any]]) -> Untranscribed:
    found = [
        (seconds or 0.0, str(name))
        for name, flags, seconds in zip(rows["recording_id"], rows["quality_flags"], rows[_ADDED], strict=True)
        if UNTRANSCRIBED_SPEECH in (flags or ())
    ]
    return Untranscribed(len(found), sum(seconds for seconds, _ in found), found)


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
    """A task of a plan: `keys` (with the run's fingerprint), `ids` and names of its recordings."""

    task_id: str
    keys: Keys
    ids: Keys
    names: list[str]


def read_plan(uri: str, fingerprint: str, storage: Storage) -> Iterator[PlannedTask]:
    """A plan's recordings, task after task. Raises `StorageError`, ArrowException or ValueError for what is not
    readable."""
    for file in list_data_files(uri, storage):
        with storage.open(file) as source:
            parquet = pq.ParquetFile(source)
            for group in range(parquet.num_row_groups):
                rows = parquet.read_row_group(group, columns=["task_id", *IDENTITY])
                ids, sizes, versions = (rows[name].to_pylist() for name in IDENTITY)
                keys = recording_keys(ids, sizes, versions, [fingerprint] * len(ids))
                yield PlannedTask(rows["task_id"][0].as_py(), keys, id_keys(ids), ids)
