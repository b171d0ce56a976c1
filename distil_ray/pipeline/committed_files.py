"""Index entries of the files of transcripts that a run has written, kept until its end.

The write stage computes the entry of a file from the rows that it writes. The driver collects the entries in a
temporary file on its local disk. At the end of the run an entry counts like one of the output's own indexes
(`output/block_index.py`): only for a file that is listed with the size and the version that the store has given to it.
Such a file is not read back.
"""

import struct
from collections.abc import Iterator
from itertools import islice

import pyarrow as pa

from distil_ray.evaluation import statistics_index
from distil_ray.output import ledger_index
from distil_ray.output.block_index import identity
from distil_ray.output.ledger import ROW_COLUMNS, derive_rows
from distil_ray.pipeline.driver_file import DriverFile
from distil_ray.schema import from_stream_bytes, to_stream_bytes
from distil_ray.storage.entries import Entry

CODEC = pa.Codec("zstd")
_LENGTHS = struct.Struct("<qq")  # bytes of an entry on the disk, and uncompressed
_ENTRIES_AT_ONCE = 4096  # in memory


def make_entry(rows: pa.Table, file: Entry, output_uri: str) -> bytes | None:
    """Returns the entry of a file with these rows (TRANSCRIPT); None if the store has told no version.

    Args:
        rows: All rows of the file.
        file: The file, as `Storage.create_if_absent` returns it.
        output_uri: Normalized URI of the output.
    """
    if file.version is None:
        return None
    known = identity(file, output_uri)
    ledger = ledger_index.to_table([derive_rows(0, [rows.select(ROW_COLUMNS).to_pydict()])], [file], output_uri)
    statistics = statistics_index.to_table([rows.select(statistics_index.COLUMNS)], [known])
    for name in statistics.column_names[len(known) :]:
        ledger = ledger.append_column(statistics.schema.field(name), statistics[name])
    return to_stream_bytes(ledger)


class CommittedFiles(DriverFile):
    """The entries of the files that this run has written."""

    def add(self, entry: bytes | None) -> None:
        """Adds an entry of `make_entry`."""
        if entry is not None:
            data = CODEC.compress(entry, asbytes=True)
            self._file.write(_LENGTHS.pack(len(data), len(entry)) + data)

    def tables(self) -> Iterator[pa.Table]:
        """Yields the entries, with the columns of both indexes, one row per file."""
        self._file.seek(0)
        entries = self._iter_entries()
        while tables := list(islice(entries, _ENTRIES_AT_ONCE)):
            yield pa.concat_tables(tables)
        self._file.seek(0, 2)

    def _iter_entries(self) -> Iterator[pa.Table]:
        while head := self._file.read(_LENGTHS.size):
            size, whole = _LENGTHS.unpack(head)
            yield from_stream_bytes(CODEC.decompress(self._file.read(size), whole, asbytes=True))
