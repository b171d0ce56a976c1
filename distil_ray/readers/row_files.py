"""Tables and lists as streams of rows: JSON lines, CSV, TSV, Parquet and plain lines; text also gzipped.

This module parses rows and knows nothing of the meaning of columns. A line that cannot be parsed is yielded as a
`RowError` in its place, so that every line is accounted for. CSV is read with the delimiter (comma, semicolon, bar or
tab) that yields known column names. Quotes have no meaning in TSV, where a stray quote would swallow the lines up to
the next one. In CSV a stray quote costs only its own line: the lines after it are read again.
"""

import csv
import gzip
import io
import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from distil_ray.errors import InputError
from distil_ray.readers.audio_formats import is_utf8, plain_name
from distil_ray.readers.row_errors import RowError
from distil_ray.schema import open_parquet
from distil_ray.storage.storage import Storage

MAX_LINE_CHARACTERS = 1 << 24  # room for the reference of a long recording
HEAD_LINES = 100  # looked at for the form of a table: the first may be damaged
BATCH_ROWS = 4096  # rows of Parquet read at once
DELIMITERS = ",;|\t"

Row = dict[str, Any]
LocatedRow = tuple[str, Row | RowError]  # (place for error messages, columns or why they cannot be read)
Check = Callable[[list[str]], None]  # raises InputError if a header lacks what is needed


@dataclass(frozen=True, slots=True)
class TableHead:
    """The beginning of a table; all fields are empty if it cannot be read (reading all of it gives the error).

    Attributes:
        columns: Names of the columns.
        line: First line that is not empty (text formats).
        row: First row (JSON lines).
    """

    columns: tuple[str, ...] = ()
    line: str = ""
    row: Row = field(default_factory=dict)


def read_head(uri: str, storage: Storage) -> TableHead:
    """Returns the beginning of a table, in the format that its name implies."""
    if plain_name(uri).endswith(".parquet"):
        try:
            with storage.open(uri) as file:
                return TableHead(tuple(pq.read_schema(file).names))
        except pa.ArrowException:
            return TableHead()
    try:
        lines = [line for line in islice(read_lines(uri, storage, strict=False), HEAD_LINES) if line.strip()]
        line = lines[0].rstrip("\r\n") if lines else ""
        if is_json_name(uri):
            row = next((row for _, row in json_rows(uri, lines) if isinstance(row, dict)), {})
            return TableHead(tuple(row), line, row)
    except InputError:
        return TableHead()
    return TableHead(tuple(next(csv.reader([line], delimiter=_delimiter(uri, line, ())), [])), line)


def is_json_name(uri: str) -> bool:
    return plain_name(uri).removesuffix(".gz").endswith((".jsonl", ".ndjson", ".json"))


def read_rows(uri: str, storage: Storage, known: Collection[str], check: Check) -> Iterator[LocatedRow]:
    """Yields (location for messages, columns or `RowError`) of every row.

    Args:
        uri: The table.
        storage: Access to it.
        known: Known column names, by which the delimiter of CSV is chosen.
        check: Called with the header; raises `InputError` if a needed column is missing.
    """
    if plain_name(uri).endswith(".parquet"):
        yield from _parquet_rows(uri, storage, check)
    elif is_json_name(uri):
        yield from json_rows(uri, read_lines(uri, storage, strict=False))
    else:
        yield from _csv_rows(uri, read_lines(uri, storage, strict=False), known, check)


def read_lines(uri: str, storage: Storage, *, strict: bool = True) -> Iterator[str]:
    """Yields the lines of a text, with their line ends.

    Their length is bounded, because a small gzip file can hold a line of gigabytes.

    Args:
        uri: The text, gzipped if its name ends in ``.gz``.
        storage: Access to it.
        strict: Refuse text that is not UTF-8. Otherwise such a line has lone surrogates, which `is_utf8` detects.

    Raises:
        InputError: A line is too long, the text is not UTF-8, or the gzip stream is damaged.
    """
    with storage.open(uri) as file:
        raw = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if plain_name(uri).endswith(".gz") else file
        errors = "strict" if strict else "surrogateescape"
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors=errors, newline="")
        number = 0
        try:
            while line := text.readline(MAX_LINE_CHARACTERS + 1):
                number += 1
                if len(line) > MAX_LINE_CHARACTERS:
                    raise InputError(f"{uri} line {number}: is longer than {MAX_LINE_CHARACTERS:,} characters")
                yield line
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
            raise InputError(f"{uri}: not readable as a manifest in UTF-8: {error}") from error


