"""The index of the summary: the columns that a summary counts, of many files of transcripts, in few files.

    OUTPUT/statistics/<hash>.parquet    one row per file of transcripts: its path, size and version, and the columns of
                                        `statistics.COLUMNS` of its rows

Without it, a run at whose end the output has a million files reads a million files. `output/block_index.py` says when
an entry counts, and how the files are written and merged.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distil_ray.output import block_index
from distil_ray.output.block_index import BlockIndex, identity, may_index
from distil_ray.output.ledger import IDENTITY
from distil_ray.schema import TRANSCRIPT
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
from distil_ray.types import WORD_COUNTS

FILTER_COLUMNS = (*IDENTITY, "fingerprint", "run_id", "processed_at")
COUNTS = (*WORD_COUNTS, "num_ref_chars", "char_edits")
COLUMNS = [
    *(*FILTER_COLUMNS, "uri", "status", "error_kind", "error"),
    *("duration_s", "unheard_s", "quality_flags", "language", "metadata", "normalizer", *COUNTS),
]
MAX_ADDED = 1 << 20  # rows that one run adds and holds in memory, some 300 MB; the next one adds more

_ROW = pa.struct([TRANSCRIPT.field(name) for name in COLUMNS])
INDEX = BlockIndex(
    folder="statistics",
    version=2,
    derived=(("rows", pa.large_list(pa.field("element", _ROW))),),
    count_rows=lambda table: pc.list_value_length(table["rows"]).to_numpy().astype(np.int64),
    max_rows=1 << 18,
)


class StatisticsIndex:
    """The index of an output while a run reads its statistics, and what it lacks.

    Args:
        entries: The listed files of transcripts.
        output_uri: Normalized URI of the output.
        storage: Storage of the output.
        own: Returns entries of files that this run has written: tables with the columns of the index.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        output_uri: str,
        storage: Storage,
        own: Callable[[], Iterable[pa.Table]] = tuple,
    ) -> None:
        self._entries, self._output_uri, self._storage, self._own = entries, output_uri, storage, own
        self._read: list[tuple[int, pa.Table]] = []
        self._num_rows = 0

    def read(self) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
        """Yields rows with `COLUMNS`, and the number of the file of each; the rows of a file follow each other."""
        is_left = np.ones(len(self._entries), np.bool_)
        for table, numbers in INDEX.read(self._entries, self._output_uri, self._storage):
            is_left[numbers] = False
            yield _expand(table, numbers)
        for table, numbers in INDEX.match(self._own(), self._entries, is_left, self._output_uri):
            for row, number in enumerate(numbers.tolist()):
                self.add(number, _expand(table.slice(row, 1), numbers[row : row + 1])[0])
            yield _expand(table, numbers)

    def add(self, number: int, rows: pa.Table) -> None:
        """Notes the rows of a file that the index did not have."""
        if may_index(self._entries[number]) and self._num_rows < MAX_ADDED:
            self._read.append((number, rows.select(COLUMNS)))
            self._num_rows += rows.num_rows

    def write(self) -> None:
        """Adds the noted files to the index, if they are many. Only for the holder of the lease."""
        if len(self._read) < block_index.MIN_BLOCKS:
            return
        known = [identity(self._entries[number], self._output_uri) for number, _ in self._read]
        table = to_table([rows for _, rows in self._read], known)
        INDEX.add(table, self._entries, self._output_uri, self._storage)


def to_table(files: Sequence[pa.Table], known: Sequence[Mapping[str, str | int | None]]) -> pa.Table:
    """Returns the index of files.

    Args:
        files: Rows of each file, with `COLUMNS`; at least one file.
        known: `block_index.identity` of each.
    """
    rows = pa.concat_tables(files).combine_chunks()
    values = pa.StructArray.from_arrays([_column(rows, name) for name in COLUMNS], fields=list(_ROW))
    ends = np.cumsum([0, *(table.num_rows for table in files)])
    lists = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), values, type=INDEX.schema.field("rows").type)
    columns = [pa.array([one[name] for one in known], INDEX.schema.field(name).type) for name in known[0]]
    return pa.Table.from_arrays([*columns, lists], schema=INDEX.schema)


def _column(rows: pa.Table, name: str) -> pa.Array:
    return pa.array([], _ROW.field(name).type) if not rows.num_rows else rows[name].combine_chunks()


def drop_recordings(ids: Collection[str], output_uri: str, storage: Storage) -> int:
    """Removes the entries that have one of the recordings, also outdated ones. Returns the number of entries."""
    wanted = pa.array(sorted(ids), pa.string())

    def find(table: pa.Table) -> NDArray[np.bool_]:
        rows = _rows_of(table["rows"].combine_chunks())
        return np.asarray(pc.is_in(rows["recording_id"], value_set=wanted), np.bool_)

    return INDEX.drop(find, output_uri, storage)


def _expand(table: pa.Table, numbers: NDArray[np.int64]) -> tuple[pa.Table, NDArray[np.int64]]:
    """Returns the rows of entries of the index, and the number of the file of each."""
    lists = table["rows"].combine_chunks()
    return _rows_of(lists), np.repeat(numbers, pc.list_value_length(lists).to_numpy())


def _rows_of(lists: pa.LargeListArray) -> pa.Table:
    """Returns the rows of all entries as a table."""
    values = lists.flatten()
    return pa.Table.from_arrays([values.field(name) for name in COLUMNS], schema=pa.schema(list(_ROW)))
