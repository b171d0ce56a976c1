"""Tables that hold the audio itself: rows with a column of files, as Hugging Face's Audio feature writes them.

Such a column is a struct of `bytes` and `path`, whatever it is called, or a plain binary one; or it holds decoded
samples (decoded_audio.py). A row's other scalars say
what they are called in manifests, or are metadata. Where `bytes` is null the row means the file at `path`. An index has
every column but the audio, and where the audio lies; recordings are made of it here, whatever file format it came from
(parquet_audio.py, saved_datasets.py).

A row is called by its column `recording_id` or `id` if that is text and tells all rows of its file apart, else by its
file's name and `path` if these do, else by its file's name and its number.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distil_ray.errors import ErrorKind, InputError
from distil_ray.readers.base import Reading
from distil_ray.readers.field_mapping import FieldMapping, RecordingFields
from distil_ray.readers.index_cache import get_file_info, is_index
from distil_ray.readers.location import rest_of
from distil_ray.readers.manifest import COLUMNS
from distil_ray.readers.row_errors import RowError, failed_recording
from distil_ray.readers.row_files import batch_rows
from distil_ray.readers.sample_arrays import find_sample_columns, list_sample_columns
from distil_ray.redaction import redact
from distil_ray.schema import Place, Recording
from distil_ray.storage.storage import Entry

BYTES_FIELD, PATH_FIELD = "bytes", "path"  # fields of the struct

# Columns of an index beside the table's own, which have `OWN` before their names: the row's number in its file, the
# path written in it, whether the audio is in it, and where. `num_bytes` is its size, in Parquet the mean of its group.
TABLE_COLUMN_PREFIX = "column:"
LOCATION_COLUMNS = pa.schema(
    [
        ("number", pa.int64()),
        ("path", pa.string()),
        ("is_embedded", pa.bool_()),
        ("row_group", pa.int32()),
        ("row", pa.int32()),
        ("byte_start", pa.int64()),
        ("num_bytes", pa.int64()),
    ]
)


def find_audio_column(schema: pa.Schema, asked: str | None) -> str | None:
    """The column that holds the audio; None if there is none. `asked`: what ``input.columns.uri`` names.

    Raises `InputError` where there are several and nothing tells which.
    """
    if is_index(schema):
        return None
    if asked is not None:
        return asked if asked in schema.names and _holds_audio(schema, asked) else None
    images = _features(schema, "Image")
    structs = [one.name for one in schema if _is_audio_struct(one.type) and one.name not in images]
    audio = [name for name in structs if name in _features(schema, "Audio")] or structs or list_sample_columns(schema)
    if len(audio) > 1 and "audio" not in audio:
        raise InputError(f"several columns hold audio: {', '.join(audio)}. Say which with input.columns.uri")
    if audio:
        return "audio" if "audio" in audio else audio[0]
    plain = [one.name for one in schema if _is_binary(one.type)]
    names_files = set(COLUMNS["uri"]) & set(schema.names)
    return plain[0] if len(plain) == 1 and not names_files else None


def metadata_columns(schema: pa.Schema, audio: str) -> list[str]:
    """The columns that describe a row: scalars, as text can hold them."""
    return [
        one.name
        for one in schema
        if one.name != audio and not pa.types.is_nested(one.type) and not _is_binary(one.type)
    ]


def iter_table_recordings(index: pa.Table, entry: Entry, name: str, reading: Reading) -> Iterator[Recording]:
    """The recordings of a table, by its index; `name` is the table's in their ids."""
    fields, paths_are_ids = _fields(index, reading)
    for batch in index.to_batches(max_chunksize=4096):
        elsewhere: list[Recording] = []
        for row, number in zip(batch_rows(batch), batch.column("number").to_pylist(), strict=True):
            where = f"{entry.uri} row {number}"
            by_number = f"{name}#{number}"
            try:
                if isinstance(row, Exception):
                    raise RowError(f"{where}: cannot be read: {row}")
                said = fields.extract(_own(row), reading.ignored)
                by_place = f"{name}/{row['path']}" if paths_are_ids else by_number
                called = said.recording_id or by_place
                recording = _recording(row, said, called, entry, get_file_info(index)["column"], reading)
            except RowError as error:
                recording = failed_recording(by_number, where, entry.uri, error)
            if recording.uri == entry.uri:
                yield recording
            else:
                elsewhere.append(recording)
        yield from reading.named_by(entry.uri).located(elsewhere)
    if damage := get_file_info(index)["damage"]:
        yield rest_of(entry, name, ErrorKind.CORRUPT, f"{entry.uri}: {damage}")


