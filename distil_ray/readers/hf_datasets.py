"""Data sets that `datasets` has saved with `save_to_disk`: Arrow streams in a folder, and a list of them in state.json.

Such files are not compressed: each recording's bytes lie in one piece, and the index says where, so that they are
fetched like a member of a plain tar. To find the places a file is mapped into memory, which reads no more of it than is
looked at; a remote one is copied to the local disk for that, once for every version of it.

Decoded samples (decoded_audio.py) are no file that could be fetched: their rows are read out of the mapped file.

A selection (`select`, `shuffle`) that older releases have saved as a file of row numbers counts: what it leaves out is
no recording. A split of a DatasetDict is a folder of this kind.
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
    find_audio_column,
    metadata_columns,
)
from distil_ray.readers.index_cache import attach_file_info
from distil_ray.readers.ordered_iteration import hand_out
from distil_ray.readers.sample_arrays import (
    SampleColumns,
    count_samples,
    estimate_row_bytes,
    find_sample_columns,
    sampling_rates,
    write_wav_cell,
)
from distil_ray.schema import Recording
from distil_ray.storage.storage import Entry, Storage, StorageError, is_remote, join

STATE_FILE, INFO_FILE = "state.json", "dataset_info.json"
ARROW_EXTENSION = ".arrow"  # how the names of its data files end


def is_saved_dataset(names: Sequence[str]) -> bool:
    """Whether a folder with files of these names is a saved data set."""
    return {STATE_FILE, INFO_FILE} <= set(names)


def load_data_files(
    folder: str, entries: Sequence[Entry], storage: Storage
) -> tuple[list[Entry], NDArray[np.int64] | None]:
    """(the Arrow files of a saved data set, in order; the numbers of the rows that count, None for all).

    Raises `InputError` for a state.json that says something else, or names what is not there.
    """
    by_name = {posixpath.basename(entry.uri): entry for entry in entries}
    uri = join(folder, STATE_FILE)
    try:
        state = json.loads(storage.read(uri))
        names = [one["filename"] for one in state["_data_files"]]
        selections = [one["filename"] for one in state.get("_indices_data_files") or ()]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{uri}: does not say which files the data set has ({error!r})") from error
    missing = [name for name in (*names, *selections) if name not in by_name]
    if missing:
        raise InputError(f"{uri}: names {missing[0]}, which is not in {folder}")
    rows = [_selected(by_name[name], storage) for name in selections]
    return [by_name[name] for name in names], np.concatenate(rows) if rows else None


def build_index(entry: Entry, storage: Storage, asked: str | None) -> pa.Table:
    """The index of one Arrow file. `asked`, notes: as parquet_audio.py has them."""
    pieces: list[pa.Table] = []
    column, damage = "", None
    with _mapped(entry, storage) as whole:
        try:
            reader = pa.ipc.open_stream(whole)
            column = find_audio_column(reader.schema, asked) or ""
            if not column:
                raise InputError(f"{entry.uri}: has no column of audio; found {', '.join(reader.schema.names)}")
            pieces += _batch_indexes(reader, column, whole)
        except (pa.ArrowException, OSError, ValueError) as error:
            damage = f"cannot be read as an Arrow stream ({' '.join(str(error).split())[:300]})"
        return attach_file_info(
            pa.concat_tables(pieces or [LOCATION_COLUMNS.empty_table()]), column=column, damage=damage
        )


@contextmanager
def _mapped(entry: Entry, storage: Storage) -> Iterator[pa.Buffer]:
    """A file's bytes as memory that is read from the disk when it is looked at."""
    if not entry.size:
        yield pa.py_buffer(b"")
    elif not is_remote(entry.uri):
        with storage.open(entry.uri), pa.memory_map(entry.uri) as file:  # the first says what is wrong in its words
            yield file.read_buffer()
    else:
        with tempfile.TemporaryDirectory(prefix="distil-ray-") as folder:
            path = Path(folder) / "data.arrow"
            storage.fetch_range(entry.uri, 0, entry.size, path)
            with pa.memory_map(str(path)) as file:
                yield file.read_buffer()


def _batch_indexes(reader: pa.RecordBatchReader, column: str, whole: pa.Buffer) -> Iterator[pa.Table]:
    first = 0
    decoded = find_sample_columns(reader.schema, column)
    for number, batch in enumerate(reader):
        batch.validate(full=True)  # what it says of places in the file is believed
        if decoded:
            yield _decoded_index(batch, decoded, number, first)
        else:
            yield _batch_index(batch, column, whole, first)
        first += batch.num_rows


