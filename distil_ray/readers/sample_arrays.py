"""Decoded audio in tables: samples and their sampling rate, in a struct or in two columns.

Hugging Face `datasets` yields such values, and pandas, Arrow and Ray Data then write them: a struct of ``array`` and
``sampling_rate`` (and ``path``), or a column such as ``array``, ``waveform`` or ``amplitude`` beside a column of the
rate. A cell is written to a WAV file at its rate, and is then decoded like any other file.

Samples are floats from -1 to 1, or integers of 8 to 32 bits. Several channels are a list of lists or a tensor, of shape
(num_channels, num_samples) or (num_samples, num_channels): the shorter axis is taken for the channels.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import soundfile
from numpy.typing import NDArray

from distil_ray.errors import ErrorKind
from distil_ray.readers.audio_formats import DEFAULT_BYTES_PER_S
from distil_ray.storage.storage_errors import StorageError
from distil_ray.types import SAMPLE_RATE

SAMPLE_COLUMNS = ("array", "audio", "amplitude", "samples", "waveform", "signal", "speech")  # columns that hold samples
RATE_COLUMNS = ("sampling_rate", "sample_rate", "samplerate", "sr")
_TENSOR_FIELDS = ("data", "shape")  # of a tensor column with a different shape in each row, as Ray Data stores it
_EXTENSION = b"ARROW:extension:metadata"  # metadata of a field whose extension type is not registered in this process

MAX_RATE = 1_000_000  # Hz
MAX_CHANNELS = 64
WRITE_SAMPLES = 1 << 20  # samples written to a WAV file at once
FULL_SCALE = 1 << 15
# Floats above this peak are 16-bit integers that were cast to float; decoders of compressed audio overshoot by less.
CAST_PEAK = 64.0
MAX_WAV_BYTES = (1 << 32) - 4096  # the sizes in a WAV header have 32 bits


@dataclass(frozen=True, slots=True)
class SampleColumns:
    """The samples and their rate: two fields of the struct `column`, or two columns."""

    column: str
    samples: tuple[str, ...]  # column and, in a struct, field
    rate: tuple[str, ...]  # column and, in a struct, field
    shape: tuple[int, ...] | None = None  # of every cell, if the type of the column has it

    @property
    def leaves(self) -> list[str]:
        """The Parquet names of the columns to read: samples, rate."""
        return [".".join(self.samples), ".".join(self.rate)]


def find_sample_columns(schema: pa.Schema, column: str) -> SampleColumns | None:
    """Returns the sample columns of `column`; None if it does not hold samples."""
    field = schema.field(column)
    if pa.types.is_struct(_storage_type(field.type)) and not _is_tensor(field.type):
        inner = list(_storage_type(field.type))
        rate = _rate_name(inner)
        samples = [one for one in inner if _is_samples(one.type)]
        if rate is None or len(samples) != 1:
            return None
        return SampleColumns(column, (column, samples[0].name), (column, rate), _shape(samples[0]))
    rate = _rate_name(list(schema))
    if rate is None or not _is_samples(field.type):
        return None
    return SampleColumns(column, (column,), (rate,), _shape(field))


def list_sample_columns(schema: pa.Schema) -> list[str]:
    """Returns the columns that hold samples: all structs that do, else the first list with a name in `SAMPLE_COLUMNS`.

    A list under another name may be anything, an embedding for example.
    """
    structs = [one.name for one in schema if pa.types.is_struct(_storage_type(one.type)) and not _is_tensor(one.type)]
    lists = [name for name in SAMPLE_COLUMNS if name in schema.names and name not in structs]
    found = [name for name in structs if find_sample_columns(schema, name)]
    return found or [name for name in lists if find_sample_columns(schema, name)][:1]


def sampling_rates(batch: pa.RecordBatch | pa.Table, columns: SampleColumns) -> pa.Array:
    """Returns the sampling rate of each row in Hz, null where there is none."""
    return _column(batch, columns.rate)


def count_samples(batch: pa.RecordBatch, columns: SampleColumns) -> int:
    """Returns the number of samples in all rows and channels together."""
    cells = _column(batch, columns.samples)
    if _is_tensor(cells.type):
        cells = _storage_array(pc.struct_field(cells, _TENSOR_FIELDS[0]))
    while _is_list(cells.type):
        cells = cells.flatten()
    return len(cells)


def estimate_row_bytes(num_samples: int, rates: pa.Array) -> int:
    """Returns the mean size of a row in bytes, as if it were compressed audio.

    The planner estimates the duration of a recording by its size (`audio_formats.estimate_duration_s`).

    Args:
        num_samples: Number of samples in all rows.
        rates: Sampling rates of the rows in Hz.
    """
    known = np.asarray(rates.cast(pa.float64()).to_numpy(zero_copy_only=False))
    known = known[(known >= 1) & (known <= MAX_RATE)]
    rate = float(known.mean()) if len(known) else SAMPLE_RATE
    return round(num_samples / rate / max(len(rates), 1) * DEFAULT_BYTES_PER_S)


def write_wav_cell(
    where: str, batch: pa.RecordBatch, row: int, columns: SampleColumns, path: Path
) -> StorageError | None:
    """Writes the samples of one row to a WAV file.

    Args:
        where: The row, for messages.
        batch: A batch with at least the columns of `columns.leaves`.
        row: Number of the row in the batch, from 0.
        columns: The sample columns.
        path: The file.

    Returns:
        Why the row has no usable audio; None if the file was written.
    """
    cell_batch = batch.slice(row, 1)
    cells = _column(cell_batch, columns.samples)
    if cells.null_count:
        return StorageError(ErrorKind.EMPTY_FILE, f"{where} has no audio")
    rate = _column(cell_batch, columns.rate)[0].as_py()
    if not isinstance(rate, (int, float)) or not 1 <= rate <= MAX_RATE:
        return StorageError(ErrorKind.NOT_AUDIO, f"{where}: {'.'.join(columns.rate)} must be in Hz, found {rate!r}")
    try:
        _write_wav(_to_frames(cells, columns.shape), round(rate), path)
    except (ValueError, TypeError, pa.ArrowException, soundfile.SoundFileError) as error:
        reason = " ".join(str(error).split())[:200]
        return StorageError(
            ErrorKind.NOT_AUDIO, f"{where}: {'.'.join(columns.samples)} cannot be written as audio ({reason})"
        )
    return None


def _to_frames(cells: pa.Array, shape: tuple[int, ...] | None) -> NDArray[Any]:
    """Returns the samples of one cell, shape (num_samples, num_channels), without a copy where possible."""
    if _is_tensor(cells.type):
        data, shapes = (_storage_array(pc.struct_field(cells, name)) for name in _TENSOR_FIELDS)
        return _channels_last(_flat(data).reshape(shapes[0].as_py()))
    if _is_nested(cells.type):
        inner = cells.flatten()
        channels = [_flat(inner.slice(index, 1)) for index in range(len(inner))]
        return _channels_last(np.stack(channels) if channels else np.empty((0, 1), np.float32))
    flat = _flat(cells)
    return _channels_last(flat if shape is None else flat.reshape(shape))


def _channels_last(samples: NDArray[Any]) -> NDArray[Any]:
    samples = np.squeeze(samples) if samples.ndim > 2 else samples
    if samples.ndim < 2:
        return samples.reshape(-1, 1)
    if samples.ndim > 2:
        raise ValueError(f"{samples.ndim} axes")
    frames = samples.T if samples.shape[0] < samples.shape[1] else samples
    if frames.shape[1] > MAX_CHANNELS:
        raise ValueError(f"{frames.shape[1]} channels")
    return frames


def _flat(cells: pa.Array) -> NDArray[Any]:
    """Returns the numbers of one list cell as a flat array; NaN for null."""
    values = cells.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=values.null_count == 0))


def _write_wav(samples: NDArray[Any], rate: int, path: Path) -> None:
    dtype, subtype, scale = _choose_encoding(samples)
    num_bytes = samples.size * np.dtype(dtype).itemsize
    container = "WAV" if num_bytes <= MAX_WAV_BYTES else "RF64"
    with soundfile.SoundFile(path, "w", rate, samples.shape[1], subtype, format=container) as file:
        for start in range(0, len(samples), WRITE_SAMPLES):
            block = samples[start : start + WRITE_SAMPLES]
            file.write(np.ascontiguousarray(block * scale if scale != 1 else block, dtype=dtype))


def _choose_encoding(samples: NDArray[Any]) -> tuple[str, str, float]:
    """Returns the dtype to write, its name in libsndfile, and the factor to apply before."""
    if samples.dtype.kind == "f":
        peak = float(np.nanmax(np.abs(samples[np.isfinite(samples)]), initial=0.0))
        return "float32", "FLOAT", 1 / FULL_SCALE if peak > CAST_PEAK else 1
    if samples.dtype.kind not in "iu" or samples.dtype.itemsize == 1:
        if samples.dtype == np.int8:
            return "int16", "PCM_16", 256
        raise ValueError(f"samples of the type {samples.dtype}")
    low, high = (int(samples.min()), int(samples.max())) if samples.size else (0, 0)
    if low >= -FULL_SCALE and high < FULL_SCALE:  # by value: conversions often widen integers to 64 bits
        return "int16", "PCM_16", 1
    if low >= -(1 << 31) and high < 1 << 31:
        return "int32", "PCM_32", 1
    raise ValueError("integers of more than 32 bits")


def _column(batch: pa.RecordBatch | pa.Table, names: tuple[str, ...]) -> pa.Array:
    cells = batch.column(names[0])
    if isinstance(cells, pa.ChunkedArray):
        cells = cells.combine_chunks()
    for name in names[1:]:
        cells = pc.struct_field(_storage_array(cells), name)
    return _storage_array(cells)


def _storage_type(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _storage_array(cells: pa.Array) -> pa.Array:
    return cells.storage if isinstance(cells, pa.ExtensionArray) else cells


def _rate_name(fields: list[pa.Field]) -> str | None:
    numbers = {one.name for one in fields if pa.types.is_integer(one.type) or pa.types.is_floating(one.type)}
    return next((name for name in RATE_COLUMNS if name in numbers), None)


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _is_numbers(kind: pa.DataType) -> bool:
    """Returns whether a type is a list of numbers."""
    return _is_list(kind) and (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type))


def _is_nested(kind: pa.DataType) -> bool:
    return _is_list(kind) and _is_numbers(kind.value_type)


def _is_tensor(kind: pa.DataType) -> bool:
    kind = _storage_type(kind)
    if not pa.types.is_struct(kind) or {one.name for one in kind} != set(_TENSOR_FIELDS):
        return False
    return all(_is_numbers(_storage_type(kind.field(kind.get_field_index(name)).type)) for name in _TENSOR_FIELDS)


def _is_samples(kind: pa.DataType) -> bool:
    kind = _storage_type(kind)
    return _is_numbers(kind) or _is_nested(kind) or _is_tensor(kind)


def _shape(field: pa.Field) -> tuple[int, ...] | None:
    """Returns the shape that the type of a tensor column fixes for every cell, None if it does not."""
    known = getattr(field.type, "shape", None)
    if known is None and (metadata := (field.metadata or {}).get(_EXTENSION)):
        try:
            value = json.loads(metadata)
        except ValueError:
            return None
        known = value.get("shape") if isinstance(value, dict) else value
    return tuple(known) if isinstance(known, (list, tuple)) and known else None
