"""Batches of rows with audio, as Ray Data passes them: the recordings in them and their audio.

The columns have the names that a table in ``input.uri`` may have (docs/formats.md), and ``input.columns`` applies. The
audio of a row is one of these, in this order of preference:

* encoded audio: a column `bytes`, or a struct of `bytes` and `path`;
* samples and their rate: a struct of `array` and `sampling_rate`, or two columns;
* a file: a column such as `uri` or `path`.
"""

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from distil_ray.config import InputConfig
from distil_ray.errors import ErrorKind, InputError
from distil_ray.languages import language_code
from distil_ray.readers.audio_tables import BYTES_FIELD, audio_paths, find_audio_column, metadata_columns
from distil_ray.readers.columns import COLUMNS, configured_columns, parse_seconds, replace_nan
from distil_ray.readers.fetch import FetchResult
from distil_ray.readers.field_mapping import FieldMapping
from distil_ray.readers.location import format_audio_range
from distil_ray.readers.sample_arrays import SampleColumns, find_sample_columns, write_wav_cell
from distil_ray.redaction import redact
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import normalize
from distil_ray.types import AudioLocation, Recording

Batch = Any  # batch_format pyarrow: pa.Table; pandas: pd.DataFrame; numpy: dict[str, np.ndarray]; others in `ACCEPTED`
ACCEPTED = (
    "an Arrow table, a DataFrame of pandas or polars (anything with __arrow_c_stream__), arrays by column, or a list of"
    " rows (a dict for each)"
)

ENCODED_COLUMN = "bytes"  # as ray.data.read_binary_files names it
ID_BYTES = 8  # of the hash of audio without a name


def to_table(batch: Batch) -> pa.Table:
    """Returns a batch as an Arrow table.

    Raises:
        InputError: It is none of the types of `Batch`, or a column has values of different types.
    """
    if isinstance(batch, pa.Table):
        return batch
    if isinstance(batch, pd.DataFrame | Mapping):
        return _from_columns({str(name): values for name, values in batch.items()})
    if hasattr(batch, "__arrow_c_stream__"):
        return pa.table(batch)
    if isinstance(batch, Sequence) and all(isinstance(row, Mapping) for row in batch):
        names = dict.fromkeys(name for row in batch for name in row)
        return _from_columns({str(name): [row.get(name) for row in batch] for name in names})
    raise InputError(f"a batch must be {ACCEPTED}; found {type(batch).__name__}")


def _from_columns(columns: Mapping[str, Any]) -> pa.Table:
    for name, values in columns.items():
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise InputError(f"column {name}: must have a value for each row, found one {type(values).__name__}")
    arrays = {name: _to_array(name, values) for name, values in columns.items()}
    if len({len(array) for array in arrays.values()}) > 1:
        counts = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise InputError(f"columns must have as many values as there are rows, found {counts}")
    return pa.table(arrays)


def _to_array(name: str, values: Any) -> pa.Array:
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError):  # cells with several axes, for example channels of samples
        pass
    try:
        return pa.array([_plain_cell(cell) for cell in values], from_pandas=True)
    except (pa.ArrowException, TypeError) as error:
        raise InputError(f"column {name}: its values have no common type ({' '.join(str(error).split())})") from error


def _plain_cell(cell: Any) -> Any:
    """Returns a cell as Arrow can hold it: arrays with several axes as lists of arrays with one, and paths as texts."""
    if isinstance(cell, Mapping):
        return {name: _plain_cell(value) for name, value in cell.items()}
    if isinstance(cell, np.ndarray) and cell.ndim > 1:
        return [_plain_cell(each) for each in cell]
    return os.fspath(cell) if isinstance(cell, os.PathLike) else cell