def json_rows(uri: str, lines: Iterable[str]) -> Iterator[LocatedRow]:
    """Yields (location for messages, object or `RowError`) of every line that is not empty."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{uri} line {number}"
            try:
                yield where, _json_row(where, line)
            except RowError as error:
                yield where, error


def parse_json(text: str | bytes) -> Any:
    """Parses JSON as Python's writers make it: NaN and Infinity, which JSON does not have, become None.

    Raises:
        ValueError: The text is not JSON.
    """
    return json.loads(text, parse_constant=lambda _: None)


def _json_row(where: str, line: str) -> Row:
    if not is_utf8(line):
        raise _not_utf8(where, line)
    try:
        row = parse_json(line)
    except (ValueError, RecursionError) as error:
        hint = ". One array of all objects: jq -c '.[]' makes lines of it" if line[0] == "[" else ""
        raise RowError(
            f"{where}: expected one JSON object a line, found {quote_short(line)} ({error}){hint}", is_unreadable=True
        ) from error
    if not isinstance(row, dict):
        raise RowError(f"{where}: expected a JSON object, found {quote_short(line)}", is_unreadable=True)
    if "\\u" in line and not is_utf8(json.dumps(row, ensure_ascii=False)):
        raise RowError(f"{where}: holds half a character (a lone surrogate): {quote_short(line)}")
    return row


def _not_utf8(where: str, line: str) -> RowError:
    return RowError(
        f"{where}: not readable as a manifest in UTF-8: {quote_short(escape_surrogates(line))}", is_unreadable=True
    )


def escape_surrogates(text: str) -> str:
    """Returns the text with everything that is not UTF-8 written as ``\\udcXX``."""
    return text.encode(errors="backslashreplace").decode()


class _Lines:
    """Lines for a CSV reader, which joins several for a record with line breaks in quotes. Lines can be given back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._again: deque[str] = deque()
        self._taken: list[str] = []
        self.number = 1  # of the record's first line

    def begin(self) -> None:
        """Marks the next line as the first of a record."""
        self.number += len(self._taken)
        self._taken = []

    def give_back(self) -> None:
        """Puts the lines after the record's first line back, to be read again."""
        self._again.extendleft(reversed(self._taken[1:]))
        del self._taken[1:]

    @property
    def record(self) -> str:
        return "".join(self._taken)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self._taken.append(line)
        return line


def _csv_rows(uri: str, lines: Iterator[str], known: Collection[str], check: Check) -> Iterator[LocatedRow]:
    csv.field_size_limit(MAX_LINE_CHARACTERS)  # its own, 128 KiB, is less than a long reference
    first = next(lines, "")
    delimiter = _delimiter(uri, first, known)
    quoting: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if delimiter == "\t" else {"strict": True}
    feed = _Lines(chain([first] if first else [], lines))
    reader = csv.reader(feed, delimiter=delimiter, **quoting)
    header: list[str] | None = None
    while True:
        feed.begin()
        where = f"{uri} line {feed.number}"
        try:
            cells = next(reader)
            if header is None:
                header = _header(where, cells, feed.record)
                check(header)
            elif cells:
                yield where, _csv_row(where, cells, header, feed.record)
        except StopIteration:
            return
        except (csv.Error, RowError) as error:
            if header is None:
                raise InputError(f"{where}: {error}" if isinstance(error, csv.Error) else str(error)) from error
            feed.give_back()
            yield where, error if isinstance(error, RowError) else RowError(f"{where}: {error}", is_unreadable=True)


def _header(where: str, cells: list[str], line: str) -> list[str]:
    if not is_utf8(line):
        raise _not_utf8(where, line)
    return [cell.strip() for cell in cells]


def _csv_row(where: str, cells: list[str], header: list[str], record: str) -> Row:
    if len(cells) != len(header):
        raise RowError(f"{where}: has {len(cells)} cells, the header {len(header)}", is_unreadable=True)
    if not is_utf8(record):
        raise _not_utf8(where, record)
    return {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _delimiter(uri: str, header: str, known: Collection[str]) -> str:
    """Returns the delimiter: tab for TSV; for CSV the first that yields known column names, else a comma."""
    if plain_name(uri).removesuffix(".gz").endswith(".tsv"):
        return "\t"
    cells = {sign: {cell.strip().strip('"') for cell in header.split(sign)} for sign in DELIMITERS}
    return next((sign for sign in DELIMITERS if cells[sign] & set(known)), ",")


def _parquet_rows(uri: str, storage: Storage, check: Check) -> Iterator[LocatedRow]:
    number = 0
    with storage.open(uri) as file:
        try:
            parquet = open_parquet(file)
            schema = parquet.schema_arrow
            check(schema.names)
            columns = [found.name for found in schema if "binary" not in str(found.type)]  # audio is no metadata
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
                for row in batch_rows(batch):
                    number += 1
                    where = f"{uri} row {number}"
                    yield where, row if isinstance(row, dict) else RowError(f"{where}: cannot be read: {row}")
        except pa.ArrowException as error:
            raise InputError(f"{uri}: not readable as Parquet: {error}") from error


def batch_rows(batch: pa.RecordBatch) -> list[Row | Exception]:
    """Returns the rows of a batch.

    A row with a cell that Python cannot hold (text that is not UTF-8, a time after the year 9999) is replaced by the
    exception.
    """
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError):
        return [_row_or_error(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _row_or_error(batch: pa.RecordBatch) -> Row | Exception:
    try:
        row: Row = batch.to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return error
    return row


def quote_short(text: str) -> str:
    """Returns the text for a message: quoted, at most 60 characters."""
    text = text.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")
