"""Folders with audio and a table metadata.jsonl, .csv or .parquet whose column file_name names the files.

The layout of Hugging Face's AudioFolder. Audio that the table does not name is not read.
"""

from collections.abc import Iterator

from distil_ray.readers.base import InputFormat, ReadContext
from distil_ray.readers.formats.manifest import read_manifest
from distil_ray.readers.row_files import TableHead, read_head
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import Recording

METADATA_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # in the order in which they are looked for


def read_audiofolder(uri: str, context: ReadContext) -> Iterator[Recording]:
    """Yields the recordings of a folder with a metadata table, or of such a table."""
    yield from read_manifest(_find_table(uri, context.storage) or uri, context)


def _find_table(folder: str, storage: Storage) -> str | None:
    """Returns the URI of the metadata table in a folder; None if there is none."""
    tables = (join(folder, name) for name in METADATA_TABLES)
    return next((uri for uri in tables if storage.stat(uri) is not None and _has_head(read_head(uri, storage))), None)


def _has_head(head: TableHead) -> bool:
    return "file_name" in head.columns


FORMAT = InputFormat(
    "audiofolder",
    read_audiofolder,
    has_head=_has_head,
    has_folder=lambda uri, storage: _find_table(uri, storage) is not None,
)
