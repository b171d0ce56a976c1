"""Files that a list names: where they are, whether the list may name them, and what stands there.

What every form of manifest shares. A list may name files below its own folder, others with ``input.allow_outside``
(boundary.py). Size and version are looked up in the store, many at once where it is remote; a file that a hundred
segments name one after the other is looked at once.
"""

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import chain

from distil_ray.errors import ErrorKind, InputError, SettingsError
from distil_ray.schema import Recording
from distil_ray.sources.ahead import map_ahead, threads_for
from distil_ray.sources.boundary import is_inside
from distil_ray.sources.formats import without_query
from distil_ray.sources.places import version_of
from distil_ray.sources.row_errors import RowError
from distil_ray.sources.rows import short
from distil_ray.storage import Entry, Storage, StorageError, is_remote, join, normalize, parent
from distil_ray.web import is_web

MAX_NAME_BYTES, MAX_KEY_BYTES = 255, 1100  # of a name on a disk; of a URI in a bucket, whose key may have 1,024
REMEMBERED = 4096  # files of which is kept what is known, for the segments that follow


class NamedFiles:
    """What one list names."""

    def __init__(self, list_uri: str, storage: Storage, *, allow_outside: bool, below: str = "") -> None:
        """`below`: the folder beside the list that its paths start from, where it is not the list's own."""
        self._home = parent(without_query(list_uri))
        self._folder = join(self._home, below) if below else self._home
        self._storage = storage
        self._allow_outside = allow_outside
        self._looked_up = lru_cache(REMEMBERED)(self._absolute_and_allowed)

    def uri(self, path: str, where: str, what: str) -> str:
        """The URI of a path as written. Raises `InputError` for one that the list may not name, `RowError` for what
        is no path.

        `where` and `what`: the line and the column, for the message.
        """
        if "\0" in path:
            raise RowError(f"{where}: {what} {short(path)} holds a NUL character, which no path can")
        uri, is_allowed = self._looked_up(path)
        if reason := self._obstacle(uri):
            raise RowError(f"{where}: {what} {short(path)} names no file ({reason})", is_unreadable=True)
        if not is_allowed:
            raise InputError(
                f"{where}: {what} {short(path)} lies outside of {self._home}. If this manifest may name any"
                " file that this job can read, set input.allow_outside=true."
            )
        return uri

    def located(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        """The recordings with size and version of their files; both None for a file that is not there or not to be
        read, which then fails as a recording."""
        stream = iter(recordings)
        first = next(stream, None)
        if first is None:
            return
        look = lru_cache(REMEMBERED)(self._look)

        def locate(recording: Recording) -> Recording:
            entry = look(recording.uri)
            if entry is None:
                return recording
            version = version_of(entry.version, recording.place)
            return replace(recording, source_size=entry.size, source_version=version)

        yield from map_ahead(locate, chain([first], stream), threads_for(first.uri))

    def _obstacle(self, uri: str) -> str | None:
        """Why no store can have such a file; None where it may."""
        longest = max(len(name.encode()) for name in ([uri] if is_remote(uri) else uri.split("/")))
        if longest > (MAX_KEY_BYTES if is_remote(uri) else MAX_NAME_BYTES) and not is_web(uri):
            return f"{longest:,} bytes are more than a name may have"
        try:
            self._storage.require_store(uri)
        except SettingsError as error:
            return str(error)
        return None

    def _absolute_and_allowed(self, path: str) -> tuple[str, bool]:
        uri = self._absolute(path)
        return uri, self._allow_outside or is_inside(self._home, uri)

    def _look(self, uri: str) -> Entry | None:
        try:
            return self._storage.stat(uri)
        except StorageError as error:
            # S3 says "forbidden" of a missing key to whom it does not let list; of many web servers one may be down.
            if error.kind is not ErrorKind.FORBIDDEN and not is_web(uri):
                raise
            return None

    def _absolute(self, path: str) -> str:
        if is_remote(path) or path.startswith("/"):
            return normalize(path)
        if not is_remote(self._folder):
            return normalize(join(self._folder, path))
        scheme, below = self._folder.split("://", 1)
        return f"{scheme}://{posixpath.normpath(join(below, path))}"  # stores know no "." and ".."
