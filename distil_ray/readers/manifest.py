"""Manifests: tables that name recordings by columns (JSON lines, CSV, TSV, Parquet), NeMo's among them.

Which columns mean what is in `COLUMNS`, and ``input.columns`` says otherwise; every other column is kept as metadata,
as text. An offset makes a row a segment of its file, with the duration as its length; without one the duration is what
the source claims of the whole file. An id is optional: without one the recording is called by its path as written, a
segment with its times behind it. JSONL and Parquet tell "no reference" (null) from "the right answer is no words" (an
empty string); CSV and TSV cannot, and an empty cell there means null. NaN, which pandas makes of what is missing, is
null too; the text "nan" may be a word and stays one. A row with a wrong value is a failed recording (row_errors.py).
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from distil_ray.config import ColumnsConfig
from distil_ray.errors import InputError
from distil_ray.readers.base import ReadContext
from distil_ray.readers.location import format_audio_range
from distil_ray.readers.path_resolution import PathResolver
from distil_ray.readers.row_errors import RowError, rows_to_recordings
from distil_ray.readers.row_files import LocatedRow, Row, quote_short, read_rows
from distil_ray.redaction import own_secrets, redact
from distil_ray.types import SAMPLE_RATE, AudioLocation, Recording

# Field -> the names it goes by; the first that a row has counts.
COLUMNS: dict[str, tuple[str, ...]] = {
    "recording_id": ("recording_id", "id"),
    "uri": ("uri", "path", "audio_filepath", "file_name"),
    "reference": ("reference", "text", "sentence", "transcript", "transcription", "normalized_text"),
    "start_s": ("start_s", "offset"),
    "duration_s": ("duration_s", "duration"),
    "language": ("language", "lang", "locale", "source_lang"),
    "location": ("location",),  # as jobs/export.py writes it: the fields of `AudioLocation`
}
SPEAKER = "speaker"  # the key of metadata that `input.columns.speaker` fills
MAX_DURATION_S = 1e8  # three years: more is another unit or a mistake
MAX_PLACE = 1 << 50  # bytes or seconds: no file is larger
MAX_NUMBER = (1 << 31) - 1  # of a row, a row group or a channel: what the tables hold
MAX_ROUNDING_ERROR_S = 0.5 / SAMPLE_RATE  # below zero by less: a time of 0 that was calculated
NULLS = frozenset(("", "na", "n/a", "null", "none", "<na>", "nat"))  # what writers of CSV put where a number is missing


def read_manifest(
    uri: str, context: ReadContext, *, below: str = "", columns: Mapping[str, str] | None = None
) -> Iterator[Recording]:
    """The recordings of a manifest, in its order; relative paths are relative to its folder, or to `below` in it.

    `columns`: what a form calls its fields, where the settings do not say. A row with a wrong value, or that cannot be
    read, is a recording that says so. Raises `InputError` with file and line for a manifest of which nothing can be
    read, for a file that lies outside without leave, for a column of `input.columns` that no row has.
    """
    yield from context.resolver_for(uri, below).locate(parse_manifest(uri, context, below=below, columns=columns))


def parse_manifest(
    uri: str, context: ReadContext, *, below: str = "", columns: Mapping[str, str] | None = None
) -> Iterator[Recording]:
    """The same, as the manifest has them: what it names has not been looked at."""
    table = _Table(uri, context.resolver_for(uri, below), configured_columns(context.config.columns), columns or {})
    yield from table.recordings(context)


def configured_columns(config: ColumnsConfig) -> dict[str, str]:
    """Field -> column, for those that ``input.columns`` names."""
    return {name: column for name, column in config.model_dump().items() if column is not None}


class _Table:
    """A manifest's columns and what they mean."""

    def __init__(self, uri: str, files: PathResolver, asked: Mapping[str, str], usual: Mapping[str, str]) -> None:
        """`asked`: by the settings, has to be there; `usual`: by the form."""
        self._uri = uri
        self._files = files
        self._asked = asked
        named = {**usual, **asked}
        self._speaker = named.pop(SPEAKER, SPEAKER)
        self._names = COLUMNS | {name: (column,) for name, column in named.items()}
        self._missing = set(asked.values())
        self._columns: tuple[str, ...] = ()  # of the first row
        self._secrets = own_secrets()

    def recordings(self, context: ReadContext) -> Iterator[Recording]:
        rows = self._noted(read_rows(self._uri, context.storage, self._names["uri"], self._check))
        yield from rows_to_recordings(rows, self._recording, self._name, self._uri)
        if self._columns:
            self._require_asked(self._columns)

    def _noted(self, rows: Iterator[LocatedRow]) -> Iterator[LocatedRow]:
        """The rows, while it is noted which columns there are."""
        for where, row in rows:
            if isinstance(row, dict):
                if self._missing:
                    self._missing.difference_update(row)
                self._columns = self._columns or tuple(row)
            yield where, row

    def _name(self, row: Row) -> str | None:
        _, value, _ = split_fields(row, {"recording_id": self._names["recording_id"]}, self._speaker)
        return cell_to_id(value["recording_id"])

    def _check(self, header: list[str]) -> None:
        if not set(self._names["uri"]) & set(header):
            raise InputError(f"{self._uri}: a manifest needs the column {self._needed()}; found {_join_names(header)}")
        self._missing.difference_update(header)
        self._require_asked(header)

    def _require_asked(self, columns: list[str] | tuple[str, ...]) -> None:
        for name, column in self._asked.items():
            if column in self._missing:
                raise InputError(
                    f"{self._uri}: has no column input.columns.{name}={column}; found {_join_names(columns)}"
                )

    def _needed(self) -> str:
        first, *others = self._names["uri"]
        return f"{first} (or {', '.join(others)}; or any that input.columns.uri names)" if others else first

    def _recording(self, where: str, row: Row) -> Recording:
        taken, value, metadata = split_fields(row, self._names, self._speaker)
        path = value["uri"]
        if taken["uri"] is None:
            raise RowError(f"{where}: needs {self._needed()}; found {_join_names(list(row))}", is_unreadable=True)
        if not isinstance(path, str) or not path:
            raise RowError(f"{where}: {taken['uri']} must be a path or URL, found {path!r}")
        duration_s = parse_seconds_cell(where, taken["duration_s"], value["duration_s"])
        location = _location(where, value["location"])
        start_s = parse_seconds_cell(where, taken["start_s"], value["start_s"])
        if start_s is not None:
            location = AudioLocation(start_s=start_s, length_s=duration_s)
        return Recording(
            recording_id=cell_to_id(value["recording_id"])
            or redact(path, self._secrets) + format_audio_range(location),
            uri=self._files.resolve(path, where, str(taken["uri"])),
            location=location,
            duration_s=duration_s,
            language=cell_to_text(value["language"]) if value["language"] else None,
            reference=None if value["reference"] is None else cell_to_text(value["reference"]),
            metadata=metadata,
        )


