"""The index of a ledger: the rows of many files of transcripts in few files, derived from them.

    OUTPUT/ledger/<hash>.parquet    one row per file of transcripts: its path, size and version, and the ledger's
                                    columns of its rows

The output stays the truth. Which files there are is read from the listing of ``transcripts/``. An entry of the index
counts only for a file that is listed with the same size and version (the etag, or the modification time), and spares
reading that file. What the index lacks, or has of another version, is read itself. An index file that is damaged, of a
later version or gone is passed over. So the folder may be deleted at any time; the next run writes it again.

A file is named after its content and stored only if absent. Runs add files at their end, while they hold the lease. Of
many small files one is made, which names those that it replaces; readers pass over these, and a later run removes
them `GRACE_S` after.
"""

import hashlib
import io
import json
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distil_ray.schema import open_parquet, to_parquet_bytes
from distil_ray.storage.storage import Entry, Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import is_remote, join

logger = logging.getLogger(__name__)

INDEX_FOLDER = "ledger"  # below the output
INDEX_VERSION = 1  # increase it when the meaning of a column changes, or the keys of rows do
MIN_BLOCKS = 200  # files not in the index from which a run adds them: fewer are read in a second
MAX_ROWS = 1 << 20  # rows of transcripts in an index file, which then has some 45 MB; more only in one block
MAX_SMALL = 16  # index files of less than half as many rows, from which they are merged
GRACE_S = 24 * 3600.0  # until a replaced index file is removed: readers may have listed it
RACY_S = 2.0  # a local file that was modified so recently may change again within one tick of the file system's clock

_INFO_KEY = b"distil_ray.ledger_index"
_SCHEMA = pa.schema(
    [
        ("path", pa.string()),  # below transcripts/
        ("size", pa.int64()),
        ("version", pa.string()),
        ("keys", pa.large_binary()),  # 16 bytes a row, as `ledger.recording_keys`
        ("ids", pa.large_binary()),  # 16 bytes a row, as `ledger.id_keys`
        ("grades", pa.large_binary()),  # uint8
        ("times", pa.large_binary()),  # int64, little-endian
        ("fingerprints", pa.map_(pa.string(), pa.int64())),  # number of rows by fingerprint
    ]
)
ROW_BYTES = {"keys": 16, "ids": 16, "grades": 1, "times": 8}


@dataclass(frozen=True, slots=True)
class BlockRows:
    """The ledger's columns of the rows of some files of transcripts, file after file.

    Attributes:
        files: Numbers of the files in the listing, shape (num_files,).
        counts: Rows of each, shape (num_files,).
        columns: Bytes of `ROW_BYTES` by name; of all rows in order.
        fingerprints: Number of rows by fingerprint.
    """

    files: NDArray[np.int64]
    counts: NDArray[np.int64]
    columns: dict[str, bytes]
    fingerprints: dict[str, int]


@dataclass(slots=True)
class IndexUpdate:
    """Collects, while a ledger is read, what its index lacks.

    Attributes:
        entries: The listed files of transcripts.
        read: Rows of the files that were read themselves, one `BlockRows` each.
    """

    entries: Sequence[Entry] = ()
    read: list[BlockRows] = field(default_factory=list)

    def begin(self, entries: Sequence[Entry]) -> None:
        """Forgets what an earlier reading of the ledger has collected."""
        self.entries, self.read = entries, []

    def write(self, output_uri: str, storage: Storage) -> None:
        """Adds the collected files to the index, if they are many; merges and removes index files.

        Only for the holder of the lease. Errors of the storage are logged: the index only saves time.
        """
        newest = time.time() - RACY_S
        chosen = [
            rows
            for rows in self.read
            if (entry := self.entries[int(rows.files[0])]).version is not None
            and (is_remote(entry.uri) or (entry.modified or newest) < newest)
        ]
        if len(chosen) < MIN_BLOCKS:
            return
        try:
            stored = _load_all(output_uri, storage)
            _write(_to_table(chosen, self.entries, output_uri), stored, self.entries, output_uri, storage)
        except StorageError as error:
            logger.warning("the index of the ledger could not be written: %s", error)


