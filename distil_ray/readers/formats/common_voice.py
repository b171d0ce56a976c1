"""Common Voice: a table such as train.tsv, with the audio in the folder clips beside it.

The tables of one folder overlap (``validated.tsv`` holds what ``train.tsv`` holds), so one of them has to be named.
"""

from collections.abc import Iterator

from distil_ray.errors import InputError
from distil_ray.readers.base import InputFormat, ReadContext
from distil_ray.readers.columns import SPEAKER
from distil_ray.readers.formats.manifest import read_manifest
from distil_ray.readers.row_files import TableHead
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import Recording

CLIPS = "clips"
COMMON_VOICE_TABLES = ("train.tsv", "validated.tsv", "test.tsv", "dev.tsv", "other.tsv", "invalidated.tsv")


def is_common_voice_head(head: TableHead) -> bool:
    return {"client_id", "path", "sentence"} <= set(head.columns)


def is_common_voice_folder(uri: str, storage: Storage) -> bool:
    return any(storage.stat(join(uri, name)) for name in COMMON_VOICE_TABLES) and storage.is_folder(join(uri, CLIPS))


def read_common_voice(uri: str, context: ReadContext) -> Iterator[Recording]:
    """Yields the clips of one table.

    Raises:
        InputError: The URI is the folder, whose tables overlap.
    """
    if context.storage.stat(uri) is None:
        tables = [name for name in COMMON_VOICE_TABLES if context.storage.stat(join(uri, name)) is not None]
        found = f"Name one of its tables: {', '.join(tables)}" if tables else "It has no table such as train.tsv"
        raise InputError(f"input.uri={uri}: is a folder of Common Voice, whose tables hold clips twice. {found}")
    yield from read_manifest(uri, context, below=CLIPS, columns={SPEAKER: "client_id"})


FORMAT = InputFormat(
    "Common Voice table",
    read_common_voice,
    priority=20,
    has_head=is_common_voice_head,
    has_folder=is_common_voice_folder,
)