def read_cells(unit: Sequence[Recording], target: Path, storage: Storage) -> Iterator[Path | StorageError]:
    """The decoded samples of rows of one record batch; each is a file beside `target` that is the taker's.

    Raises `StorageError` for what cannot be read at all.
    """
    uri, place = unit[0].uri, unit[0].place
    entry = storage.stat(uri)
    if entry is None or place is None or place.row_group is None or place.member is None:
        raise StorageError(ErrorKind.NOT_FOUND, f"{uri}: there is no such file")
    rows = [one.place.row if one.place else None for one in unit]
    came = 0
    try:
        with _mapped(entry, storage) as whole:
            cells = _cells(uri, pa.ipc.open_stream(whole), place.member, place.row_group)
            for found in hand_out(rows, cells, target):
                yield found
                came += 1
    except (pa.ArrowException, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StorageError(ErrorKind.CORRUPT, f"{uri}: cannot be read as an Arrow stream ({reason})") from error
    if came < len(rows):
        raise StorageError(ErrorKind.NOT_FOUND, f"{uri}: has no row {rows[came]} in record batch {place.row_group}")


def _cells(uri: str, reader: pa.RecordBatchReader, column: str, number: int) -> Iterator[tuple[int, Any]]:
    """(row, what writes its samples to a file) of a record batch."""
    decoded = find_sample_columns(reader.schema, column) if column in reader.schema.names else None
    batch = next(islice(reader, number, None), None)
    if decoded is None or batch is None:
        return
    for row in range(batch.num_rows):
        yield row, partial(write_wav_cell, f"{uri}: row {row} of its record batch", batch, row, decoded)


def _decoded_index(batch: pa.RecordBatch, decoded: SampleColumns, number: int, first: int) -> pa.Table:
    """Copies what it takes. `number`: the batch's in the file."""
    num_rows = batch.num_rows
    paths, rates = audio_paths(batch.column(decoded.column)), sampling_rates(batch, decoded)
    lies: dict[str, Any] = {
        "number": pa.array(range(first, first + num_rows), pa.int64()),
        "path": _copied(paths),
        "is_embedded": pc.or_(pc.is_valid(rates), pc.is_null(paths)),
        "row_group": pa.array([number] * num_rows, pa.int32()),
        "row": pa.array(range(num_rows), pa.int32()),
        "byte_start": pa.nulls(num_rows, pa.int64()),
        "num_bytes": pa.array([estimate_row_bytes(count_samples(batch, decoded), rates)] * num_rows, pa.int64()),
    }
    return assemble_index(
        ((name, _copied(batch.column(name))) for name in metadata_columns(batch.schema, decoded.column)), lies
    )


def _batch_index(batch: pa.RecordBatch, column: str, whole: pa.Buffer, first: int) -> pa.Table:
    """Copies what it takes, because the mapped file goes. `first`: the number of the batch's first row in the file."""
    audio = batch.column(column)
    is_struct = pa.types.is_struct(audio.type)
    fields = (
        dict(zip((one.name for one in audio.type), audio.flatten(), strict=True)) if is_struct else {BYTES_FIELD: audio}
    )
    starts, sizes = _places(fields[BYTES_FIELD], whole)
    num_rows = batch.num_rows
    lies: dict[str, Any] = {
        "number": pa.array(range(first, first + num_rows), pa.int64()),
        "path": _copied(fields[PATH_FIELD]) if is_struct else pa.nulls(num_rows, pa.string()),
        "is_embedded": pc.is_valid(fields[BYTES_FIELD]),
        "row_group": pa.nulls(num_rows, pa.int32()),
        "row": pa.nulls(num_rows, pa.int32()),
        "byte_start": pa.array(starts),
        "num_bytes": pa.array(sizes),
    }
    return assemble_index(
        ((name, _copied(batch.column(name))) for name in metadata_columns(batch.schema, column)), lies
    )


def _places(cells: pa.Array, whole: pa.Buffer) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(first byte in the file, number of bytes) of each cell. Raises ValueError for a file that is compressed."""
    width = np.int64 if pa.types.is_large_binary(cells.type) else np.int32
    _, offsets, values = cells.buffers()
    if offsets is None or not len(cells):
        return np.zeros(len(cells), np.int64), np.zeros(len(cells), np.int64)
    ends = np.frombuffer(offsets, width)[cells.offset : cells.offset + len(cells) + 1].astype(np.int64)
    base = 0
    if values is not None and values.size:
        base = values.address - whole.address
        if not 0 <= base <= whole.size - values.size:
            raise ValueError("its buffers are compressed; save it without compression")
    return base + ends[:-1], np.diff(ends)


def _copied(cells: pa.Array) -> pa.Array:
    return cells.take(pa.array(range(len(cells)), pa.int64()))


def _selected(entry: Entry, storage: Storage) -> NDArray[np.int64]:
    with _mapped(entry, storage) as whole:
        try:
            table = pa.ipc.open_stream(whole).read_all()
            return np.array(table.column(0).to_numpy(), np.int64)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{entry.uri}: cannot be read as a list of rows ({error})") from error
