"""Reads files of transcripts of any schema version as the current schema.

Fields that the version of a file lacks are null. A file of a later version is an error, because the meaning of its
fields is unknown.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from distil_ray.errors import RunError
from distil_ray.schema import (
    SCHEMA_VERSION,
    TRANSCRIPT,
    PythonParquetFile,
    open_parquet,
    read_schema_version,
    transcript_schema,
)
from distil_ray.storage.storage import Storage

Columns = Sequence[str] | None  # Parquet paths ("chunks.list.element.text": the chunks' texts alone); None: all
Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


@dataclass(frozen=True, slots=True)
class TranscriptFile:
    """An open file of transcripts; `version` is its schema version.

    Reading raises `RunError` if a column of that version is missing, and Arrow's errors for damaged data.
    """

    uri: str
    parquet: PythonParquetFile
    version: int

    def read(self, columns: Columns = None) -> pa.Table:
        """Returns all rows."""
        target = self._schema_of(columns)
        return _conformed(self.parquet.read(columns=columns and list(columns)), target)

    def iter_batches(self, batch_rows: int, columns: Columns = None) -> Iterator[pa.RecordBatch]:
        """Yields the rows in order, at most `batch_rows` at once."""
        target = self._schema_of(columns)
        for batch in self.parquet.iter_batches(batch_rows, columns=columns and list(columns)):
            yield _conformed(batch, target)

    def _schema_of(self, columns: Columns) -> pa.Schema:
        """Returns the fields of `TRANSCRIPT` that `columns` selects."""
        paths = [tuple(name.split(".")) for name in columns or TRANSCRIPT.names]
        expected = set(transcript_schema(self.version).names) & {path[0] for path in paths}
        if lacking := expected - set(self.parquet.schema_arrow.names):
            raise RunError(f"{self.uri}: has no column {', '.join(sorted(lacking))}; is it an output of this program?")
        return pa.schema(_narrowed(pa.struct(TRANSCRIPT), paths))


@contextmanager
def open_transcripts(uri: str, storage: Storage, *, verify_checksums: bool = False) -> Iterator[TranscriptFile]:
    """Opens a file of transcripts. Raises `RunError` for a later schema version, Arrow's errors for damaged data."""
    with storage.open(uri) as source:
        parquet = open_parquet(source, verify_checksums=verify_checksums)
        yield TranscriptFile(uri, parquet, readable_version(uri, parquet.schema_arrow))


def readable_version(uri: str, schema: pa.Schema) -> int:
    """Returns the schema version of a file of transcripts. Raises `RunError` for an invalid or later version."""
    try:
        version = read_schema_version(schema)
    except ValueError:
        version = 0
    if 1 <= version <= SCHEMA_VERSION:
        return version
    known = f"this version of distil_ray reads versions 1 to {SCHEMA_VERSION} of the transcripts' schema"
    if version > SCHEMA_VERSION:
        remedy = "Upgrade distil_ray to the version that wrote it or a later one, or use another output"
        raise RunError(f"{uri}: was written with version {version}; {known}. {remedy}")
    raise RunError(f"{uri}: its metadata has no valid schema version; {known}. Restore the file, or move it away")


def _narrowed(kind: pa.DataType, paths: Sequence[tuple[str, ...]]) -> pa.DataType:
    """Returns the part of a nested type that Parquet paths below it select."""
    if () in paths:
        return kind
    if pa.types.is_list(kind):
        return pa.list_(_narrowed(kind.value_type, [path[2:] for path in paths]))  # behind "list" and "element"
    below = {one.name: [path[1:] for path in paths if path[0] == one.name] for one in kind}
    return pa.struct([one.with_type(_narrowed(one.type, below[one.name])) for one in kind if below[one.name]])


def _conformed(rows: Rows, target: pa.Schema) -> Rows:
    """Returns the rows with exactly the fields of `target`. Missing fields, at any depth, are null."""
    if rows.schema.equals(target):
        return rows
    names = set(rows.schema.names)
    arrays = [
        rows.column(one.name).cast(one.type) if one.name in names else pa.nulls(rows.num_rows, one.type)
        for one in target
    ]
    return type(rows).from_arrays(arrays, schema=target)
