"""Manifests: tables that name recordings by columns (JSON lines, CSV, TSV, Parquet), NeMo's among them.

Which columns mean what is in `COLUMNS`, and ``input.columns`` says otherwise; every other column is kept as metadata,
as text. An offset makes a row a segment of its file, with the duration as its length; without one the duration is what
the source claims of the whole file. An id is optional: without one the recording is called by its path as written, a
segment with its times behind it. JSONL and Parquet tell "no reference" (null) from "the right answer is no words" (an
empty string); CSV and TSV cannot, and an empty cell there means null.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from distil_ray.config import ColumnsConfig
from distil_ray.errors import InputError
from distil_ray.redaction import own_secrets, redact
from distil_ray.schema import Place, Recording
from distil_ray.sources.named_files import NamedFiles
from distil_ray.sources.places import cut_of
from distil_ray.sources.reading import Reading
from distil_ray.sources.rows import Row, read_rows, short

# Field -> the names it goes by; the first that a row has counts.
COLUMNS: dict[str, tuple[str, ...]] = {
    "recording_id": ("recording_id", "id"),
    "uri": ("uri", "path", "audio_filepath", "file_name"),
    "reference": ("reference", "text", "sentence", "transcript", "transcription", "normalized_text"),
    "start_s": ("start_s", "offset"),
    "duration_s": ("duration_s", "duration"),
    "language": ("language", "lang", "locale", "source_lang"),
    "place": ("place",),  # as jobs/export.py writes it: the fields of `Place`
}
SPEAKER = "speaker"  # the key of metadata that `input.columns.speaker` fills
MAX_DURATION_S = 1e8  # three years: more is another unit or a mistake
MAX_PLACE = 1 << 50  # bytes, rows or seconds: no file is larger


def read_manifest(
    uri: str, reading: Reading, *, below: str = "", columns: Mapping[str, str] | None = None
) -> Iterator[Recording]:
    """The recordings of a manifest, in its order; relative paths are relative to its folder, or to `below` in it.

    `columns`: what a form calls its fields, where the settings do not say. Raises `InputError` with file and line for
    what cannot be read, for a file that lies outside without leave, for a column of `input.columns` that no row has.
    """
    yield from reading.named_by(uri).located(listed(uri, reading, below=below, columns=columns))


def listed(
    uri: str, reading: Reading, *, below: str = "", columns: Mapping[str, str] | None = None
) -> Iterator[Recording]:
    """The same, as the manifest has them: what it names has not been looked at."""
    table = _Table(uri, reading.named_by(uri, below), named_columns(reading.config.columns), columns or {})
    yield from table.recordings(reading)


def named_columns(config: ColumnsConfig) -> dict[str, str]:
    """Field -> column, for those that ``input.columns`` names."""
    return {name: column for name, column in config.model_dump().items() if column is not None}


class _Table:
    """A manifest's columns and what they mean."""

    def __init__(self, uri: str, files: NamedFiles, asked: Mapping[str, str], usual: Mapping[str, str]) -> None:
        """`asked`: by the settings, has to be there; `usual`: by the form."""
        self._uri = uri
        self._files = files
        self._asked = asked
        named = {**usual, **asked}
        self._speaker = named.pop(SPEAKER, SPEAKER)
        self._names = COLUMNS | {name: (column,) for name, column in named.items()}
        self._missing = set(asked.values())
        self._secrets = own_secrets()

    def recordings(self, reading: Reading) -> Iterator[Recording]:
        rows = read_rows(self._uri, reading.storage, self._names["uri"], self._check)
        columns: tuple[str, ...] = ()
        for where, row in rows:
            if self._missing:
                self._missing.difference_update(row)
            columns = columns or tuple(row)
            yield self._recording(where, row)
        if columns:
            self._require_asked(columns)

    def _check(self, header: list[str]) -> None:
        if not set(self._names["uri"]) & set(header):
            raise InputError(f"{self._uri}: a manifest needs the column {self._needed()}; found {_in_words(header)}")
        self._missing.difference_update(header)
        self._require_asked(header)

    def _require_asked(self, columns: list[str] | tuple[str, ...]) -> None:
        for name, column in self._asked.items():
            if column in self._missing:
                raise InputError(
                    f"{self._uri}: has no column input.columns.{name}={column}; found {_in_words(columns)}"
                )

    def _needed(self) -> str:
        first, *others = self._names["uri"]
        return f"{first} (or {', '.join(others)}; or any that input.columns.uri names)" if others else first

    def _recording(self, where: str, row: Row) -> Recording:
        taken, value, metadata = sorted_out(row, self._names, self._speaker)
        path = value["uri"]
        if taken["uri"] is None:
            raise InputError(f"{where}: needs {self._needed()}; found {_in_words(list(row))}")
        if not isinstance(path, str) or not path:
            raise InputError(f"{where}: {taken['uri']} must be a path or URL, found {path!r}")
        duration_s = seconds(where, taken["duration_s"], value["duration_s"])
        place = _place(where, value["place"])
        start_s = seconds(where, taken["start_s"], value["start_s"])
        if start_s is not None:
            place = Place(start_s=start_s, length_s=duration_s)
        name = value["recording_id"]
        return Recording(
            recording_id=redact(path, self._secrets) + cut_of(place) if name in (None, "") else as_text(name),
            uri=self._files.uri(path, where, str(taken["uri"])),
            place=place,
            duration_s=duration_s,
            language=as_text(value["language"]) if value["language"] else None,
            reference=None if value["reference"] is None else as_text(value["reference"]),
            metadata=metadata,
        )


