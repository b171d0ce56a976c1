"""Manifests: tables with a row per recording, as JSON lines, CSV, TSV or Parquet.

`columns` has the meaning of the columns; every column without one is metadata, as text. A row with an offset is a
segment of its file, and the duration is its length; without an offset the duration is what the source claims of the
whole file. An id is optional: by default it is the path as written, for a segment with its times.

JSON lines and Parquet distinguish "no reference" (null) from a reference without words (an empty string). CSV and TSV
cannot, and an empty cell means null. A row with a wrong value becomes a failed recording (`row_errors`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from distil_ray.errors import InputError
from distil_ray.readers.base import InputFormat, ReadContext
from distil_ray.readers.columns import (
    COLUMNS,
    MAX_NUMBER,
    SPEAKER,
    cell_to_id,
    cell_to_text,
    configured_columns,
    parse_prompt_cells,
    parse_seconds,
    parse_seconds_cell,
    split_fields,
)
from distil_ray.readers.location import format_audio_range
from distil_ray.readers.path_resolution import PathResolver
from distil_ray.readers.row_errors import RowError, rows_to_recordings
from distil_ray.readers.row_files import LocatedRow, Row, quote_short, read_rows
from distil_ray.redaction import environment_secrets, redact
from distil_ray.types import AudioLocation, Recording

MAX_OFFSET = 1 << 50  # bytes or seconds: no file is larger


def read_manifest(
    uri: str, context: ReadContext, *, below: str = "", columns: Mapping[str, str] | None = None
) -> Iterator[Recording]:
    """Yields the recordings of a manifest, in its order.

    A row with a wrong value, or that cannot be read, becomes a failed recording.

    Args:
        uri: The manifest.
        context: Storage, settings and counters.
        below: Folder beside the manifest that its paths are relative to; empty: its own folder.
        columns: Columns of fields in this format, where the settings name none.

    Raises:
        InputError: No row can be read, a file is outside of the folders that the manifest may name, or no row has a
            column that ``input.columns`` names. The message has file and line.
    """
    yield from context.resolver_for(uri, below).locate(parse_manifest(uri, context, below=below, columns=columns))


def parse_manifest(
    uri: str, context: ReadContext, *, below: str = "", columns: Mapping[str, str] | None = None
) -> Iterator[Recording]:
    """Yields the recordings as the manifest has them, without looking for their files; see `read_manifest`."""
    requested = configured_columns(context.config.columns)
    reads_rttm = context.config.speakers == "auto"
    table = _Table(uri, context.resolver_for(uri, below), requested, columns or {}, reads_rttm)
    yield from table.recordings(context)


class _Table:
    """A manifest and the meaning of its columns."""

    def __init__(
        self,
        uri: str,
        files: PathResolver,
        requested: Mapping[str, str],
        defaults: Mapping[str, str],
        reads_rttm: bool,
    ) -> None:
        """Args:
        uri: The manifest.
        files: Resolver of its paths.
        requested: Columns in the settings, which must exist.
        defaults: Columns of the format.
        reads_rttm: Resolve the paths of RTTM files.
        """
        self._uri = uri
        self._reads_rttm = reads_rttm
        self._files = files
        self._requested = requested
        named = {**defaults, **requested}
        self._speaker = named.pop(SPEAKER, SPEAKER)
        self._names = COLUMNS | {name: (column,) for name, column in named.items()}
        self._missing = set(requested.values())
        self._columns: tuple[str, ...] = ()  # of the first row
        self._secrets = environment_secrets()

    def recordings(self, context: ReadContext) -> Iterator[Recording]:
        rows = self._track_columns(read_rows(self._uri, context.storage, self._names["uri"], self._check))
        yield from rows_to_recordings(rows, self._recording, self._name, self._uri)
        if self._columns:
            self._require_requested(self._columns)

    def _track_columns(self, rows: Iterator[LocatedRow]) -> Iterator[LocatedRow]:
        """Yields the rows, and records which columns there are."""
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
        self._require_requested(header)

    def _require_requested(self, columns: list[str] | tuple[str, ...]) -> None:
        for name, column in self._requested.items():
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
        location = _parse_location(where, value["location"])
        start_s = parse_seconds_cell(where, taken["start_s"], value["start_s"])
        if start_s is not None:
            location = AudioLocation(start_s=start_s, length_s=duration_s)
        rttm_uri = None
        if value["rttm"] is not None and self._reads_rttm:
            rttm_uri = self._files.resolve(cell_to_text(value["rttm"]), where, str(taken["rttm"]))
        return Recording(
            recording_id=cell_to_id(value["recording_id"])
            or redact(path, self._secrets) + format_audio_range(location),
            uri=self._files.resolve(path, where, str(taken["uri"])),
            location=location,
            duration_s=duration_s,
            language=cell_to_text(value["language"]) if value["language"] else None,
            reference=None if value["reference"] is None else cell_to_text(value["reference"]),
            call_id=cell_to_id(value["call_id"]),
            rttm_uri=rttm_uri,
            prompt=parse_prompt_cells(where, taken, value),
            metadata=metadata,
        )


def _parse_location(where: str, cell: Any) -> AudioLocation | None:
    if cell is None:
        return None
    known = [one.name for one in fields(AudioLocation)]
    if not isinstance(cell, dict) or set(cell) - set(known):
        raise RowError(
            f"{where}: location must be an object of {', '.join(known)}; found {quote_short(cell_to_text(cell))}"
        )
    try:
        given = {name: _parse_location_field(name, value) for name, value in cell.items() if value is not None}
        location = AudioLocation(**given)
    except (TypeError, ValueError, OverflowError) as error:
        raise RowError(f"{where}: location cannot be {quote_short(cell_to_text(cell))} ({error})") from error
    return None if location == AudioLocation() else location


def _parse_location_field(name: str, value: Any) -> Any:
    """Returns a field of an `AudioLocation`.

    Raises:
        TypeError, ValueError, OverflowError: The value is out of range or not a number.
    """
    if name == "member":
        return str(value)
    if name in ("start_s", "length_s"):
        return parse_seconds(value)
    number = int(value)
    if not 0 <= number <= (MAX_OFFSET if name in ("byte_start", "num_bytes") else MAX_NUMBER):
        raise ValueError("a number out of range")
    return number


def _join_names(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(map(quote_short, names)) or "no columns"


FORMAT = InputFormat("manifest", read_manifest)
