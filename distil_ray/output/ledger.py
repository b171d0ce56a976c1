"""The ledger: recordings that the output already holds, read from the output itself.

A recording is done if ``transcripts/`` has a row with its id, the size and version of its audio file, and the run's
fingerprint; a failed row counts too. In memory a row is two 16-byte keys, a grade, a time and its position, in arrays:
a million rows take 49 MB, and with 128 bits the probability of equal keys is about 1 in 10^26 at that size. Ids are
not kept; the few that a message needs are looked up in the files. `ledger_rows.py` selects among the rows of a
recording.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distil_ray.errors import PERMANENT_KINDS, RunError
from distil_ray.output.ledger_index import ROW_BYTES, BlockRows, IndexUpdate, read_index
from distil_ray.output.reader import readable_version
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.schema import open_parquet
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import Status

KEY_BYTES = 16
KEY = np.dtype(f"S{KEY_BYTES}")  # sorts and compares like bytes
Keys = NDArray[np.bytes_]

TRANSCRIPTS = "transcripts"
IDENTITY = ["recording_id", "source_size", "source_version"]
ROW_COLUMNS = [*IDENTITY, "fingerprint", "status", "error_kind", "processed_at"]  # what `derive_rows` needs

# Grades of rows, in ascending order of preference. `retry_failed` repeats the first two.
FAILED = 0
RETRYABLE = 1  # partial, for a reason that may be gone at the next attempt
FINAL = 2

_BATCH_ROWS = 65_536


def recording_keys(
    ids: Iterable[str], sizes: Iterable[int | None], versions: Iterable[str | None], fingerprints: Iterable[str]
) -> Keys:
    """Returns one key per recording, shape (num_recordings,): the hash of all that makes its transcript current.

    The first three arguments have equal lengths; `fingerprints` is at least as long (`itertools.repeat`).
    """
    digest = hashlib.blake2b
    rows = zip(zip(ids, sizes, versions, strict=True), fingerprints, strict=False)  # may be endless
    # ascii() of a tuple is one-to-one, and the same in every process and version of Python.
    hashes = b"".join([digest(ascii(row).encode(), digest_size=KEY_BYTES).digest() for row in rows])
    return np.frombuffer(hashes, dtype=KEY)


def id_keys(ids: Sequence[str]) -> Keys:
    """Returns one key per recording id, shape (num_recordings,), whatever the version of its audio."""
    hashes = b"".join([hashlib.blake2b(ascii(name).encode(), digest_size=KEY_BYTES).digest() for name in ids])
    return np.frombuffer(hashes, dtype=KEY)


def isin_sorted(keys: Keys, held: Keys) -> NDArray[np.bool_]:
    """Returns which of `keys` are in `held`, which must be sorted; shape (len(keys),)."""
    if not len(held):
        return np.zeros(len(keys), np.bool_)
    index = np.minimum(np.searchsorted(held, keys), len(held) - 1)
    return np.asarray(held[index] == keys)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The rows of an output, sorted by key and time. All arrays have shape (num_rows,).

    Attributes:
        keys: `recording_keys` of the rows; repeated if several rows share a key.
        ids: `id_keys` of the rows.
        grades: `FAILED`, `RETRYABLE` or `FINAL`.
        times: Time of creation, microseconds since the epoch.
        file: Index into `files`.
        row: Row number in that file.
        files: URIs of the data files.
        fingerprints: Number of rows by fingerprint.
    """

    keys: Keys
    ids: Keys
    grades: NDArray[np.uint8]
    times: NDArray[np.int64]
    file: NDArray[np.int32]
    row: NDArray[np.int32]
    files: tuple[str, ...]
    fingerprints: dict[str, int]

    @classmethod
    def read(
        cls, output_uri: str, storage: Storage, counts_as: str | None = None, update: IndexUpdate | None = None
    ) -> "Ledger":
        """Returns the rows of every Parquet file below ``transcripts/``. An output that does not exist is empty.

        Files that the index of the output has in their current version are not read (`ledger_index.py`).

        Args:
            output_uri: Normalized URI of the output.
            storage: Storage of the output.
            counts_as: Fingerprint for the keys of all rows, instead of their own. The index is then not used, because
                it has the keys of their own.
            update: Gets the listing, and the rows that were not in the index (none with `counts_as`). Files of which it
                has entries of this run are not read.

        Raises:
            RunError: If a file cannot be read: skipping it would process its recordings twice.
        """
        folder = join(output_uri, TRANSCRIPTS)
        entries = [entry for entry in storage.list_files(folder) if is_data_file(entry.uri)]
        parts = [] if counts_as is not None else list(read_index(entries, output_uri, storage))
        is_left = np.ones(len(entries), np.bool_)
        for part in parts:
            is_left[part.files] = False
        own = [] if update is None or counts_as is not None else list(update.take_own(entries, is_left, output_uri))
        left = np.flatnonzero(is_left).tolist()
        read = ordered_parallel_map(
            lambda number: _read_file(number, entries[number].uri, storage, counts_as),
            left,
            num_request_threads(output_uri),
        )
        if update is not None:
            update.begin(entries)
        for part in chain(own, read):
            parts.append(part)
            if update is not None and counts_as is None:
                update.read.append(part)
        return _assemble(parts, tuple(entry.uri for entry in entries))

    @property
    def num_rows(self) -> int:
        return len(self.keys)

    def done_mask(self, keys: Keys, *, retry_failed: bool = False) -> NDArray[np.bool_]:
        """Returns which of `keys` are done, shape (len(keys),). With `retry_failed` only final rows count."""
        return isin_sorted(keys, self.keys[self.grades == FINAL] if retry_failed else self.keys)

    def failed_mask(self, ids: Keys) -> NDArray[np.bool_]:
        """Returns which of these `id_keys` have a row that is not final, in any version."""
        return np.isin(ids, self.ids[self.grades != FINAL])

    def newest(self, keys: Keys) -> NDArray[np.int64]:
        """Returns the time of the newest row of each key, shape (len(keys),); 0 for a key without a row."""
        if not self.num_rows:
            return np.zeros(len(keys), np.int64)
        last = np.maximum(np.searchsorted(self.keys, keys, side="right") - 1, 0)
        return np.where(self.keys[last] == keys, self.times[last], 0)

    def missing(self, keys: Keys) -> Keys:
        """Returns those of `keys` that have no row."""
        return keys[~self.done_mask(keys)]

    def duplicates(self) -> NDArray[np.int64]:
        """Returns the indices of rows that share their key with another row."""
        same = self.keys[1:] == self.keys[:-1]
        return np.flatnonzero(np.append(same, False) | np.append(False, same))

    def names(self, rows: NDArray[np.int64], storage: Storage, limit: int = 5) -> list[str]:
        """Returns at most `limit` recording ids of some rows, looked up in their files."""
        found: dict[str, None] = {}
        for number in rows.tolist():
            with storage.open(self.files[self.file[number]]) as file:
                ids = open_parquet(file).read(["recording_id"])
            found[ids["recording_id"][int(self.row[number])].as_py()] = None
            if len(found) == limit:
                break
        return list(found)


