"""Audio files: a folder with everything below it, a glob pattern, or one file.

Containers among the files (tar shards, tables with audio, saved datasets) are read as well. See `audio_files`.
"""

from collections.abc import Iterator

from distil_ray.readers.audio_files import AudioFileLister
from distil_ray.readers.base import InputFormat, ReadContext
from distil_ray.readers.containers import ContainerReader
from distil_ray.types import Recording


def read_files(uri: str, context: ReadContext) -> Iterator[Recording]:
    """Yields the recordings of one file, or of a folder with everything below it."""
    lister = make_audio_file_lister(context)
    entry = context.storage.stat(uri)
    yield from lister.folder(uri, context.root) if entry is None else lister.single(entry, context.root)


def make_audio_file_lister(context: ReadContext) -> AudioFileLister:
    """Returns a lister of audio files that also reads the containers among them."""
    with_references = context.config.references == "auto"
    return AudioFileLister(
        context.storage,
        context.ignored,
        with_references,
        split=ContainerReader(context).split,
        with_speakers=context.config.speakers == "auto",
    )


FORMAT = InputFormat("audio files", read_files)
