"""What an archive holds, found out once: tables that are kept under the output and serve every later run.

An index tells what a shard of a gigabyte has in it without a look into the shard. It belongs to the shard's very
version, and is made anew if that changes, if it is gone, or if it cannot be read: ``OUTPUT/indexes/`` can be deleted at
any time and costs the next run the reading. It stands under the output and not in a run's folder, because it is every
rerun that it serves. Who only looks (``--plan``, jobs/verify.py) uses what is there and writes nothing.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from distil_ray.readers.parallel_map import map_ahead, threads_for
from distil_ray.schema import parquet_bytes
from distil_ray.storage.storage import Entry, MissingError, Storage, StorageError, join, normalize

INDEX_FOLDER = "indexes"  # below the output
MAX_CONCURRENT_INDEXES = 8  # indexed at once; the index of a shard takes some 20 MB
INDEX_VERSION = 2  # counts up whenever an index of the code before would say something else
_NOTES = b"distil_ray"  # key of the schema's metadata


@dataclass(frozen=True, slots=True)
class IndexCache:
    """The indexes under an output; without `output_uri` each is made when it is asked for and then forgotten."""

    output_uri: str | None = None
    storage: Storage = field(default_factory=Storage)
    writable: bool = False

    def get(self, entry: Entry, make: Callable[[], pa.Table], variant: str = "") -> pa.Table:
        """The index of a file as it is now. A file whose version the store does not tell has none that is kept.

        `asked`: what of the settings goes into it.
        """
        if not self.output_uri or entry.version is None:
            return make()
        uri = join(normalize(self.output_uri), INDEX_FOLDER, f"{_name(entry, variant)}.parquet")
        index = self._read(uri)
        if index is None:
            index = make()
            if self.writable:
                self.storage.put(uri, parquet_bytes(index))
        return index

    def get_all(
        self, entries: Iterable[Entry], make: Callable[[Entry], pa.Table], variant: str = ""
    ) -> Iterator[tuple[Entry, pa.Table | StorageError]]:
        """The index of each file, or why it cannot be read; of remote ones several are looked at at once."""

        def look(entry: Entry) -> tuple[Entry, pa.Table | StorageError]:
            try:
                return entry, self.get(entry, lambda: make(entry), variant)
            except StorageError as error:
                return entry, error

        entries = list(entries)
        yield from map_ahead(look, entries, min(threads_for(entries[0].uri), MAX_CONCURRENT_INDEXES) if entries else 1)

    def _read(self, uri: str) -> pa.Table | None:
        try:
            return pq.read_table(io.BytesIO(self.storage.read(uri)), page_checksum_verification=True)
        except (MissingError, pa.ArrowException, OSError):  # damaged ones too: made anew
            return None


def attach_file_info(index: pa.Table, **notes: Any) -> pa.Table:
    """The index with what is to be said of the file as a whole; JSON's types."""
    return index.replace_schema_metadata({_NOTES: json.dumps(notes).encode()})


def get_file_info(index: pa.Table) -> dict[str, Any]:
    """What `with_notes` has noted."""
    return cast(dict[str, Any], json.loads(index.schema.metadata[_NOTES]))


def is_index(schema: pa.Schema) -> bool:
    """Whether a Parquet file is one of these: an output may lie below an input."""
    return _NOTES in (schema.metadata or {})


def _name(entry: Entry, variant: str) -> str:
    identity = ascii((INDEX_VERSION, entry.uri, entry.size, entry.version, variant))
    return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