def _assemble(parts: Sequence[BlockRows], files: tuple[str, ...]) -> Ledger:
    """Returns the ledger of the rows of some files, in any order."""
    fingerprints = Counter[str]()
    for part in parts:
        fingerprints.update(part.fingerprints)
    numbers = np.concatenate([np.empty(0, np.int64), *(part.files for part in parts)])
    counts = np.concatenate([np.empty(0, np.int64), *(part.counts for part in parts)])
    starts = np.cumsum(counts) - counts
    columns: dict[str, Any] = {
        name: np.frombuffer(b"".join([part.columns[name] for part in parts]), _TYPES[name]) for name in ROW_BYTES
    }
    columns["file"] = np.repeat(numbers.astype(np.int32), counts)
    columns["row"] = (np.arange(counts.sum()) - np.repeat(starts, counts)).astype(np.int32)
    order = np.lexsort((columns["row"], columns["file"], columns["times"], columns["keys"]))
    return Ledger(
        **{name: column[order] for name, column in columns.items()}, files=files, fingerprints=dict(fingerprints)
    )


_TYPES: dict[str, Any] = {"keys": KEY, "ids": KEY, "grades": np.uint8, "times": np.dtype("<i8")}


def list_data_files(folder: str, storage: Storage) -> Iterator[str]:
    """Yields the Parquet files below a folder, without temporary files (``.tmp-…``) and metadata."""
    return (entry.uri for entry in storage.list_files(folder) if is_data_file(entry.uri))


