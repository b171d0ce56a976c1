"""The ledger: which recordings the output already holds, read from the output itself.

A recording is done if a row with its id, its source's size and version, and the run's fingerprint stands in
``transcripts/``; a failed row counts too. In memory a row is two 16-byte keys and a flag in arrays: a million rows
are 33 MB, and 128 bits make two equal keys of different recordings a matter of 1 in 10^26 at that size. Names are not
kept; the few that a message needs are looked up in the files again.
"""

import hashlib
import io
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
    rows = zip(zip(ids, sizes, versions, strict=True), fingerprints, strict=False)  # may be endless
    # ascii() of a tuple is one-to-one, and the same in every process and version of Python.
    hashes = b"".join([digest(ascii(row).encode(), digest_size=KEY_BYTES).digest() for row in rows])
    return np.frombuffer(hashes, dtype=KEY)


def id_keys(ids: Sequence[str]) -> Keys:
    """One key a recording id, shape (num_recordings,): the same recording in whatever version of its source."""
    hashes = b"".join([hashlib.blake2b(ascii(name).encode(), digest_size=KEY_BYTES).digest() for name in ids])
    return np.frombuffer(hashes, dtype=KEY)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The rows of an output.

    `keys` is sorted, shape (num_rows,), and holds a key as often as there are rows with it; `ids` are the `id_keys` of
    the same rows, and `failed` tells which of them are failed ones. `fingerprints` counts rows by fingerprint.
    """

    keys: Keys
    ids: Keys
    failed: NDArray[np.bool_]
    fingerprints: dict[str, int]
    num_files: int

    @classmethod
    def read(cls, output_uri: str, storage: Storage) -> "Ledger":
        """Reads every Parquet file below ``transcripts/``; an output that is not there is an empty ledger.

        Raises `RunError` for a file that cannot be read: passing over it would do its recordings twice.
        """
        folder = join(output_uri, TRANSCRIPTS)
        parts, fingerprints = [_EMPTY], Counter[str]()
        threads = REMOTE_THREADS if is_remote(output_uri) else 1
        for part in map_ahead(lambda uri: _read_file(uri, storage), data_files(folder, storage), threads):
            parts.append(part)
            fingerprints.update(part.fingerprints)
        keys = np.concatenate([part.keys for part in parts])
        order = np.argsort(keys, kind="stable")
        ids = np.concatenate([part.ids for part in parts])[order]
        failed = np.concatenate([part.failed for part in parts])[order]
        return cls(keys[order], ids, failed, dict(fingerprints), len(parts) - 1)

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

    def superseded(self, listed_ids: Keys, listed_keys: Keys) -> Keys:
        """The keys of rows whose recording is listed, but in another version: its source has changed since."""
        other = ~np.isin(self.keys, listed_keys)
        return np.unique(self.keys[other][np.isin(self.ids[other], listed_ids)])


_EMPTY = Ledger(np.empty(0, KEY), np.empty(0, KEY), np.empty(0, np.bool_), {}, 0)


def drop_rows(keys: Keys, folder: str, storage: Storage) -> int:
    """Takes the rows with these keys out of an output's files; gives their number.

    A file is written anew in one piece, or deleted if nothing is left of it: whoever reads sees the rows before or
    after, and a run that dies in between leaves the rest to the next one.
    """
    dropped = 0
    for uri in list(data_files(folder, storage)) if len(keys) else []:
        table = pq.read_table(io.BytesIO(storage.read(uri)))
        rows = table.select([*_IDENTITY, "fingerprint"]).to_pydict()
        stays = ~np.isin(_batch_keys(rows, ""), keys)
        dropped += int((~stays).sum())
        if not stays.any():
            storage.delete(uri)
        elif not stays.all():
            storage.put(uri, parquet_bytes(table.filter(pa.array(stays))))
    return dropped


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file in memory: it is written whole or not at all."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def data_files(folder: str, storage: Storage) -> Iterator[str]:
    """The Parquet files below a folder; what is being written (``.tmp-…``) and what is no data is passed over."""
    return (entry.uri for entry in storage.list_files(folder) if is_data_file(entry.uri))


def is_data_file(uri: str) -> bool:
    """Whether a file holds rows, going by its name."""
    name = uri.rsplit("/", 1)[-1]
    return name.endswith(".parquet") and not name.startswith((".", "_"))


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
    keys, ids, failed, fingerprints = [_EMPTY.keys], [_EMPTY.ids], [_EMPTY.failed], Counter[str]()
    for batch in _batches(uri, [*_IDENTITY, "fingerprint", "status"], [], storage):
        keys.append(_batch_keys(batch, ""))
        ids.append(id_keys(batch["recording_id"]))
        failed.append(np.array([status == Status.FAILED for status in batch["status"]], np.bool_))
        fingerprints.update(batch["fingerprint"])
    return Ledger(np.concatenate(keys), np.concatenate(ids), np.concatenate(failed), dict(fingerprints), 1)


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
