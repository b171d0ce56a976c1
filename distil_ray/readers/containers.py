"""Files that hold recordings inside of them: which files of a folder do, and what is in them.

A folder may have them beside loose audio, at any depth; here they are told apart: tar shards (samples.py), Parquet with
an audio column (parquet_audio.py), data sets saved by `datasets` (saved_datasets.py). A file that cannot be read
has one recording, which says why and ends as a failed row.
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
from distil_ray.readers.base import Reading
from distil_ray.readers.index_cache import get_file_info
from distil_ray.readers.location import id_below, rest_of
from distil_ray.readers.tar_index import is_tar_name
from distil_ray.readers.webdataset import iter_shard_recordings
from distil_ray.schema import Recording
from distil_ray.storage.storage import Entry, StorageError, parent

TAR_SHARDS, PARQUET_AUDIO, SAVED_DATASETS = "tar shards", "Parquet with audio", "saved data sets"
Split = tuple[Iterator[Recording], list[Entry]]
ReadOtherTable = Callable[[Entry], Iterator[Recording]]  # the recordings of a Parquet file without audio


class ContainerReader:
    """Reads the holders among the files of a folder."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def split(self, entries: Sequence[Entry], root: str) -> Split:
        """(the recordings inside of some of a folder's files, the other files); `root`: the folder ids start from."""
        if hf_datasets.is_saved_dataset([posixpath.basename(entry.uri) for entry in entries]):
            return self._saved(entries, root), []
        shards = [entry for entry in entries if is_tar_name(entry.uri)]
        tables = [entry for entry in entries if is_parquet_name(entry.uri)]
        others = [entry for entry in entries if not is_tar_name(entry.uri) and not is_parquet_name(entry.uri)]
        return self._all(shards, tables, root), others

    def tables(self, entries: Iterable[Entry], root: str, otherwise: ReadOtherTable) -> Iterator[Recording]:
        """The recordings of Parquet files."""
        storage, asked = self._reading.storage, self._reading.config.columns.uri
        indexes = self._reading.indexes
        kind = f"table {asked or ''}"  # of the same file taken for a shard there is an index of another kind
        made = indexes.get_all(entries, lambda one: parquet.build_index(one, storage, asked), kind)
        for entry, index in made:
            if (
                isinstance(index, pa.Table)
                and not get_file_info(index)["column"]
                and not get_file_info(index)["damage"]
            ):
                yield from otherwise(entry)
            else:
                self._reading.forms[PARQUET_AUDIO] += 1
                yield from self._recordings(entry, index, root)

    def _all(self, shards: list[Entry], tables: list[Entry], root: str) -> Iterator[Recording]:
        if shards:
            self._reading.forms[TAR_SHARDS] += len(shards)
            yield from iter_shard_recordings(shards, root, self._reading)
        if tables:
            yield from self.tables(tables, root, self._ignore)

    def _ignore(self, entry: Entry) -> Iterator[Recording]:
        self._reading.ignored[extension(entry.uri)] += 1
        yield from ()

    def _saved(self, entries: Sequence[Entry], root: str) -> Iterator[Recording]:
        """`selected` counts rows over all files."""
        storage, asked = self._reading.storage, self._reading.config.columns.uri
        self._reading.forms[SAVED_DATASETS] += 1
        files, selected = hf_datasets.load_data_files(parent(entries[0].uri), entries, storage)
        first = 0
        indexes = self._reading.indexes
        made = indexes.get_all(files, lambda one: hf_datasets.build_index(one, storage, asked), f"saved {asked or ''}")
        for entry, index in made:
            rows = index
            if selected is not None and isinstance(index, pa.Table):
                here = np.unique(selected[(selected >= first) & (selected < first + index.num_rows)]) - first
                rows = index.take(pa.array(here))
                first += index.num_rows
            yield from self._recordings(entry, rows, root)

    def _recordings(self, entry: Entry, index: pa.Table | StorageError, root: str) -> Iterator[Recording]:
        name = id_below(root, entry.uri)
        if isinstance(index, StorageError):
            yield rest_of(entry, name, index.kind, str(index))
        else:
            yield from iter_table_recordings(index, entry, name, self._reading)


def is_parquet_name(uri: str) -> bool:
    return plain_name(uri).endswith(".parquet")


def is_audio_table(uri: str, reading: Reading) -> bool:
    """Whether a file, by its content, is a Parquet table with audio in it."""
    if not is_parquet_name(uri) or (entry := reading.storage.stat(uri)) is None:
        return False
    schema = parquet.read_schema(entry, reading.storage)
    try:
        return schema is not None and find_audio_column(schema, reading.config.columns.uri) is not None
    except InputError as error:
        raise InputError(f"{uri}: {error}") from error


def read_audio_table(uri: str, reading: Reading) -> Iterator[Recording]:
    """The recordings of one Parquet file with audio."""
    entry = reading.storage.stat(uri)
    if entry is None:
        raise InputError(f"input.format=parquet: {uri} is no file; input.format=files reads a folder, its tables too")
    alone = ContainerReader(replace(reading, forms=Counter()))  # the listing counts the location
    yield from alone.tables([entry], reading.root or parent(uri), partial(_refuse, reading))


def _refuse(reading: Reading, entry: Entry) -> Iterator[Recording]:
    asked = reading.config.columns.uri
    schema = parquet.read_schema(entry, reading.storage)
    wanted = (
        f"input.columns.uri={asked} is none"
        if asked
        else "a struct of bytes and path, a binary column, or samples with their rate"
    )
    raise InputError(
        f"{entry.uri}: has no column of audio ({wanted}); found {', '.join(schema.names if schema else ())}"
    )
