"""Manifests: tables that name recordings (JSONL, CSV, TSV, Parquet; text forms also gzipped), read as streams.

Which columns mean what is in `COLUMNS`; every other column is kept as metadata, as text. An id is optional: without
one the recording is called by its path as written. JSONL and Parquet tell "no reference" (null) from "the right
answer is no words" (an empty string); CSV and TSV cannot, and an empty cell there means null. A line that cannot be
read is an error that names it: a listing that quietly lost lines could not be accounted for.
"""

import csv
import gzip
import io
import json
import math
import posixpath
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from distil_ray.errors import ErrorKind, InputError
from distil_ray.redaction import redact
from distil_ray.schema import Recording
from distil_ray.sources.ahead import map_ahead, threads_for
from distil_ray.sources.boundary import is_inside
from distil_ray.sources.formats import is_utf8
from distil_ray.storage import Entry, Storage, StorageError, is_remote, join, normalize, parent

# Field -> the names it goes by; the first that a row has counts.
COLUMNS = {
    "recording_id": ("recording_id", "id"),
    "uri": ("uri", "path", "audio_filepath"),
    "reference": ("reference", "text"),
    "duration_s": ("duration_s", "duration"),
    "language": ("language",),
}
NEEDED = "uri (or path, audio_filepath)"
MAX_DURATION_S = 1e8  # three years: more is another unit or a mistake
MAX_LINE_CHARACTERS = 1 << 24  # room for the reference of a long recording
BATCH_ROWS = 4096  # rows of Parquet read at once

Row = dict[str, Any]


def read_manifest(uri: str, storage: Storage, *, allow_outside: bool) -> Iterator[Recording]:
    """The recordings of a manifest, in its order; relative paths are relative to its folder.

    Size and version are looked up in the store; both stay None for a file that is not there or not to be read, which
    then fails as a recording. Raises `InputError` with file and line for what cannot be read and, unless
    `allow_outside`, for a file that does not lie below the manifest's folder.
    """
    recordings = (_recording(uri, where, row, allow_outside) for where, row in _rows(uri, storage))
    first = next(recordings, None)
    if first is None:
        return
    yield from map_ahead(lambda found: _located(found, storage), chain([first], recordings), threads_for(first.uri))


def _rows(uri: str, storage: Storage) -> Iterator[tuple[str, Row]]:
    """(place for error messages, columns) of every row."""
    name = uri.lower()
    with storage.open(uri) as file:
        if name.endswith(".parquet"):
            yield from _parquet_rows(uri, file)
            return
        raw = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if name.endswith(".gz") else file
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        name = name.removesuffix(".gz")
        try:
            if name.endswith((".jsonl", ".ndjson")):
                yield from _json_rows(uri, _lines(uri, text))
            else:
                yield from _csv_rows(uri, _lines(uri, text), tabs=name.endswith(".tsv"))
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
            raise InputError(f"{uri}: not readable as a manifest in UTF-8: {error}") from error


def _lines(uri: str, text: io.TextIOWrapper) -> Iterator[str]:
    """Lines of bounded length: gzip makes a line of gigabytes out of a small file."""
    number = 0
    while line := text.readline(MAX_LINE_CHARACTERS + 1):
        number += 1
        if len(line) > MAX_LINE_CHARACTERS:
            raise InputError(f"{uri} line {number}: is longer than {MAX_LINE_CHARACTERS:,} characters")
        yield line


def _json_rows(uri: str, lines: Iterable[str]) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{uri} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: expected one JSON object a line, found {_short(line)} ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected a JSON object, found {_short(line)}")
        if "\\u" in line and not is_utf8(json.dumps(row, ensure_ascii=False)):
            raise InputError(f"{where}: holds half a character (a lone surrogate): {_short(line)}")
        yield where, row


