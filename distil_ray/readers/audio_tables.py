"""Tables that contain audio: the audio column, the index of a table, and the recordings made from an index.

The audio column is one of these:

* a struct of `bytes` and `path`, as the Audio feature of Hugging Face `datasets` writes it, under any column name;
* a plain binary column;
* decoded samples with their sampling rate (`sample_arrays`).

A row whose `bytes` is null stands for the file at its `path`. The other scalar columns have the meaning of a manifest's
columns (`field_mapping`), or are metadata. The index of a table holds all of its columns except the audio, and the
location of each row's audio. `parquet` and `hf_datasets` build the index of their file format.

The id of a row is its `recording_id` or `id` column if that is text and unique in the file; else file name and `path`
if paths are unique; else file name and row number.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distil_ray.errors import ErrorKind, InputError
from distil_ray.readers.base import ReadContext
from distil_ray.readers.columns import COLUMNS
from distil_ray.readers.field_mapping import FieldMapping, RecordingFields
from distil_ray.readers.index_cache import get_file_info, is_index
from distil_ray.readers.location import failed_remainder
from distil_ray.readers.ordered_iteration import Write, iter_in_order
from distil_ray.readers.row_errors import RowError, failed_recording
from distil_ray.readers.row_files import batch_rows
from distil_ray.readers.sample_arrays import find_sample_columns, list_sample_columns
from distil_ray.redaction import redact
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage_errors import StorageError
from distil_ray.types import AudioLocation, Recording

BYTES_FIELD, PATH_FIELD = "bytes", "path"  # fields of the audio struct

# The columns of an index beside those of the table itself, whose names get `TABLE_COLUMN_PREFIX`.
TABLE_COLUMN_PREFIX = "column:"
LOCATION_COLUMNS = pa.schema(
    [
        ("number", pa.int64()),  # of the row in its file, from 0
        ("path", pa.string()),  # as the audio struct has it
        ("is_embedded", pa.bool_()),  # the audio is in the table, not in the file at `path`
        ("row_group", pa.int32()),  # of Parquet, or the record batch of Arrow; null if `byte_start` is known
        ("row", pa.int32()),  # in its group, from 0
        ("byte_start", pa.int64()),  # of the audio in the file; null in Parquet and for decoded samples
        ("num_bytes", pa.int64()),  # of the audio; the mean of the group where `byte_start` is null
    ]
)

OpenGroup = Callable[[str, int], AbstractContextManager[Iterator[tuple[int, Write]]]]


def find_audio_column(schema: pa.Schema, requested: str | None) -> str | None:
    """Returns the column that contains the audio, None if there is none.

    Args:
        schema: Schema of the table.
        requested: Value of ``input.columns.uri``.

    Raises:
        InputError: Several columns contain audio, and none of them is called "audio" or requested.
    """
    if is_index(schema):
        return None
    if requested is not None:
        return requested if requested in schema.names and _contains_audio(schema, requested) else None
    images = _feature_columns(schema, "Image")
    structs = [field.name for field in schema if _is_audio_struct(field.type) and field.name not in images]
    features = _feature_columns(schema, "Audio")
    audio = [name for name in structs if name in features] or structs or list_sample_columns(schema)
    if len(audio) > 1 and "audio" not in audio:
        raise InputError(f"several columns contain audio: {', '.join(audio)}. Set input.columns.uri to one of them")
    if audio:
        return "audio" if "audio" in audio else audio[0]
    binary = [field.name for field in schema if _is_binary(field.type)]
    has_file_names = bool(set(COLUMNS["uri"]) & set(schema.names))
    return binary[0] if len(binary) == 1 and not has_file_names else None


def metadata_columns(schema: pa.Schema, audio: str) -> list[str]:
    """Returns the columns that describe a row: all scalars that text can hold, except the column `audio`."""
    return [
        field.name
        for field in schema
        if field.name != audio and not pa.types.is_nested(field.type) and not _is_binary(field.type)
    ]


def audio_paths(cells: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Returns the `path` of each cell of an audio column; nulls where the column has none."""
    has_paths = pa.types.is_struct(cells.type) and _is_text(_field_type(cells.type, PATH_FIELD))
    return pc.struct_field(cells, PATH_FIELD) if has_paths else pa.nulls(len(cells), pa.string())


def assemble_index(table_columns: Iterable[tuple[str, pa.Array]], locations: dict[str, pa.Array]) -> pa.Table:
    """Returns an index.

    Args:
        table_columns: Name and cells of the table's own columns.
        locations: The columns of `LOCATION_COLUMNS`, by name.
    """
    columns = {TABLE_COLUMN_PREFIX + name: cells for name, cells in table_columns}
    return pa.table({**columns, **{field.name: locations[field.name].cast(field.type) for field in LOCATION_COLUMNS}})