@dataclass(frozen=True, slots=True)
class _IndexFile:
    """A valid index file, and the names of those that it replaces."""

    entry: Entry
    table: pa.Table
    replaces: frozenset[str]

    @property
    def name(self) -> str:
        return self.entry.uri.rsplit("/", 1)[-1]

    @property
    def num_rows(self) -> int:
        """Rows of transcripts."""
        return int(pc.sum(pc.binary_length(self.table["grades"])).as_py() or 0)


def read_index(entries: Sequence[Entry], output_uri: str, storage: Storage) -> Iterator[BlockRows]:
    """Yields the rows of listed files of transcripts that the index has in their current version, each file once."""
    if not entries:
        return
    try:
        files = _load_all(output_uri, storage)
    except StorageError as error:
        logger.warning("the index of the ledger could not be read: %s", error)
        return
    missing = _identities(entries, output_uri)
    for file in _without_replaced(files):
        numbers = _take(file.table, missing)
        found = np.flatnonzero(numbers >= 0)
        if len(found):
            yield _from_table(file.table.take(pa.array(found)), numbers[found])


def drop_blocks(paths: Collection[str], output_uri: str, storage: Storage) -> None:
    """Removes the entries of files of transcripts, by their paths below ``transcripts/``. For the lease's holder only.

    Entries of files that have changed are passed over anyway; they still hold hashes of ids that are no longer there.
    """
    for file in _load_all(output_uri, storage):
        kept = file.table.filter(
            pc.invert(pc.is_in(file.table["path"], value_set=pa.array(sorted(paths), pa.string())))
        )
        if kept.num_rows < file.table.num_rows:
            if kept.num_rows:
                _put(kept, [file.name, *file.replaces], output_uri, storage)
            storage.delete_file(file.entry.uri)


def _identities(entries: Sequence[Entry], output_uri: str) -> dict[tuple[str, int | None, str | None], int]:
    """Returns the numbers of the files by what has to be equal; not of those without a version."""
    prefix = _prefix(output_uri)
    return {
        (entry.uri.removeprefix(prefix), entry.size, entry.version): number
        for number, entry in enumerate(entries)
        if entry.version is not None
    }


def _prefix(output_uri: str) -> str:
    return join(output_uri, "transcripts", "")  # ledger.TRANSCRIPTS; that module imports this one


def _take(table: pa.Table, missing: dict[tuple[str, int | None, str | None], int]) -> NDArray[np.int64]:
    """Returns the number of the file of each row of an index, -1 for none; removes the found ones from `missing`."""
    identities = zip(*(table[name].to_pylist() for name in ("path", "size", "version")), strict=True)
    return np.array([missing.pop(identity, -1) for identity in identities], np.int64)


def _without_replaced(files: Sequence[_IndexFile]) -> list[_IndexFile]:
    replaced = frozenset[str]().union(*(file.replaces for file in files))
    return [file for file in files if file.name not in replaced]


def _load_all(output_uri: str, storage: Storage) -> list[_IndexFile]:
    """Returns the valid index files, by name."""
    listed = storage.list_files(join(output_uri, INDEX_FOLDER))
    return [file for entry in listed if (file := _load(entry, storage)) is not None]


def _load(entry: Entry, storage: Storage) -> _IndexFile | None:
    """Returns an index file; None if it is no complete index of this version. Its name proves its content."""
    try:
        data = storage.read(entry.uri)
        if entry.uri.rsplit("/", 1)[-1] != _name(data):
            return None
        table = open_parquet(io.BytesIO(data)).read()
        info = json.loads((table.schema.metadata or {}).get(_INFO_KEY, b"{}"))
        if info.get("version") != INDEX_VERSION or not table.schema.equals(_SCHEMA, check_metadata=False):
            return None
        return _IndexFile(entry, table, frozenset(info["replaces"]))
    except (StorageError, pa.ArrowException, OSError, ValueError):
        return None


