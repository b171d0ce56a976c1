"""The plan of a run: recordings to process, packed into tasks of bounded audio, as Parquet in the run folder.

`task_packing.py` says which recordings are packed together.

One row group is one task; a stage gets the number of the row group and reads nothing else. A file has
`TASKS_PER_FILE` row groups, because every read fetches the footer of the file, which grows by 0.8 kB per task. Ids,
texts and metadata are kept in a temporary file on the driver's disk; its memory holds about 50 bytes per recording, 200
at the peak.
"""

import gc
import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distil_ray.config import PlanConfig
from distil_ray.errors import RunError
from distil_ray.output.ledger import KEY, Keys, Ledger, id_keys, recording_keys
from distil_ray.pipeline.task_packing import pack_tasks
from distil_ray.readers.durations import DurationReader
from distil_ray.readers.location import (
    byte_range_file,
    estimate_recording_duration_s,
    read_unit_key,
    unread_file,
)
from distil_ray.redaction import environment_secrets, has_secret, redact
from distil_ray.schema import PLAN, RECORDING, open_parquet, parse_location, parse_prompt
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import SAMPLE_RATE, Recording, SpeakerTurn

TASKS_PER_FILE = 100
BATCH_ROWS = 16_384  # recordings taken from the listing at once
COLLECTION_OBJECTS = 100_000  # new objects between two searches for cycles of references; Python's default: 700

PLANNED_TASK = pa.schema([("task_id", pa.string()), ("num_recordings", pa.int64()), ("estimated_s", pa.float64())])