def is_data_file(uri: str) -> bool:
    """Returns True if the name is that of a data file."""
    name = uri.rsplit("/", 1)[-1]
    return name.endswith(".parquet") and not name.startswith((".", "_"))


def find_ids(keys: Keys, folder: str, fingerprint: str, storage: Storage, limit: int = 5) -> list[str]:
    """Returns at most `limit` ids of the recordings with these keys, looked up in the files of a plan or an output.

    `fingerprint` is used where the files have no such column (a plan).
    """
    wanted = np.unique(keys)
    found: dict[str, None] = {}
    for uri in list_data_files(folder, storage):
        for batch in _batches(uri, IDENTITY, ["fingerprint"], storage):
            for index in np.flatnonzero(np.isin(_batch_keys(batch, fingerprint), wanted)):
                found[batch["recording_id"][index]] = None
                if len(found) == limit:
                    return list(found)
    return list(found)


def _read_file(number: int, uri: str, storage: Storage, counts_as: str | None) -> BlockRows:
    """Returns the rows of one file; `number`: that of the file in the listing."""
    return derive_rows(number, _batches(uri, ROW_COLUMNS, [], storage), counts_as)


def derive_rows(number: int, batches: Iterable[dict[str, list[Any]]], counts_as: str | None = None) -> BlockRows:
    """Returns the ledger's columns of the rows of one file of transcripts.

    Args:
        number: Number of the file in the listing.
        batches: Its rows, as values by column (`ROW_COLUMNS`).
        counts_as: Fingerprint for the keys of all rows, instead of their own.
    """
    parts: dict[str, list[bytes]] = {name: [] for name in ROW_BYTES}
    fingerprints = Counter[str]()
    for batch in batches:
        fingerprints.update(batch["fingerprint"])
        if counts_as is not None:
            batch["fingerprint"] = [counts_as] * len(batch["fingerprint"])
        parts["keys"].append(_batch_keys(batch, "").tobytes())
        parts["ids"].append(id_keys(batch["recording_id"]).tobytes())
        parts["grades"].append(bytes(map(_grade, batch["status"], batch["error_kind"])))
        times = [_microseconds(time) for time in batch["processed_at"]]
        parts["times"].append(np.array(times, _TYPES["times"]).tobytes())
    columns = {name: b"".join(values) for name, values in parts.items()}
    return BlockRows(np.array([number]), np.array([len(columns["grades"])]), columns, dict(fingerprints))


def _grade(status: str, error_kind: str | None) -> int:
    if status == Status.FAILED:
        return FAILED
    return RETRYABLE if status == Status.PARTIAL and error_kind not in PERMANENT_KINDS else FINAL


def _microseconds(time: datetime | None) -> int:
    return 0 if time is None else (time - _EPOCH) // timedelta(microseconds=1)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _batch_keys(batch: dict[str, list[Any]], fingerprint: str) -> Keys:
    fingerprints: Sequence[str] = batch.get("fingerprint") or [fingerprint] * len(batch["recording_id"])
    return recording_keys(batch["recording_id"], batch["source_size"], batch["source_version"], fingerprints)


def _batches(uri: str, needed: list[str], optional: list[str], storage: Storage) -> Iterator[dict[str, list[Any]]]:
    """Yields columns of a Parquet file as lists, `_BATCH_ROWS` rows at a time."""
    with storage.open(uri) as file:
        try:
            parquet = open_parquet(file)
            readable_version(uri, parquet.schema_arrow)
            columns = needed + [name for name in optional if name in parquet.schema_arrow.names]
            lacking = set(needed) - set(parquet.schema_arrow.names)
            if lacking:
                raise RunError(f"{uri}: has no column {', '.join(sorted(lacking))}; is it an output of this program?")
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=columns):
                yield batch.to_pydict()
        except (pa.ArrowException, OSError) as error:
            raise RunError(
                f"{uri}: cannot be read as Parquet ({' '.join(str(error).split())[:300]}). Its recordings would be"
                " processed again: restore it, or move it out of the output"
            ) from error
