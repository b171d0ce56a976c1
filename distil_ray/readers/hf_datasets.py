"""Datasets saved by Hugging Face `datasets` with `save_to_disk`: Arrow stream files in a folder, listed in state.json.

The Arrow files are not compressed, so the encoded audio of a row is one range of bytes. The index holds that range, and
the audio is fetched like a member of a plain tar. To find the ranges, a file is mapped into memory, of which only the
pages that are used are read; a remote file is copied to the local disk for that, once for every version of it.

Decoded samples (`sample_arrays`) are not a file that could be fetched. Their rows are read from the mapped file.

Older releases save a selection (`select`, `shuffle`) as a file of row numbers. Only the selected rows are recordings.
A split of a DatasetDict is a folder of this format.
"""

import json
import posixpath
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distil_ray.errors import ErrorKind, InputError
from distil_ray.readers.audio_tables import (
    BYTES_FIELD,
    LOCATION_COLUMNS,
    PATH_FIELD,
    assemble_index,
    audio_paths,
    extract_group_cells,
    find_audio_column,
    metadata_columns,
)
from distil_ray.readers.index_cache import attach_file_info
from distil_ray.readers.ordered_iteration import Write
from distil_ray.readers.sample_arrays import (
    SampleColumns,
    count_samples,
    estimate_row_bytes,
    find_sample_columns,
    sampling_rates,
    write_wav_cell,
)
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import is_remote, join
from distil_ray.types import Recording

STATE_FILE, INFO_FILE = "state.json", "dataset_info.json"
ARROW_EXTENSION = ".arrow"  # of the data files


def is_saved_dataset(names: Sequence[str]) -> bool:
    """Returns whether a folder with files of these names is a saved dataset."""
    return {STATE_FILE, INFO_FILE} <= set(names)


def load_data_files(
    folder: str, entries: Sequence[Entry], storage: Storage
) -> tuple[list[Entry], NDArray[np.int64] | None]:
    """Reads the state.json of a saved dataset.

    Args:
        folder: URI of the dataset.
        entries: The files in it.
        storage: Where it lies.

    Returns:
        The Arrow files in order; and the numbers of the selected rows, counted over all files, None for all rows.

    Raises:
        InputError: state.json has another structure, or names a file that is not in the folder.
    """
    by_name = {posixpath.basename(entry.uri): entry for entry in entries}
    uri = join(folder, STATE_FILE)
    try:
        state = json.loads(storage.read(uri))
        names = [item["filename"] for item in state["_data_files"]]
        selections = [item["filename"] for item in state.get("_indices_data_files") or ()]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{uri}: does not list the files of the dataset ({error!r})") from error
    missing = [name for name in (*names, *selections) if name not in by_name]
    if missing:
        raise InputError(f"{uri}: names {missing[0]}, which is not in {folder}")
    rows = [_read_selection(by_name[name], storage) for name in selections]
    return [by_name[name] for name in names], np.concatenate(rows) if rows else None


def build_index(entry: Entry, storage: Storage, requested: str | None) -> pa.Table:
    """Returns the index of one Arrow file: see `parquet.build_index`.

    Raises:
        InputError: No column, or several, contain audio.
        StorageError: The file cannot be read at all.
    """
    batches: list[pa.Table] = []
    column, damage = "", None
    with _map_file(entry, storage) as buffer:
        try:
            reader = pa.ipc.open_stream(buffer)
            column = find_audio_column(reader.schema, requested) or ""
            if not column:
                raise InputError(f"{entry.uri}: has no audio column; found {', '.join(reader.schema.names)}")
            batches += _index_batches(reader, column, buffer)
        except (pa.ArrowException, OSError, ValueError) as error:
            damage = f"cannot be read as an Arrow stream ({' '.join(str(error).split())[:300]})"
        table = pa.concat_tables(batches or [LOCATION_COLUMNS.empty_table()])
        return attach_file_info(table, column=column, damage=damage)