def sorted_out(
    row: Mapping[str, Any], names: Mapping[str, tuple[str, ...]], speaker: str
) -> tuple[dict[str, str | None], dict[str, Any], dict[str, str]]:
    """(field -> its column, None where the row has none; field -> its cell; all other cells as metadata).

    `names`: by field the columns that may hold it, the first that there is; `speaker`: the column of the speaker.
    """
    taken = {field: next((name for name in known if name in row), None) for field, known in names.items()}
    value = {field: None if name is None else row[name] for field, name in taken.items()}
    used = {*taken.values(), speaker}
    metadata = {SPEAKER: as_text(row[speaker])} if row.get(speaker) is not None else {}
    metadata |= {name: as_text(cell) for name, cell in row.items() if cell is not None and name not in used}
    return taken, value, metadata


def as_text(value: Any) -> str:
    """A cell as metadata hold it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _place(where: str, cell: Any) -> Place | None:
    if cell is None:
        return None
    known = [one.name for one in fields(Place)]
    if not isinstance(cell, dict) or set(cell) - set(known):
        raise InputError(f"{where}: place must be an object of {', '.join(known)}; found {short(as_text(cell))}")
    try:
        whole = ("byte_start", "num_bytes", "row_group", "row", "channel")
        kinds = {name: int if name in whole else str if name == "member" else float for name in known}
        given: dict[str, Any] = {name: kinds[name](value) for name, value in cell.items() if value is not None}
        if not all(isinstance(value, str) or 0 <= value <= MAX_PLACE for value in given.values()):
            raise ValueError("a number out of range")
        place = Place(**given)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: place cannot be {short(as_text(cell))} ({error})") from error
    return None if place == Place() else place


def seconds(where: str, column: str | None, value: Any) -> float | None:
    """A claimed duration or time; None for null and NaN. Raises `InputError` for what cannot be one."""
    try:
        return as_seconds(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {column} must be seconds, found {value!r}") from error


def as_seconds(value: Any) -> float | None:
    """The same. Raises `TypeError` or `ValueError`."""
    number = math.nan if value is None else float(value)
    if math.isnan(number):
        return None
    if not 0 <= number <= MAX_DURATION_S:
        raise ValueError(number)
    return number


def _in_words(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(map(short, names)) or "no columns"
