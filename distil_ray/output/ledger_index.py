"""The index of a ledger: the rows of many files of transcripts in few files, derived from them.

    OUTPUT/ledger/<hash>.parquet    one row per file of transcripts: its path, size and version, and the ledger's
                                    columns of its rows

`block_index.py` says when an entry counts, and how the files are written and merged.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distil_ray.output import block_index
from distil_ray.output.block_index import BlockIndex, identity, may_index
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage

ROW_BYTES = {"keys": 16, "ids": 16, "grades": 1, "times": 8}
INDEX = BlockIndex(
    folder="ledger",
    version=2,  # increase it when the keys of rows get another meaning, too
    derived=(
        ("keys", pa.large_binary()),  # 16 bytes a row, as `ledger.recording_keys`
        ("ids", pa.large_binary()),  # 16 bytes a row, as `ledger.id_keys`
        ("grades", pa.large_binary()),  # uint8
        ("times", pa.large_binary()),  # int64, little-endian
        ("fingerprints", pa.map_(pa.string(), pa.int64())),  # number of rows by fingerprint
    ),
    count_rows=lambda table: pc.binary_length(table["grades"]).to_numpy().astype(np.int64),
    max_rows=1 << 20,  # some 45 MB
)


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
        read: Rows of the files that were read themselves, or are from `own`, one `BlockRows` each.
        own: Returns entries of files that this run has written: tables with the columns of the index.
    """

    entries: Sequence[Entry] = ()
    read: list[BlockRows] = field(default_factory=list)
    own: Callable[[], Iterable[pa.Table]] = tuple

    def begin(self, entries: Sequence[Entry]) -> None:
        """Forgets what an earlier reading of the ledger has collected."""
        self.entries, self.read = entries, []

    def take_own(self, entries: Sequence[Entry], is_left: NDArray[np.bool_], output_uri: str) -> Iterator[BlockRows]:
        """Yields the rows of listed files of which `own` has entries, file by file.

        `is_left`: which files are wanted, shape (len(entries),); becomes False for the yielded ones.
        """
        for table, numbers in INDEX.match(self.own(), entries, is_left, output_uri):
            for row, number in enumerate(numbers.tolist()):
                yield _from_table(table.slice(row, 1), numbers[row : row + 1])
                is_left[number] = False

    def write(self, output_uri: str, storage: Storage) -> None:
        """Adds the collected files to the index, if they are many. Only for the holder of the lease."""
        chosen = [rows for rows in self.read if may_index(self.entries[int(rows.files[0])])]
        if len(chosen) >= block_index.MIN_BLOCKS:
            INDEX.add(to_table(chosen, self.entries, output_uri), self.entries, output_uri, storage)


def read_index(entries: Sequence[Entry], output_uri: str, storage: Storage) -> Iterator[BlockRows]:
    """Yields the rows of listed files of transcripts that the index has in their current version, each file once."""
    for table, numbers in INDEX.read(entries, output_uri, storage):
        yield _from_table(table, numbers)


def drop_recordings(ids: NDArray[np.bytes_], output_uri: str, storage: Storage) -> None:
    """Removes the entries that have one of these `ledger.id_keys`, also outdated ones. For the lease's holder only.

    Entries of files that have changed are passed over anyway; they still hold hashes of ids that are no longer there.
    """

    def find(table: pa.Table) -> NDArray[np.bool_]:
        return np.isin(np.frombuffer(_joined(table["ids"]), ids.dtype), ids)

    INDEX.drop(find, output_uri, storage)


def _from_table(table: pa.Table, numbers: NDArray[np.int64]) -> BlockRows:
    counts = INDEX.count_rows(table)
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


def to_table(blocks: Iterable[BlockRows], entries: Sequence[Entry], output_uri: str) -> pa.Table:
    """Returns the index of single files. `BlockRows.files` are positions in `entries`."""
    rows = []
    for block in blocks:
        known = identity(entries[int(block.files[0])], output_uri)
        rows.append({**known, **block.columns, "fingerprints": list(block.fingerprints.items())})
    return pa.Table.from_pylist(rows, schema=INDEX.schema)