def extract_cells(
    unit: Sequence[Recording], target: Path, file: Entry, storage: Storage
) -> Iterator[Path | StorageError]:
    """Extracts the decoded samples of rows of one record batch as WAV files: see `audio_tables.extract_group_cells`."""

    @contextmanager
    def open_group(column: str, number: int) -> Iterator[Iterator[tuple[int, Write]]]:
        try:
            with _map_file(file, storage) as buffer:
                yield _iter_cells(file.uri, pa.ipc.open_stream(buffer), column, number)
        except (pa.ArrowException, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            message = f"{file.uri}: cannot be read as an Arrow stream ({reason})"
            raise StorageError(ErrorKind.CORRUPT, message) from error

    return extract_group_cells(unit, target, open_group, "record batch")


@contextmanager
def _map_file(entry: Entry, storage: Storage) -> Iterator[pa.Buffer]:
    """Maps a file into memory; pages are read from the local disk when they are used."""
    if not entry.size:
        yield pa.py_buffer(b"")
    elif not is_remote(entry.uri):
        # `storage.open` raises a StorageError with a message if the file cannot be read.
        with storage.open(entry.uri), pa.memory_map(entry.uri) as file:
            yield file.read_buffer()
    else:
        with tempfile.TemporaryDirectory(prefix="distil-ray-") as folder:
            path = Path(folder) / "data.arrow"
            storage.fetch_range(entry.uri, 0, entry.size, path)
            with pa.memory_map(str(path)) as file:
                yield file.read_buffer()


def _read_selection(entry: Entry, storage: Storage) -> NDArray[np.int64]:
    with _map_file(entry, storage) as buffer:
        try:
            table = pa.ipc.open_stream(buffer).read_all()
            return np.array(table.column(0).to_numpy(), np.int64)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{entry.uri}: cannot be read as a list of row numbers ({error})") from error


def _iter_cells(uri: str, reader: pa.RecordBatchReader, column: str, number: int) -> Iterator[tuple[int, Write]]:
    """Yields the number of each row of a record batch, and a function that writes its samples to a file."""
    samples = find_sample_columns(reader.schema, column) if column in reader.schema.names else None
    batch = next(islice(reader, number, None), None)
    if samples is None or batch is None:
        return
    for row in range(batch.num_rows):
        yield row, partial(write_wav_cell, f"{uri}: row {row} of its record batch", batch, row, samples)


def _index_batches(reader: pa.RecordBatchReader, column: str, buffer: pa.Buffer) -> Iterator[pa.Table]:
    first_row = 0
    samples = find_sample_columns(reader.schema, column)
    for number, batch in enumerate(reader):
        batch.validate(full=True)  # its offsets are used as byte ranges of the file
        if samples:
            yield _index_samples(batch, samples, number, first_row)
        else:
            yield _index_files(batch, column, buffer, first_row)
        first_row += batch.num_rows


def _index_samples(batch: pa.RecordBatch, samples: SampleColumns, number: int, first_row: int) -> pa.Table:
    """Returns the index of a record batch of decoded samples.

    Args:
        batch: The record batch. The index holds copies, because the mapped file is closed.
        samples: Its sample columns.
        number: Number of the batch in the file.
        first_row: Number of its first row in the file.
    """
    num_rows = batch.num_rows
    paths, rates = audio_paths(batch.column(samples.column)), sampling_rates(batch, samples)
    row_bytes = estimate_row_bytes(count_samples(batch, samples), rates)
    locations: dict[str, Any] = {
        "number": pa.array(range(first_row, first_row + num_rows), pa.int64()),
        "path": _copy(paths),
        "is_embedded": pc.or_(pc.is_valid(rates), pc.is_null(paths)),
        "row_group": pa.array([number] * num_rows, pa.int32()),
        "row": pa.array(range(num_rows), pa.int32()),
        "byte_start": pa.nulls(num_rows, pa.int64()),
        "num_bytes": pa.array([row_bytes] * num_rows, pa.int64()),
    }
    return assemble_index(_copy_metadata(batch, samples.column), locations)


def _index_files(batch: pa.RecordBatch, column: str, buffer: pa.Buffer, first_row: int) -> pa.Table:
    """Returns the index of a record batch of encoded audio.

    Args:
        batch: The record batch. The index holds copies, because the mapped file is closed.
        column: Its audio column.
        buffer: The whole file, in which the batch's buffers lie.
        first_row: Number of its first row in the file.
    """
    audio = batch.column(column)
    is_struct = pa.types.is_struct(audio.type)
    fields = (
        dict(zip((field.name for field in audio.type), audio.flatten(), strict=True))
        if is_struct
        else {BYTES_FIELD: audio}
    )
    starts, sizes = _byte_ranges(fields[BYTES_FIELD], buffer)
    num_rows = batch.num_rows
    locations: dict[str, Any] = {
        "number": pa.array(range(first_row, first_row + num_rows), pa.int64()),
        "path": _copy(fields[PATH_FIELD]) if is_struct else pa.nulls(num_rows, pa.string()),
        "is_embedded": pc.is_valid(fields[BYTES_FIELD]),
        "row_group": pa.nulls(num_rows, pa.int32()),
        "row": pa.nulls(num_rows, pa.int32()),
        "byte_start": pa.array(starts),
        "num_bytes": pa.array(sizes),
    }
    return assemble_index(_copy_metadata(batch, column), locations)


def _byte_ranges(cells: pa.Array, buffer: pa.Buffer) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the first byte in the file and the number of bytes of each cell.

    Raises:
        ValueError: The buffers of the file are compressed.
    """
    width = np.int64 if pa.types.is_large_binary(cells.type) else np.int32
    _, offsets, values = cells.buffers()
    if offsets is None or not len(cells):
        return np.zeros(len(cells), np.int64), np.zeros(len(cells), np.int64)
    ends = np.frombuffer(offsets, width)[cells.offset : cells.offset + len(cells) + 1].astype(np.int64)
    base = 0
    if values is not None and values.size:
        base = values.address - buffer.address
        if not 0 <= base <= buffer.size - values.size:
            raise ValueError("its buffers are compressed; save it without compression")
    return base + ends[:-1], np.diff(ends)


def _copy_metadata(batch: pa.RecordBatch, audio: str) -> Iterator[tuple[str, pa.Array]]:
    """Yields name and cells of the columns that describe a row."""
    for name in metadata_columns(batch.schema, audio):
        yield name, _copy(batch.column(name))


def _copy(cells: pa.Array) -> pa.Array:
    return cells.take(pa.array(range(len(cells)), pa.int64()))