def _name(data: bytes) -> str:
    return f"{hashlib.blake2b(data, digest_size=16).hexdigest()}.parquet"


def _from_table(table: pa.Table, numbers: NDArray[np.int64]) -> BlockRows:
    counts = pc.binary_length(table["grades"]).to_numpy().astype(np.int64)
    columns = {name: _joined(table[name]) for name in ROW_BYTES}
    prints = table["fingerprints"].combine_chunks()
    totals = Counter[str]()
    for name, count in zip(prints.keys.to_pylist(), prints.items.to_pylist(), strict=True):
        totals[name] += count
    return BlockRows(numbers, counts, columns, dict(totals))


def _joined(column: pa.ChunkedArray) -> bytes:
    """Returns the values of a binary column, one after the other."""
    return b"".join(
        chunk.buffers()[2].slice(begin := _offset(chunk, 0), _offset(chunk, len(chunk)) - begin).to_pybytes()
        for chunk in column.chunks
        if len(chunk) and chunk.buffers()[2] is not None
    )


def _offset(chunk: pa.Array, position: int) -> int:
    """Returns where a value of a large_binary array begins in its data."""
    return int(np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset + position])


def _to_table(blocks: Iterable[BlockRows], entries: Sequence[Entry], output_uri: str) -> pa.Table:
    """Returns the index of files that were read one by one."""
    prefix = _prefix(output_uri)
    rows = []
    for block in blocks:
        entry = entries[int(block.files[0])]
        known = {"path": entry.uri.removeprefix(prefix), "size": entry.size, "version": entry.version}
        rows.append({**known, **block.columns, "fingerprints": list(block.fingerprints.items())})
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _write(
    added: pa.Table, stored: Sequence[_IndexFile], entries: Sequence[Entry], output_uri: str, storage: Storage
) -> None:
    """Stores the new part of an index, together with the small files of it if these are many."""
    live = _without_replaced(stored)
    small = [file for file in live if file.num_rows < MAX_ROWS // 2]
    merged = small if len(small) >= MAX_SMALL else []
    missing = _identities(entries, output_uri)
    _take(added, missing)
    current = [file.table.filter(pa.array(_take(file.table, missing) >= 0)) for file in merged]
    parts = list(_split(pa.concat_tables([added, *current])))
    for number, part in enumerate(parts, 1):
        # Named in the last part only: a run that ends before it has replaced nothing.
        replaces = [file.name for file in merged] if number == len(parts) else []
        _put(part, replaces, output_uri, storage)
    oldest = time.time() - GRACE_S
    for file in stored:
        if file.entry.modified is not None and file.entry.modified < oldest:
            for name in file.replaces:
                storage.delete_file(join(output_uri, INDEX_FOLDER, name))


def _put(table: pa.Table, replaces: Sequence[str], output_uri: str, storage: Storage) -> None:
    """Stores an index file under the hash of its content."""
    info = json.dumps({"version": INDEX_VERSION, "replaces": sorted(replaces)}).encode()
    data = to_parquet_bytes(table.replace_schema_metadata({_INFO_KEY: info}))
    storage.put_if_absent(join(output_uri, INDEX_FOLDER, _name(data)), data)


def _split(table: pa.Table) -> Iterator[pa.Table]:
    """Yields parts of an index of at most `MAX_ROWS` rows of transcripts, or of one file of transcripts."""
    ends = np.cumsum(pc.binary_length(table["grades"]).to_numpy())
    begin, before = 0, 0
    while begin < table.num_rows:
        end = max(int(np.searchsorted(ends, before + MAX_ROWS, side="right")), begin + 1)
        yield table.slice(begin, end - begin)
        begin, before = end, int(ends[end - 1])