def split_fields(
    row: Mapping[str, Any], names: Mapping[str, tuple[str, ...]], speaker: str
) -> tuple[dict[str, str | None], dict[str, Any], dict[str, str]]:
    """(field -> its column, None where the row has none; field -> its cell; all other cells as metadata).

    `names`: by field the columns that may hold it, the first that there is; `speaker`: the column of the speaker.
    """
    taken = {field: next((name for name in known if name in row), None) for field, known in names.items()}
    cells = {name: replace_nan(cell) for name, cell in row.items()}
    value = {field: None if name is None else cells[name] for field, name in taken.items()}
    used = {*taken.values(), speaker}
    metadata = {SPEAKER: cell_to_text(cells[speaker])} if cells.get(speaker) is not None else {}
    metadata |= {name: cell_to_text(cell) for name, cell in cells.items() if cell is not None and name not in used}
    return taken, value, metadata


def replace_nan(cell: Any) -> Any:
    """The cell with None in place of every number that is not finite: pandas and Arrow write what is missing so."""
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    if isinstance(cell, list):
        return [replace_nan(each) for each in cell]
    if isinstance(cell, dict):
        return {name: replace_nan(each) for name, each in cell.items()}
    return cell


def cell_to_id(value: Any) -> str | None:
    """An id; None where there is none."""
    return None if value is None or value == "" else cell_to_text(value)


def cell_to_text(value: Any) -> str:
    """A cell as metadata hold it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _location(where: str, cell: Any) -> AudioLocation | None:
    if cell is None:
        return None
    known = [one.name for one in fields(AudioLocation)]
    if not isinstance(cell, dict) or set(cell) - set(known):
        raise RowError(
            f"{where}: location must be an object of {', '.join(known)}; found {quote_short(cell_to_text(cell))}"
        )
    try:
        given = {name: _parse_place_field(name, value) for name, value in cell.items() if value is not None}
        location = AudioLocation(**given)
    except (TypeError, ValueError, OverflowError) as error:
        raise RowError(f"{where}: location cannot be {quote_short(cell_to_text(cell))} ({error})") from error
    return None if location == AudioLocation() else location


def _parse_place_field(name: str, value: Any) -> Any:
    """A field of a `Place`. Raises `TypeError`, `ValueError` or `OverflowError`."""
    if name == "member":
        return str(value)
    if name in ("start_s", "length_s"):
        return parse_seconds(value)
    number = int(value)
    if not 0 <= number <= (MAX_PLACE if name in ("byte_start", "num_bytes") else MAX_NUMBER):
        raise ValueError("a number out of range")
    return number


def parse_seconds_cell(where: str, column: str | None, value: Any) -> float | None:
    """A claimed duration or time; None for null and NaN. Raises `RowError` for what cannot be one."""
    try:
        return parse_seconds(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise RowError(f"{where}: {column} must be seconds, found {quote_cell(value)}") from error


def parse_seconds(value: Any) -> float | None:
    """The same. Raises `TypeError`, `ValueError` or `OverflowError`."""
    if value is None or (isinstance(value, str) and value.strip().lower() in NULLS):
        return None
    number = float(value)
    if not math.isfinite(number):
        return None
    if not -MAX_ROUNDING_ERROR_S < number <= MAX_DURATION_S:
        raise ValueError("a number out of range")
    return max(0.0, number)  # in this order: of -0.0 too it is 0.0


def quote_cell(value: Any) -> str:
    """A cell for a message."""
    return quote_short(value) if isinstance(value, str) else quote_short(cell_to_text(value)).strip("'\"")


def _join_names(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(map(quote_short, names)) or "no columns"