def iter_table_recordings(index: pa.Table, entry: Entry, name: str, context: ReadContext) -> Iterator[Recording]:
    """Yields the recordings of a table.

    Args:
        index: Index of the table.
        entry: The table's file.
        name: The table's name, with which the ids of its rows begin.
        reading: Settings and counters.
    """
    mapping, paths_are_unique = _map_fields(index, context)
    for batch in index.to_batches(max_chunksize=4096):
        external: list[Recording] = []
        for row, number in zip(batch_rows(batch), batch.column("number").to_pylist(), strict=True):
            where = f"{entry.uri} row {number}"
            numbered_id = f"{name}#{number}"
            try:
                if isinstance(row, Exception):
                    raise RowError(f"{where}: cannot be read: {row}")
                fields = mapping.extract(_table_cells(row), context.ignored)
                default_id = f"{name}/{row['path']}" if paths_are_unique else numbered_id
                recording_id = fields.recording_id or default_id
                recording = _to_recording(row, fields, recording_id, entry, get_file_info(index)["column"], context)
            except RowError as error:
                recording = failed_recording(numbered_id, where, entry.uri, error)
            if recording.uri == entry.uri:
                yield recording
            else:
                external.append(recording)
        yield from context.resolver_for(entry.uri).locate(external)
    if damage := get_file_info(index)["damage"]:
        yield failed_remainder(entry, name, ErrorKind.CORRUPT, f"{entry.uri}: {damage}")


def extract_group_cells(
    unit: Sequence[Recording], target: Path, open_group: OpenGroup, group_name: str
) -> Iterator[Path | StorageError]:
    """Extracts the audio of rows of one row group or record batch.

    Args:
        unit: Recordings in the same column and group, in any order; a row may occur several times.
        target: Path whose name, with a suffix, the extracted files get. The caller removes them.
        open_group: Opens a group, given the column and the number of the group. Its value yields each row's number in
            the group, and a function that writes the row's audio to a file.
        group_name: What a group is called in messages.

    Yields:
        For each recording its file, or why it cannot be extracted.

    Raises:
        StorageError: The table cannot be read, or lacks a row.
    """
    uri, place = unit[0].uri, unit[0].location
    if place is None or place.row_group is None or place.member is None:
        raise ValueError(f"{uri}: {unit[0].recording_id} is no row of a table")
    rows = [recording.location.row if recording.location else None for recording in unit]
    num_found = 0
    with open_group(place.member, place.row_group) as cells:
        for result in iter_in_order(rows, cells, target):
            yield result
            num_found += 1
    if num_found < len(rows):
        message = f"{uri}: has no row {rows[num_found]} in {group_name} {place.row_group}"
        raise StorageError(ErrorKind.NOT_FOUND, message)


def _map_fields(index: pa.Table, context: ReadContext) -> tuple[FieldMapping, bool]:
    """Returns the meaning of the table's columns, and whether its paths are unique."""
    ids = [name for name in COLUMNS["recording_id"] if _is_unique_text(index, TABLE_COLUMN_PREFIX + name)][:1]
    mapping = FieldMapping.from_config(context.config.columns, recording_id=tuple(ids))
    return mapping, _is_unique_text(index, "path")


def _is_unique_text(index: pa.Table, name: str) -> bool:
    if name not in index.column_names or not _is_text(index.schema.field(name).type):
        return False
    column = index[name]
    return bool(column.null_count == 0 and pc.count_distinct(column).as_py() == len(column))


def _table_cells(row: dict[str, Any]) -> dict[str, Any]:
    prefix = TABLE_COLUMN_PREFIX
    return {name.removeprefix(prefix): cell for name, cell in row.items() if name.startswith(prefix)}


def _to_recording(
    row: dict[str, Any], fields: RecordingFields, recording_id: str, entry: Entry, column: str, context: ReadContext
) -> Recording:
    common: dict[str, Any] = {
        "recording_id": recording_id,
        "duration_s": fields.duration_s,
        "language": fields.language,
        "call_id": fields.call_id,
        "reference": fields.reference,
        "metadata": fields.metadata,
    }
    if row["is_embedded"]:
        location = {key: row[key] for key in ("byte_start", "num_bytes", "row_group", "row")}
        size = row["num_bytes"] if row["byte_start"] is not None else None  # not where it is a mean
        place = AudioLocation(member=column, **location)
        return Recording(uri=entry.uri, source_size=size, source_version=entry.version, location=place, **common)
    if row["path"]:
        where = f"{entry.uri} row {row['number']}"
        return Recording(uri=context.resolver_for(entry.uri).resolve(row["path"], where, column), **common)
    message = redact(f"{entry.uri}: {recording_id} has neither audio nor a path in {column}")
    kind = ErrorKind.EMPTY_FILE
    return Recording(uri=entry.uri, source_version=entry.version, error_kind=kind, error=message, **common)


def _feature_columns(schema: pa.Schema, feature_type: str) -> set[str]:
    """Returns the columns that have a feature of this type in the metadata that `datasets` writes."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == feature_type
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return set()


def _contains_audio(schema: pa.Schema, column: str) -> bool:
    kind = schema.field(column).type
    return _is_binary(kind) or _is_audio_struct(kind) or find_sample_columns(schema, column) is not None


def _is_audio_struct(kind: pa.DataType) -> bool:
    is_struct = pa.types.is_struct(kind)
    return is_struct and _is_binary(_field_type(kind, BYTES_FIELD)) and _is_text(_field_type(kind, PATH_FIELD))


def _field_type(kind: pa.DataType, name: str) -> pa.DataType:
    index = kind.get_field_index(name)
    return pa.null() if index < 0 else kind.field(index).type


def _is_binary(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))