def _csv_rows(uri: str, lines: Iterable[str], *, tabs: bool) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(MAX_LINE_CHARACTERS)  # its own, 128 KiB, is less than a long reference
    # Quotes mean nothing in TSV: a stray one would swallow lines up to the next.
    reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines, strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            where = f"{uri} line {reader.line_num}"
            if header is None:
                header = [cell.strip() for cell in cells]
                _require_columns(uri, header)
            elif len(cells) == len(header):
                yield where, {name: cell or None for name, cell in zip(header, cells, strict=True)}
            elif cells:
                raise InputError(f"{where}: has {len(cells)} cells, the header {len(header)}")
    except csv.Error as error:
        raise InputError(f"{uri} line {reader.line_num}: {error}") from error


def _parquet_rows(uri: str, file: Any) -> Iterator[tuple[str, Row]]:
    number = 0
    try:
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
        _require_columns(uri, schema.names)
        columns = [field.name for field in schema if "binary" not in str(field.type)]  # audio is no metadata
        for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{uri} row {number}", row
    except pa.ArrowException as error:
        raise InputError(f"{uri}: not readable as Parquet: {error}") from error


def _require_columns(uri: str, names: list[str]) -> None:
    if not set(COLUMNS["uri"]) & set(names):
        raise InputError(
            f"{uri}: a manifest needs the column {NEEDED}; found {', '.join(map(_short, names)) or 'none'}"
        )


def _recording(manifest: str, where: str, row: Row, allow_outside: bool) -> Recording:
    """A row as a recording whose file has not been looked at."""
    taken = {field: next((name for name in names if name in row), None) for field, names in COLUMNS.items()}
    value = {field: row[name] if name is not None else None for field, name in taken.items()}
    path = value["uri"]
    if taken["uri"] is None:
        raise InputError(f"{where}: needs {NEEDED}; found {', '.join(map(_short, row)) or 'no columns'}")
    if not isinstance(path, str) or not path:
        raise InputError(f"{where}: {taken['uri']} must be a path or URL, found {path!r}")
    uri = _absolute(manifest, path)
    if not allow_outside and not is_inside(parent(manifest), uri):
        raise InputError(
            f"{where}: {taken['uri']} {_short(path)} lies outside of {parent(manifest)}. If this manifest may name any"
            " file that this job can read, set input.allow_outside=true."
        )
    return Recording(
        recording_id=redact(path) if value["recording_id"] in (None, "") else _text(value["recording_id"]),
        uri=uri,
        duration_s=_seconds(where, taken["duration_s"], value["duration_s"]),
        language=_text(value["language"]) if value["language"] else None,
        reference=None if value["reference"] is None else _text(value["reference"]),
        metadata={name: _text(cell) for name, cell in row.items() if cell is not None and name not in taken.values()},
    )


def _located(recording: Recording, storage: Storage) -> Recording:
    """The recording with size and version of its file, if it is there."""
    try:
        entry: Entry | None = storage.stat(recording.uri)
    except StorageError as error:
        if error.kind is not ErrorKind.FORBIDDEN:
            raise
        entry = None  # S3 says "forbidden" of a missing key to whom it does not let list
    if entry is None:
        return recording
    return Recording(
        recording_id=recording.recording_id,
        uri=recording.uri,
        source_size=entry.size,
        source_version=entry.version,
        duration_s=recording.duration_s,
        language=recording.language,
        reference=recording.reference,
        metadata=recording.metadata,
    )


def _absolute(manifest: str, path: str) -> str:
    if is_remote(path) or path.startswith("/"):
        return normalize(path)
    folder = parent(manifest)
    if not is_remote(folder):
        return normalize(join(folder, path))
    scheme, below = folder.split("://", 1)
    return f"{scheme}://{posixpath.normpath(join(below, path))}"  # stores know no "." and ".."


def _seconds(where: str, column: str | None, value: Any) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if math.isnan(seconds):
        return None
    if not 0 <= seconds <= MAX_DURATION_S:
        raise InputError(f"{where}: {column} must be seconds, found {value!r}")
    return seconds


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")