@dataclass(frozen=True, slots=True)
class Plan:
    """Work of a run.

    The written plan holds no credentials. URIs with credentials travel to the decode stage with the pointer to the
    task, and are in no file.

    Attributes:
        uri: Folder of the plan; empty if it was not written.
        num_listed: Listed recordings that this run is responsible for, done ones included.
        num_skipped: Further listed recordings, skipped because `retry_failed` processes only those with failed rows.
        num_done: Recordings that the output already holds.
        num_recordings: Recordings to process.
        num_tasks: Tasks they are packed into.
        estimated_s: Audio seconds to process.
        known_s: Part of `estimated_s` with durations stated by the input or by headers.
        tasks: Table `PLANNED_TASK`, one row per task in the order of work; the row number is the task's `row_group`.
        samples: Durations at 16 kHz of the recordings to process, unordered, shape (num_recordings,).
        listed_keys: `recording_keys` of the `num_listed` recordings.
        listed_ids: `id_keys` of the same recordings.
        unread_files: URIs of files, without credentials, of which not all recordings could be listed.
        secret_uris: URIs with credentials, by row group and row in it.
    """

    uri: str
    num_listed: int
    num_skipped: int
    num_done: int
    num_recordings: int
    num_tasks: int
    estimated_s: float
    known_s: float
    tasks: pa.Table
    samples: NDArray[np.int64]
    listed_keys: Keys
    listed_ids: Keys
    unread_files: frozenset[str] = frozenset()
    secret_uris: Mapping[int, Mapping[int, str]] = field(default_factory=dict)

    def num_chunks(self, length_samples: int) -> int:
        """Returns the number of chunks of at most that length, by the durations."""
        return int(np.maximum(-(-self.samples // length_samples), 1).sum())


@dataclass(frozen=True, slots=True)
class _Remaining:
    """Columns of the recordings to process, each of shape (num_recordings,)."""

    keys: Keys
    samples: NDArray[np.int64]  # duration at 16 kHz, known or estimated
    units: NDArray[np.uint64]  # hash of the unit that is read at once, 0 for none
    ranges: NDArray[np.bool_]  # whether the unit consists of byte ranges
    known: NDArray[np.bool_]
    replaces: NDArray[np.int64]  # time of the row to be replaced (`Ledger.newest`), 0 for none


@dataclass(frozen=True, slots=True)
class _Listed:
    """Keys of the listed recordings, done or not, each of shape (num_listed,), and the number of skipped ones.

    `secret_uris` is keyed by the index of a recording among those to process.
    """

    keys: Keys
    ids: Keys
    num_skipped: int
    unread_files: frozenset[str]
    secret_uris: Mapping[int, str]


def make_plan(
    recordings: Iterable[Recording],
    ledger: Ledger,
    fingerprint: str,
    config: PlanConfig,
    folder_uri: str | None,
    storage: Storage,
    *,
    retry_failed: bool = False,
) -> Plan:
    """Subtracts the ledger from the listing, packs the rest into tasks and writes the plan.

    Args:
        recordings: The listing.
        ledger: Rows of the output.
        fingerprint: Fingerprint of this run's settings.
        config: Limits of a task.
        folder_uri: Folder for the plan; None: nothing is written.
        storage: Storage of the output.
        retry_failed: Process only recordings with failed or retryable rows; new recordings are skipped.
    """
    with tempfile.TemporaryDirectory(prefix="distil-ray-plan-") as folder:
        spill = Path(folder) / "recordings.arrow"
        with DurationReader(storage) as durations, _fewer_collections():
            listed, remaining = _subtract(
                recordings, ledger, fingerprint, retry_failed, spill if folder_uri else None, durations
            )
        limits = round(config.task_audio_s * SAMPLE_RATE), config.task_recordings
        order, starts = pack_tasks(remaining.samples, remaining.keys, remaining.units, *limits, remaining.ranges)
        tasks = _describe(remaining, order, starts)
        if folder_uri and len(order):
            _write(spill, remaining, order, starts, tasks, folder_uri, storage)
    return Plan(
        uri=folder_uri or "",
        num_listed=len(listed.keys),
        num_skipped=listed.num_skipped,
        num_done=len(listed.keys) - len(order),
        num_recordings=len(order),
        num_tasks=tasks.num_rows,
        estimated_s=int(remaining.samples.sum()) / SAMPLE_RATE,
        known_s=int(remaining.samples[remaining.known].sum()) / SAMPLE_RATE,
        tasks=tasks,
        samples=remaining.samples,
        listed_keys=listed.keys,
        listed_ids=listed.ids,
        unread_files=listed.unread_files,
        secret_uris=_by_task(listed.secret_uris, order, starts),
    )


@dataclass(frozen=True, slots=True)
class InMemoryTask:
    """A task of a plan that is not written.

    Attributes:
        positions: Its recordings, as positions in the listing, in the order of work.
        estimated_s: Seconds of audio, as estimated.
    """

    positions: list[int]
    estimated_s: float


def plan_in_memory(recordings: Sequence[Recording], fingerprint: str, config: PlanConfig) -> list[InMemoryTask]:
    """Packs recordings into the tasks that `make_plan` makes of them, without a ledger and without files."""
    samples = _estimate_samples(recordings)
    limits = round(config.task_audio_s * SAMPLE_RATE), config.task_recordings
    keys, (units, ranges) = _keys(recordings, fingerprint), _units(recordings)
    order, starts = pack_tasks(samples, keys, units, *limits, ranges)
    tasks = (order[start:end] for start, end in pairwise(starts.tolist()))
    return [InMemoryTask(task.tolist(), int(samples[task].sum()) / SAMPLE_RATE) for task in tasks]


def read_task(plan_uri: str, row_group: int, storage: Storage) -> pa.Table:
    """Returns the rows (RECORDING) of one task, in order. Raises `RunError` if the plan has no such task."""
    uri = _file_uri(plan_uri, row_group // TASKS_PER_FILE)
    with storage.open(uri) as file:
        parquet = open_parquet(file)
        index = row_group % TASKS_PER_FILE
        if row_group < 0 or index >= parquet.num_row_groups:
            raise RunError(f"{uri}: the plan has no task {row_group}")
        return parquet.read_row_group(index, columns=RECORDING.names)


def parse_recordings(rows: pa.Table) -> list[Recording]:
    """Returns the recordings of rows of RECORDING."""
    return [_parse_planned(row) for row in rows.to_pylist(maps_as_pydicts="strict")]


def _parse_planned(row: Mapping[str, Any]) -> Recording:
    turns = row["speaker_turns"]
    nested = {
        "location": parse_location(row["location"]),
        "speaker_turns": None if turns is None else tuple(SpeakerTurn(**turn) for turn in turns),
        "metadata": row["metadata"] or {},
        "prompt": parse_prompt(row["prompt"]),
    }
    return Recording(**{**row, **nested})


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Lets Python look less often for cycles of references: a listing makes millions of objects, and none are cycles.

    It takes a sixth of the time of a listing otherwise.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], COLLECTION_OBJECTS) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _subtract(
    recordings: Iterable[Recording],
    ledger: Ledger,
    fingerprint: str,
    retry_failed: bool,
    spill: Path | None,
    durations: DurationReader,
) -> tuple[_Listed, _Remaining]:
    """Splits the listing into done and remaining recordings; writes the latter to the file `spill`, in order."""
    listed, ids, remaining = (
        [np.empty(0, KEY)],
        [np.empty(0, KEY)],
        [_estimate([], np.empty(0, KEY), ledger, durations)],
    )
    secret_uris: dict[int, str] = {}
    unread_files: set[str] = set()
    num_skipped = num_rest = 0
    stream = iter(recordings)
    writer = pa.ipc.new_file(spill, RECORDING) if spill else None
    try:
        while batch := list(islice(stream, BATCH_ROWS)):
            keys = _keys(batch, fingerprint)
            names = id_keys([one.recording_id for one in batch])
            todo = ~ledger.done_mask(keys, retry_failed=retry_failed)
            left = todo & ~ledger.failed_mask(names) if retry_failed else np.zeros(len(batch), np.bool_)
            todo &= ~left
            rest = [one for one, is_left in zip(batch, todo.tolist(), strict=True) if is_left]
            listed.append(keys[~left])
            ids.append(names[~left])
            num_skipped += int(left.sum())
            unread_files.update(filter(None, map(unread_file, batch)))
            secret_uris |= {num_rest + i: one.uri for i, one in enumerate(rest) if has_secret(one.uri)}
            num_rest += len(rest)
            if rest:
                remaining.append(_estimate(rest, keys[todo], ledger, durations))
                if writer:
                    writer.write_batch(_as_batch(rest))
    finally:
        if writer:
            writer.close()
    columns = {name: np.concatenate([getattr(one, name) for one in remaining]) for name in _Remaining.__slots__}
    found = _Listed(np.concatenate(listed), np.concatenate(ids), num_skipped, frozenset(unread_files), secret_uris)
    return found, _Remaining(**columns)


def _keys(recordings: Sequence[Recording], fingerprint: str) -> Keys:
    return recording_keys(
        (one.recording_id for one in recordings),
        (one.source_size for one in recordings),
        (one.source_version for one in recordings),
        repeat(fingerprint),
    )


def _by_task(uris: Mapping[int, str], order: NDArray[np.int64], starts: NDArray[np.int64]) -> dict[int, dict[int, str]]:
    """Returns URIs by row group and row in it, from URIs by index."""
    found: defaultdict[int, dict[int, str]] = defaultdict(dict)
    if uris:
        positions = np.argsort(order)
        for number, uri in uris.items():
            group = int(np.searchsorted(starts, positions[number], side="right")) - 1
            found[group][int(positions[number] - starts[group])] = uri
    return dict(found)


def _estimate(recordings: Sequence[Recording], keys: Keys, ledger: Ledger, durations: DurationReader) -> _Remaining:
    found = durations.read(recordings)
    samples = np.array([round(one.seconds * SAMPLE_RATE) for one in found], np.int64)
    known = np.array([one.is_known for one in found], np.bool_)
    return _Remaining(keys, samples, *_units(recordings), known, ledger.newest(keys))


def _estimate_samples(recordings: Sequence[Recording]) -> NDArray[np.int64]:
    samples = [round(estimate_recording_duration_s(one) * SAMPLE_RATE) for one in recordings]
    return np.array(samples, np.int64)


def _units(recordings: Sequence[Recording]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Returns the hash of each recording's unit, and whether the unit consists of byte ranges."""
    files = [byte_range_file(one) for one in recordings]
    units = [_unit_hash(file or read_unit_key(one)) for one, file in zip(recordings, files, strict=True)]
    return np.array(units, np.uint64), np.array([file is not None for file in files], np.bool_)


def _unit_hash(unit: str | None) -> int:
    """Returns a 64-bit hash of the name of a unit, the same in every process; 0 for None."""
    return 0 if unit is None else int.from_bytes(hashlib.blake2b(unit.encode(), digest_size=8).digest(), "little") or 1


def redact_recordings(recordings: Sequence[Recording]) -> list[Recording]:
    """Returns the recordings without the credentials in their URIs and metadata, as a plan holds them."""
    secrets = environment_secrets()
    return [
        replace(
            one,
            uri=redact(one.uri, secrets),
            rttm_uri=one.rttm_uri and redact(one.rttm_uri, secrets),
            metadata={key: redact(value, secrets) for key, value in one.metadata.items()},
        )
        for one in recordings
    ]


def _as_batch(recordings: Sequence[Recording]) -> pa.RecordBatch:
    redacted = redact_recordings(recordings)
    columns: dict[str, list[Any]] = {name: [getattr(one, name) for one in redacted] for name in RECORDING.names}
    columns["location"] = [location and asdict(location) for location in columns["location"]]
    columns["speaker_turns"] = [turns and [asdict(turn) for turn in turns] for turns in columns["speaker_turns"]]
    columns["prompt"] = [prompt and asdict(prompt) for prompt in columns["prompt"]]
    columns["metadata"] = [list(one.metadata.items()) for one in redacted]
    return pa.RecordBatch.from_pydict(columns, schema=RECORDING)


def task_id(keys: Keys, replaces: NDArray[np.int64] | None = None) -> str:
    """Returns the id of a task of recordings with these keys, in order; the same in every rerun.

    Retried recordings have rows already, in a task that may have the same id. The times of these rows (`Ledger.newest`)
    are therefore hashed too; two runs that retry the same recordings still agree on the id.
    """
    contents = keys.tobytes()
    if replaces is not None and replaces.any():
        contents += replaces.astype("<i8").tobytes()
    return hashlib.blake2b(contents, digest_size=12).hexdigest()


def _describe(remaining: _Remaining, order: NDArray[np.int64], starts: NDArray[np.int64]) -> pa.Table:
    """Returns the table of tasks."""
    keys, replaces = remaining.keys[order], remaining.replaces[order]
    ends = np.concatenate(([0], np.cumsum(remaining.samples[order])))
    ids = [task_id(keys[start:end], replaces[start:end]) for start, end in pairwise(starts.tolist())]
    return pa.table([ids, np.diff(starts), np.diff(ends[starts]) / SAMPLE_RATE], schema=PLANNED_TASK)


def _write(
    spill: Path,
    remaining: _Remaining,
    order: NDArray[np.int64],
    starts: NDArray[np.int64],
    tasks: pa.Table,
    folder_uri: str,
    storage: Storage,
) -> None:
    """Writes the files of the plan; each is built in memory and written at once."""
    ids = tasks["task_id"].to_pylist()
    with pa.memory_map(str(spill)) as source:
        reader = pa.ipc.open_file(source)
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        for first in range(0, len(ids), TASKS_PER_FILE):
            bounds = starts[first : first + TASKS_PER_FILE + 1]
            positions = order[bounds[0] : bounds[-1]]
            names = pa.array(np.repeat(ids[first : first + TASKS_PER_FILE], np.diff(bounds)), pa.string())
            seconds = pa.array(remaining.samples[positions] / SAMPLE_RATE)
            rows = pa.Table.from_arrays([names, seconds, *gather(batches, positions).columns], schema=PLAN)
            data = _row_groups(rows, (bounds - bounds[0]).tolist())
            storage.put(_file_uri(folder_uri, first // TASKS_PER_FILE), data)


def gather(batches: Sequence[pa.RecordBatch], positions: NDArray[np.int64]) -> pa.Table:
    """Returns the rows with these numbers, counted over all batches, in that order."""
    offsets = np.cumsum([0, *(batch.num_rows for batch in batches)])
    owner = np.searchsorted(offsets, positions, side="right") - 1
    by_owner = np.argsort(owner, kind="stable")
    owners, counts = np.unique(owner, return_counts=True)
    pieces = np.split(positions[by_owner], np.cumsum(counts)[:-1])
    taken = [
        batches[index].take(pa.array(piece - offsets[index]))
        for index, piece in zip(owners.tolist(), pieces, strict=True)
    ]
    return pa.Table.from_batches(taken).combine_chunks().take(pa.array(np.argsort(by_owner)))


def _row_groups(rows: pa.Table, bounds: Sequence[int]) -> bytes:
    """Returns a Parquet file with the rows between neighboring bounds as its row groups."""
    sink = pa.BufferOutputStream()
    # Dictionaries of a hundred values each would add a fifth to the time and a third to the size.
    with pq.ParquetWriter(sink, PLAN, compression="zstd", write_statistics=False, use_dictionary=False) as writer:
        for start, end in pairwise(bounds):
            writer.write_table(rows.slice(start, end - start), row_group_size=end - start)
    return bytes(sink.getvalue())


def _file_uri(plan_uri: str, number: int) -> str:
    return join(plan_uri, f"tasks-{number:05d}.parquet")
