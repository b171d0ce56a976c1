"""Indexes of files that contain recordings, built once and stored below the output for later runs.

An index says what a large file contains, so that a rerun does not read the file to list it. An index belongs to one
version of its file: it is built again if the file has changed, or if the index is missing or damaged. The folder
``OUTPUT/indexes/`` can be deleted at any time; the next run then reads the files again. It lies below the output and
not in a run folder, because all runs use it. Commands that only inspect (``--plan``, distil-ray verify) use the stored
indexes and write none.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa

from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.schema import open_parquet, to_parquet_bytes
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join, normalize

INDEX_FOLDER = "indexes"  # below the output
MAX_CONCURRENT_INDEXES = 8  # the index of a shard takes some 20 MB of memory
INDEX_VERSION = 2  # increase it when the same file gets another index than before
_FILE_INFO_KEY = b"distil_ray"  # in the schema's metadata


@dataclass(frozen=True, slots=True)
class IndexCache:
    """The stored indexes of an output.

    Attributes:
        output_uri: The output; None to build every index anew and store none.
        storage: Where the output lies.
        writable: Whether new indexes are stored.
    """

    output_uri: str | None = None
    storage: Storage = field(default_factory=Storage)
    writable: bool = False

    def get(self, entry: Entry, build: Callable[[], pa.Table], variant: str = "") -> pa.Table:
        """Returns the index of a file in its current version.

        Args:
            entry: The file. Without a version its index is not stored.
            build: Builds the index.
            variant: Tells apart indexes of one file, by the file format and settings that they depend on.
        """
        if not self.output_uri or entry.version is None:
            return build()
        uri = join(normalize(self.output_uri), INDEX_FOLDER, f"{_file_name(entry, variant)}.parquet")
        index = self._load(uri)
        if index is None:
            index = build()
            if self.writable:
                with suppress(StorageError):  # an index only saves time
                    self.storage.put(uri, to_parquet_bytes(index))
        return index

    def get_all(
        self, entries: Iterable[Entry], build: Callable[[Entry], pa.Table], variant: str = ""
    ) -> Iterator[tuple[Entry, pa.Table | StorageError]]:
        """Yields each file with its index, or with the error of reading it; remote files are indexed in parallel."""

        def get(entry: Entry) -> tuple[Entry, pa.Table | StorageError]:
            try:
                return entry, self.get(entry, lambda: build(entry), variant)
            except StorageError as error:
                return entry, error

        entries = list(entries)
        yield from ordered_parallel_map(
            get, entries, min(num_request_threads(entries[0].uri), MAX_CONCURRENT_INDEXES) if entries else 1
        )

    def _load(self, uri: str) -> pa.Table | None:
        try:
            source = io.BytesIO(self.storage.read(uri))
            return open_parquet(source, verify_checksums=True).read()
        except (StorageError, pa.ArrowException, OSError):  # a missing, damaged or unreadable index is built again
            return None


def attach_file_info(index: pa.Table, **info: Any) -> pa.Table:
    """Returns the index with facts about the file as a whole in its schema's metadata, as JSON."""
    return index.replace_schema_metadata({_FILE_INFO_KEY: json.dumps(info).encode()})


def get_file_info(index: pa.Table) -> dict[str, Any]:
    """Returns what `attach_file_info` has stored."""
    return cast(dict[str, Any], json.loads(index.schema.metadata[_FILE_INFO_KEY]))


def is_index(schema: pa.Schema) -> bool:
    """Returns whether a Parquet file is an index, as it may be where an output lies below an input."""
    return _FILE_INFO_KEY in (schema.metadata or {})


def _file_name(entry: Entry, variant: str) -> str:
    identity = ascii((INDEX_VERSION, entry.uri, entry.size, entry.version, variant))
    return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
