"""Finds the containers among the files of a folder, and reads the recordings in them.

A container is a file with many recordings inside: a tar shard (`webdataset`), a Parquet file with an audio column
(`parquet`), or an Arrow file of a dataset saved by `datasets` (`hf_datasets`). A folder may hold containers beside
audio files, at any depth. A container that cannot be read becomes one recording with an error, and so a failed row.
"""

import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa

from distil_ray.errors import InputError
from distil_ray.readers import hf_datasets, parquet
from distil_ray.readers.audio_formats import extension, plain_name
from distil_ray.readers.audio_tables import find_audio_column, iter_table_recordings
from distil_ray.readers.base import ReadContext
from distil_ray.readers.index_cache import get_file_info
from distil_ray.readers.location import failed_remainder, relative_id
from distil_ray.readers.tar_index import is_tar_name
from distil_ray.readers.webdataset import iter_shard_recordings
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import parent
from distil_ray.types import Recording

TAR_SHARDS, PARQUET_AUDIO, SAVED_DATASETS = "tar shards", "Parquet with audio", "saved datasets"  # counted as formats
ReadOtherTable = Callable[[Entry], Iterator[Recording]]  # reads a Parquet file without audio


class ContainerReader:
    """Reads the containers among the files of a folder."""

    def __init__(self, context: ReadContext) -> None:
        self._context = context

    def split(self, entries: Sequence[Entry], root: str) -> tuple[Iterator[Recording], list[Entry]]:
        """Separates containers from other files.

        Args:
            entries: The files of one folder.
            root: Folder relative to which ids are formed.

        Returns:
            The recordings in the containers, and the other files.
        """
        if hf_datasets.is_saved_dataset([posixpath.basename(entry.uri) for entry in entries]):
            return self._read_saved_dataset(entries, root), []
        shards: list[Entry] = []
        tables: list[Entry] = []
        others: list[Entry] = []
        for entry in entries:
            kind = shards if is_tar_name(entry.uri) else tables if is_parquet_name(entry.uri) else others
            kind.append(entry)
        return self._read_shards_and_tables(shards, tables, root), others

    def read_tables(self, entries: Iterable[Entry], root: str, read_other: ReadOtherTable) -> Iterator[Recording]:
        """Yields the recordings of Parquet files; those without audio are passed to `read_other`."""
        storage, requested = self._context.storage, self._context.config.columns.uri
        variant = f"table {requested or ''}"  # a file taken for a shard has another index
        indexes = self._context.indexes
        for entry, index in indexes.get_all(entries, lambda one: parquet.build_index(one, storage, requested), variant):
            if isinstance(index, pa.Table) and not any(get_file_info(index)[key] for key in ("column", "damage")):
                yield from read_other(entry)
            else:
                self._context.formats[PARQUET_AUDIO] += 1
                yield from self._iter_recordings(entry, index, root)

    def _read_shards_and_tables(self, shards: list[Entry], tables: list[Entry], root: str) -> Iterator[Recording]:
        if shards:
            self._context.formats[TAR_SHARDS] += len(shards)
            yield from iter_shard_recordings(shards, root, self._context)
        if tables:
            yield from self.read_tables(tables, root, self._ignore)

    def _ignore(self, entry: Entry) -> Iterator[Recording]:
        self._context.ignored[extension(entry.uri)] += 1
        yield from ()

    def _read_saved_dataset(self, entries: Sequence[Entry], root: str) -> Iterator[Recording]:
        storage, requested = self._context.storage, self._context.config.columns.uri
        self._context.formats[SAVED_DATASETS] += 1
        files, selected = hf_datasets.load_data_files(parent(entries[0].uri), entries, storage)
        indexes, variant = self._context.indexes, f"saved {requested or ''}"
        first_row = 0  # of the file, counted over all files, as `selected` is
        for entry, index in indexes.get_all(
            files, lambda one: hf_datasets.build_index(one, storage, requested), variant
        ):
            rows = index
            if selected is not None and isinstance(index, pa.Table):
                is_here = (selected >= first_row) & (selected < first_row + index.num_rows)
                rows = index.take(pa.array(np.unique(selected[is_here]) - first_row))
                first_row += index.num_rows
            yield from self._iter_recordings(entry, rows, root)

    def _iter_recordings(self, entry: Entry, index: pa.Table | StorageError, root: str) -> Iterator[Recording]:
        name = relative_id(root, entry.uri)
        if isinstance(index, StorageError):
            yield failed_remainder(entry, name, index.kind, str(index))
        else:
            yield from iter_table_recordings(index, entry, name, self._context)


def is_parquet_name(uri: str) -> bool:
    return plain_name(uri).endswith(".parquet")


def is_audio_table(uri: str, context: ReadContext) -> bool:
    """Returns whether a file is a Parquet table with an audio column, by its schema."""
    if not is_parquet_name(uri) or (entry := context.storage.stat(uri)) is None:
        return False
    schema = parquet.read_schema(entry, context.storage)
    try:
        return schema is not None and find_audio_column(schema, context.config.columns.uri) is not None
    except InputError as error:
        raise InputError(f"{uri}: {error}") from error


def read_audio_table(uri: str, context: ReadContext) -> Iterator[Recording]:
    """Yields the recordings of one Parquet file.

    Raises:
        InputError: The URI is not a file, or the table has no audio column.
    """
    entry = context.storage.stat(uri)
    if entry is None:
        message = f"input.format=parquet: {uri} is not a file; input.format=files reads a folder with its tables"
        raise InputError(message)
    reader = ContainerReader(replace(context, formats=Counter()))  # the listing counts this format itself
    yield from reader.read_tables([entry], context.root or parent(uri), partial(_raise_no_audio, context))


def _raise_no_audio(context: ReadContext, entry: Entry) -> Iterator[Recording]:
    requested = context.config.columns.uri
    schema = parquet.read_schema(entry, context.storage)
    expected = (
        f"input.columns.uri={requested} is not one"
        if requested
        else "a struct of bytes and path, a binary column, or samples with their rate"
    )
    columns = ", ".join(schema.names if schema else ())
    raise InputError(f"{entry.uri}: has no audio column ({expected}); found {columns}")