def _fields(index: pa.Table, reading: Reading) -> tuple[FieldMapping, bool]:
    """(what the columns mean, whether paths tell the rows apart)."""
    ids = [name for name in COLUMNS["recording_id"] if _tells_apart(index, TABLE_COLUMN_PREFIX + name)][:1]
    fields = FieldMapping.from_config(reading.config.columns, recording_id=tuple(ids))
    return fields, _tells_apart(index, "path")


def _tells_apart(index: pa.Table, name: str) -> bool:
    if name not in index.column_names or not _is_text(index.schema.field(name).type):
        return False
    column = index[name]
    return bool(column.null_count == 0 and pc.count_distinct(column).as_py() == len(column))


def _own(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix(TABLE_COLUMN_PREFIX): cell
        for name, cell in row.items()
        if name.startswith(TABLE_COLUMN_PREFIX)
    }


def _recording(
    row: dict[str, Any], said: RecordingFields, name: str, entry: Entry, column: str, reading: Reading
) -> Recording:
    told: dict[str, Any] = {
        "recording_id": name,
        "duration_s": said.duration_s,
        "language": said.language,
        "reference": said.reference,
        "metadata": said.metadata,
    }
    if row["is_embedded"]:
        lies = {key: row[key] for key in ("byte_start", "num_bytes", "row_group", "row")}
        size = row["num_bytes"] if row["byte_start"] is not None else None  # of one row; not an average
        place = Place(member=column, **lies)
        return Recording(uri=entry.uri, source_size=size, source_version=entry.version, place=place, **told)
    if row["path"]:
        where = f"{entry.uri} row {row['number']}"
        return Recording(uri=reading.named_by(entry.uri).uri(row["path"], where, column), **told)
    words = redact(f"{entry.uri}: {name} has neither audio nor a path in {column}")
    kind = ErrorKind.EMPTY_FILE
    return Recording(uri=entry.uri, source_version=entry.version, error_kind=kind, error=words, **told)


def _features(schema: pa.Schema, kind: str) -> set[str]:
    """The columns that `datasets` has noted to be of a kind."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name for name, one in features.items() if isinstance(one, dict) and one.get("_type") == kind}
    except (KeyError, ValueError, TypeError, AttributeError):
        return set()


def _holds_audio(schema: pa.Schema, column: str) -> bool:
    kind = schema.field(column).type
    return _is_binary(kind) or _is_audio_struct(kind) or find_sample_columns(schema, column) is not None


def audio_paths(cells: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The paths in an audio column; null where it has none."""
    has_paths = pa.types.is_struct(cells.type) and _is_text(_field(cells.type, PATH_FIELD))
    return pc.struct_field(cells, PATH_FIELD) if has_paths else pa.nulls(len(cells), pa.string())


def _is_audio_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and _is_binary(_field(kind, BYTES_FIELD)) and _is_text(_field(kind, PATH_FIELD))


def _field(kind: pa.DataType, name: str) -> pa.DataType:
    place = kind.get_field_index(name)
    return pa.null() if place < 0 else kind.field(place).type


def _is_binary(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def assemble_index(own: Iterable[tuple[str, pa.Array]], lies: dict[str, pa.Array]) -> pa.Table:
    """An index of the table's own columns (name, cells) and of where the audio lies, by `LIES`."""
    columns = {TABLE_COLUMN_PREFIX + name: cells for name, cells in own}
    return pa.table({**columns, **{one.name: lies[one.name].cast(one.type) for one in LOCATION_COLUMNS}})
