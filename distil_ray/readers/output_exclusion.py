"""Listing of an input without the files of the output, where the output lies in the input.

A corpus and its transcripts may share a folder: ``output.uri`` below ``input.uri``, equal to it, or reached through a
symbolic link. Without this, a second run would list the Parquet files, plans and indexes of the first one. If the
output is the listed folder or contains it, only what a run writes there (`OUTPUT_NAMES`) is left out; else the whole
output is.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache

from distil_ray.readers.index_cache import INDEX_FOLDER
from distil_ray.storage.entries import Entry
from distil_ray.storage.patterns import fixed_length
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import is_remote, join, normalize, parent

# Folders and files that runs write below output.uri; tests compare them with the constants of `distil_ray.output`.
OUTPUT_NAMES = (
    *("transcripts", "runs", "ledger", "statistics", "forgotten", INDEX_FOLDER, "_lease.json"),
    *("dataset/data", "dataset/rejected", "labels/plan"),
)
IGNORED_AS = "file of the output"

OnSpecial = Callable[[str, str], None]


class StorageWithoutOutput(Storage):
    """Storage whose listings omit the files of an output.

    Args:
        storage: The storage to list with.
        output_uri: The output.
        ignored: Counter of ignored files; omitted ones are added to it.
    """

    def __init__(self, storage: Storage, output_uri: str, ignored: Counter[str]) -> None:
        super().__init__(storage.config)
        self._output = _resolve(normalize(output_uri))
        self._ignored = ignored

    def list_files(self, uri: str, on_special: OnSpecial = lambda *_: None) -> Iterator[Entry]:
        yield from self._omit(normalize(uri), super().list_files(uri, on_special))

    def glob(self, pattern: str, on_special: OnSpecial = lambda *_: None) -> Iterator[Entry]:
        root = parent(pattern[: fixed_length(pattern)])
        yield from self._omit(root, super().glob(pattern, on_special))

    def _omit(self, root: str, entries: Iterator[Entry]) -> Iterator[Entry]:
        omitted = self._omitted(_resolve(root))
        below = tuple(f"{one}/" for one in omitted)
        for entry in entries:
            place = entry.uri
            if not is_remote(place):
                folder, _, name = place.rpartition("/")
                place = f"{_resolve(folder)}/{name}"
            if place.startswith(below) or place in omitted:
                self._ignored[IGNORED_AS] += 1
            else:
                yield entry

    def _omitted(self, root: str) -> tuple[str, ...]:
        """Returns the locations to leave out of the listing of a folder."""
        if not _is_within(root, self._output):
            return (self._output,)
        names = tuple(join(self._output, name) for name in OUTPUT_NAMES)
        return () if any(_is_within(root, name) for name in names) else names


def _is_within(uri: str, folder: str) -> bool:
    return uri == folder or uri.startswith(folder + "/")


@lru_cache(maxsize=4096)
def _resolve(uri: str) -> str:
    """Returns a local path without symbolic links; a remote URI as it is."""
    return uri if is_remote(uri) else os.path.realpath(uri)
