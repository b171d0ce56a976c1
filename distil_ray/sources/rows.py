"""Tables and lists as streams of rows: JSON lines, CSV, TSV, Parquet and plain lines, the text forms also gzipped.

It knows how a row is written, not what its columns mean. A line that cannot be read is an error that names it: a
listing that quietly lost lines could not be accounted for. CSV is read with the delimiter (comma, semicolon, bar or
tab) that its header is known by; quotes mean nothing in TSV, where a stray one would swallow lines up to the next.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from distil_ray.errors import InputError
from distil_ray.sources.formats import is_utf8, plain_name
from distil_ray.storage import Storage

MAX_LINE_CHARACTERS = 1 << 24  # room for the reference of a long recording
BATCH_ROWS = 4096  # rows of Parquet read at once
DELIMITERS = ",;|\t"

Row = dict[str, Any]
Check = Callable[[list[str]], None]  # raises InputError if a header lacks what is needed


@dataclass(frozen=True, slots=True)
class Head:
    """How a table begins: the names of its columns, its first line, and (JSON lines) its first row.

    All empty where it cannot be read: whoever reads it whole then says why.
    """

    columns: tuple[str, ...] = ()
    line: str = ""
    row: Row = field(default_factory=dict)


def read_head(uri: str, storage: Storage) -> Head:
    """The beginning of a table, as its name says that it is written."""
    if plain_name(uri).endswith(".parquet"):
        try:
            with storage.open(uri) as file:
                return Head(tuple(pq.read_schema(file).names))
        except pa.ArrowException:
            return Head()
    try:
        line = next((line for line in read_lines(uri, storage) if line.strip()), "").rstrip("\r\n")
        if is_json_name(uri):
            row = next((row for _, row in json_rows(uri, [line])), {})
            return Head(tuple(row), line, row)
    except InputError:
        return Head()
    return Head(tuple(next(csv.reader([line], delimiter=_delimiter(uri, line, ())), [])), line)


def is_json_name(uri: str) -> bool:
    return plain_name(uri).removesuffix(".gz").endswith((".jsonl", ".ndjson", ".json"))


def read_rows(uri: str, storage: Storage, known: Collection[str], check: Check) -> Iterator[tuple[str, Row]]:
    """(place for error messages, columns) of every row.

    `known`: names of columns that a header may have, by which its delimiter is found; `check` is given the header.
    """
    if plain_name(uri).endswith(".parquet"):
        yield from _parquet_rows(uri, storage, check)
    elif is_json_name(uri):
        yield from json_rows(uri, read_lines(uri, storage))
    else:
        yield from _csv_rows(uri, read_lines(uri, storage), known, check)


def read_lines(uri: str, storage: Storage) -> Iterator[str]:
    """The lines of a text, with their ends. Of bounded length: gzip makes a line of gigabytes out of a small file."""
    with storage.open(uri) as file:
        raw = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if plain_name(uri).endswith(".gz") else file
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        number = 0
        try:
            while line := text.readline(MAX_LINE_CHARACTERS + 1):
                number += 1
                if len(line) > MAX_LINE_CHARACTERS:
                    raise InputError(f"{uri} line {number}: is longer than {MAX_LINE_CHARACTERS:,} characters")
                yield line
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
            raise InputError(f"{uri}: not readable as a manifest in UTF-8: {error}") from error


def json_rows(uri: str, lines: Iterable[str]) -> Iterator[tuple[str, Row]]:
    """(place for error messages, object) of every line that is not empty."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{uri} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            hint = ". One array of all objects: jq -c '.[]' makes lines of it" if line[0] == "[" else ""
            raise InputError(
                f"{where}: expected one JSON object a line, found {short(line)} ({error}){hint}"
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected a JSON object, found {short(line)}")
        if "\\u" in line and not is_utf8(json.dumps(row, ensure_ascii=False)):
            raise InputError(f"{where}: holds half a character (a lone surrogate): {short(line)}")
        yield where, row


def _csv_rows(uri: str, lines: Iterator[str], known: Collection[str], check: Check) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(MAX_LINE_CHARACTERS)  # its own, 128 KiB, is less than a long reference
    first = next(lines, "")
    delimiter = _delimiter(uri, first, known)
    quoting = {"quoting": csv.QUOTE_NONE} if delimiter == "\t" else {"strict": True}
    reader = csv.reader(_chain(first, lines), delimiter=delimiter, **quoting)
    header: list[str] | None = None
    try:
        for cells in reader:
            where = f"{uri} line {reader.line_num}"
            if header is None:
                header = [cell.strip() for cell in cells]
                check(header)
            elif len(cells) == len(header):
                yield where, {name: cell or None for name, cell in zip(header, cells, strict=True)}
            elif cells:
                raise InputError(f"{where}: has {len(cells)} cells, the header {len(header)}")
    except csv.Error as error:
        raise InputError(f"{uri} line {reader.line_num}: {error}") from error


def _chain(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines


def _delimiter(uri: str, header: str, known: Collection[str]) -> str:
    """By the extension; in CSV the first that makes known names of the header, else a comma."""
    if plain_name(uri).removesuffix(".gz").endswith(".tsv"):
        return "\t"
    cells = {sign: {cell.strip().strip('"') for cell in header.split(sign)} for sign in DELIMITERS}
    return next((sign for sign in DELIMITERS if cells[sign] & set(known)), ",")


def _parquet_rows(uri: str, storage: Storage, check: Check) -> Iterator[tuple[str, Row]]:
    number = 0
    with storage.open(uri) as file:
        try:
            parquet = pq.ParquetFile(file)
            schema = parquet.schema_arrow
            check(schema.names)
            columns = [found.name for found in schema if "binary" not in str(found.type)]  # audio is no metadata
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{uri} row {number}", row
        except pa.ArrowException as error:
            raise InputError(f"{uri}: not readable as Parquet: {error}") from error


def short(text: str) -> str:
    """The text for a message: quoted, at most 60 characters."""
    text = text.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")