@dataclass(frozen=True, slots=True)
class AudioBatch:
    """The rows of a batch as recordings.

    Attributes:
        table: The batch.
        audio_column: Column that contains the audio; None if every row names a file.
        samples: Columns of the samples and their rate; None for encoded audio.
    """

    table: pa.Table
    config: InputConfig
    audio_column: str | None
    samples: SampleColumns | None

    @classmethod
    def of(cls, batch: Batch, config: InputConfig) -> Self:
        """Finds the audio in a batch.

        Args:
            batch: The rows.
            config: The section ``input`` of the settings.

        Raises:
            InputError: No column contains audio or names files, or several contain audio.
        """
        table = to_table(batch)
        column = _find_audio_column(table.schema, config.columns.uri)
        if column is None and not set(_uri_columns(config)) & set(table.column_names):
            raise InputError(
                f"a row needs its audio: a column {ENCODED_COLUMN}, audio with its sampling_rate, or"
                f" {' or '.join(_uri_columns(config))}; found {', '.join(table.column_names) or 'no columns'}"
            )
        return cls(table, config, column, find_sample_columns(table.schema, column) if column else None)

    @property
    def audio_columns(self) -> set[str]:
        """Returns the columns that contain the audio and its sampling rate."""
        if self.samples is not None:
            return {self.samples.samples[0], self.samples.rate[0]}
        return set() if self.audio_column is None else {self.audio_column}

    def split(self) -> tuple[list[int], list[int]]:
        """Returns the rows that contain audio, and the rows whose audio is in a file."""
        if self.audio_column is None:
            return [], list(range(self.table.num_rows))
        cells = self.table[self.audio_column]
        if self.samples is None and pa.types.is_struct(cells.type):
            cells = pc.struct_field(cells, BYTES_FIELD)
        is_embedded = pc.or_(pc.is_valid(cells), pa.array([uri is None for uri in self._uris()], pa.bool_()))
        mask = np.asarray(is_embedded.to_numpy(), np.bool_)
        return np.flatnonzero(mask).tolist(), np.flatnonzero(~mask).tolist()

    def iter_embedded(self, rows: Sequence[int]) -> Iterator[tuple[Recording, FetchResult]]:
        """Yields each of the rows with a temporary file of its audio, or the reason why it has none."""
        fields, uris = self._fields(), self._uris()
        with tempfile.TemporaryDirectory(prefix="distil-ray-") as folder:
            path = Path(folder) / "audio"
            for row in rows:
                error = self._write_audio(row, uris[row] or f"row {row}", path)
                name = uris[row] or (f"row {row}" if error else _hash_file(path))
                yield self._recording(fields[row], name, redact(name)), error or path
                path.unlink(missing_ok=True)

    def recordings_in_files(self, rows: Iterable[int]) -> list[Recording]:
        """Returns the recordings of rows whose audio is in a file."""
        fields, uris = self._fields(), self._uris()
        return [self._file_recording(fields[row], uris[row], f"row {row}") for row in rows]

    def _fields(self) -> list[dict[str, Any]]:
        """Returns the cells of each row that may describe its recording."""
        names = metadata_columns(self.table.schema, self.audio_column or "")
        rows: list[dict[str, Any]] = self.table.select(names).to_pylist()
        return rows if names else [{} for _ in range(self.table.num_rows)]

    def _uris(self) -> list[str | None]:
        """Returns the file that each row names."""
        column = next((name for name in _uri_columns(self.config) if name in self.table.column_names), None)
        if column is not None and column != self.audio_column:
            cells = self.table[column].to_pylist()
        elif self.audio_column is not None:
            cells = audio_paths(self.table[self.audio_column]).to_pylist()
        else:
            cells = []
        return [cell if isinstance(cell, str) and cell else None for cell in cells]

    def _recording(self, row: Mapping[str, Any], uri: str, default_id: str) -> Recording:
        """Returns the recording of a row, without its location in the file."""
        fields = FieldMapping.from_config(self.config.columns).extract(row, Counter())
        return Recording(
            recording_id=fields.recording_id or default_id,
            uri=uri,
            duration_s=fields.duration_s,
            language=language_code(fields.language),
            reference=fields.reference,
        )

    def _file_recording(self, row: Mapping[str, Any], uri: str | None, name: str) -> Recording:
        """Returns the recording of a row whose audio is in a file. `name` is for a row that names none."""
        if uri is None:
            message = f"{name}: has neither audio nor the name of a file"
            return replace(self._recording(row, name, name), error_kind=ErrorKind.EMPTY_FILE, error=message)
        recording = self._recording(row, normalize(uri), "")
        location = self._location(row, recording.duration_s)
        default_id = redact(uri) + format_audio_range(location)
        return replace(recording, recording_id=recording.recording_id or default_id, location=location)

    def _location(self, row: Mapping[str, Any], duration_s: float | None) -> AudioLocation | None:
        configured = configured_columns(self.config.columns)
        names = (configured["start_s"],) if "start_s" in configured else COLUMNS["start_s"]
        cell = next((row[name] for name in names if name in row), None)
        try:
            start_s = parse_seconds(replace_nan(cell))
        except (TypeError, ValueError, OverflowError):
            start_s = None
        return None if start_s is None else AudioLocation(start_s=start_s, length_s=duration_s)

    def _write_audio(self, row: int, name: str, path: Path) -> StorageError | None:
        """Writes the audio of a row to a file. Returns the reason if it has none."""
        if self.samples is not None:
            (batch,) = self.table.select(sorted(self.audio_columns)).slice(row, 1).combine_chunks().to_batches()
            return write_wav_cell(name, batch, 0, self.samples, path)
        cell = self.table[self.audio_column][row]
        if cell.is_valid and pa.types.is_struct(cell.type):
            cell = cell[BYTES_FIELD]
        if not cell.is_valid:
            return StorageError(ErrorKind.EMPTY_FILE, f"{name}: has no audio")
        with open(path, "wb") as file:
            file.write(cell.as_buffer())
        return None


def _find_audio_column(schema: pa.Schema, requested: str | None) -> str | None:
    """Returns the column that contains audio; `requested` is ``input.columns.uri``."""
    if requested is None and ENCODED_COLUMN in schema.names:
        kind = schema.field(ENCODED_COLUMN).type
        if any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)):
            return ENCODED_COLUMN
    return find_audio_column(schema, requested)


def _uri_columns(config: InputConfig) -> tuple[str, ...]:
    return COLUMNS["uri"] if config.columns.uri is None else (config.columns.uri,)


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=ID_BYTES)).hexdigest()
