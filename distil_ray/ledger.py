"""The ledger: which recordings the output already holds, read from the output itself.

A recording is done if a row with its id, its source's size and version, and the run's fingerprint stands in
``transcripts/``; a failed row counts too. In memory a row is a 16-byte key and a flag in sorted arrays: a million rows
are 17 MB, and 128 bits make two equal keys of different recordings a matter of 1 in 10^26 at that size. Names are not
kept; the few that a message needs are looked up in the files again.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distil_ray.errors import RunError
from distil_ray.schema import Status
from distil_ray.sources.ahead import REMOTE_THREADS, map_ahead
from distil_ray.storage import Storage, is_remote, join

KEY_BYTES = 16
KEY = np.dtype(f"S{KEY_BYTES}")  # sorts and compares like bytes
Keys = NDArray[np.bytes_]

TRANSCRIPTS = "transcripts"
_IDENTITY = ["recording_id", "source_size", "source_version"]
_BATCH_ROWS = 65_536


def recording_keys(
    ids: Iterable[str], sizes: Iterable[int | None], versions: Iterable[str | None], fingerprints: Iterable[str]
) -> Keys:
    """One key a recording, shape (num_recordings,): the hash of what must be equal for its transcript to be current.

    The first three are of equal length; `fingerprints` is at least as long (`itertools.repeat`).
    """
    digest = hashlib.blake2b
    rows = zip(zip(ids, sizes, versions, strict=True), fingerprints, strict=False)  # fingerprints may be endless
    # ascii() of a tuple is one-to-one, and the same in every process and version of Python.
    hashes = b"".join([digest(ascii(row).encode(), digest_size=KEY_BYTES).digest() for row in rows])
    return np.frombuffer(hashes, dtype=KEY)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The rows of an output.

    `keys` is sorted, shape (num_rows,), and holds a key as often as there are rows with it; `failed` tells which of
    them are failed rows. `fingerprints` counts rows by fingerprint.
    """

    keys: Keys
    failed: NDArray[np.bool_]
    fingerprints: dict[str, int]
    num_files: int

    @classmethod
    def read(cls, output_uri: str, storage: Storage) -> "Ledger":
        """Reads every Parquet file below ``transcripts/``; an output that is not there is an empty ledger.

        Raises `RunError` for a file that cannot be read: passing over it would do its recordings twice.
        """
        folder = join(output_uri, TRANSCRIPTS)
        keys, failed, fingerprints, num_files = [np.empty(0, KEY)], [np.empty(0, np.bool_)], Counter[str](), 0
        threads = REMOTE_THREADS if is_remote(output_uri) else 1
        for part in map_ahead(lambda uri: _read_file(uri, storage), data_files(folder, storage), threads):
            keys.append(part.keys)
            failed.append(part.failed)
            fingerprints.update(part.fingerprints)
            num_files += 1
        return cls(*_sorted(np.concatenate(keys), np.concatenate(failed)), dict(fingerprints), num_files)

    @property
    def num_rows(self) -> int:
        return len(self.keys)

    def done_mask(self, keys: Keys, *, retry_failed: bool = False) -> NDArray[np.bool_]:
        """Which of `keys` are done, shape (len(keys),). With `retry_failed` a failed row does not count."""
        held = self.keys[~self.failed] if retry_failed else self.keys
        if not len(held):
            return np.zeros(len(keys), np.bool_)
        place = np.minimum(np.searchsorted(held, keys), len(held) - 1)
        return np.asarray(held[place] == keys)

    def missing(self, keys: Keys) -> Keys:
        """Those of `keys` that have no row: what a run listed and did not deliver."""
        return keys[~self.done_mask(keys)]

    def doubled(self) -> Keys:
        """The keys that more than one row has, each once."""
        return np.unique(self.keys[1:][self.keys[1:] == self.keys[:-1]])


def data_files(folder: str, storage: Storage) -> Iterator[str]:
    """The Parquet files below a folder; what is being written (``.tmp-…``) and what is no data is passed over."""
    for entry in storage.list_files(folder):
        name = entry.uri.rsplit("/", 1)[-1]
        if name.endswith(".parquet") and not name.startswith((".", "_")):
            yield entry.uri


def find_ids(keys: Keys, folder: str, fingerprint: str, storage: Storage, limit: int = 5) -> list[str]:
    """At most `limit` ids of the recordings with these keys, looked up in a plan's or an output's Parquet files.

    Where the files have no column ``fingerprint`` (a plan), `fingerprint` stands for it.
    """
    wanted = np.unique(keys)
    found: dict[str, None] = {}
    for uri in data_files(folder, storage):
        for batch in _batches(uri, _IDENTITY, ["fingerprint"], storage):
            for place in np.flatnonzero(np.isin(_batch_keys(batch, fingerprint), wanted)):
                found[batch["recording_id"][place]] = None
                if len(found) == limit:
                    return list(found)
    return list(found)


def _read_file(uri: str, storage: Storage) -> Ledger:
    keys, failed, fingerprints = [np.empty(0, KEY)], [np.empty(0, np.bool_)], Counter[str]()
    for batch in _batches(uri, [*_IDENTITY, "fingerprint", "status"], [], storage):
        keys.append(_batch_keys(batch, ""))
        failed.append(np.array([status == Status.FAILED for status in batch["status"]], np.bool_))
        fingerprints.update(batch["fingerprint"])
    return Ledger(np.concatenate(keys), np.concatenate(failed), dict(fingerprints), 1)


def _batch_keys(batch: dict[str, list[Any]], fingerprint: str) -> Keys:
    fingerprints: Sequence[str] = batch.get("fingerprint") or [fingerprint] * len(batch["recording_id"])
    return recording_keys(batch["recording_id"], batch["source_size"], batch["source_version"], fingerprints)


def _batches(uri: str, needed: list[str], optional: list[str], storage: Storage) -> Iterator[dict[str, list[Any]]]:
    """Columns of a Parquet file as lists, a batch of rows at a time."""
    with storage.open(uri) as file:
        try:
            parquet = pq.ParquetFile(file)
            columns = needed + [name for name in optional if name in parquet.schema_arrow.names]
            lacking = set(needed) - set(parquet.schema_arrow.names)
            if lacking:
                raise RunError(f"{uri}: has no column {', '.join(sorted(lacking))}; is it an output of this program?")
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=columns):
                yield batch.to_pydict()
        except (pa.ArrowException, OSError) as error:
            raise RunError(
                f"{uri}: cannot be read as Parquet ({' '.join(str(error).split())[:300]}). What it holds would be done"
                " again: restore it, or move it out of the output"
            ) from error


def _sorted(keys: Keys, failed: NDArray[np.bool_]) -> tuple[Keys, NDArray[np.bool_]]:
    order = np.argsort(keys, kind="stable")
    return keys[order], failed[order]
