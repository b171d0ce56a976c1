"""Files that a list names: where they are, whether the list may name them, and what stands there.

What every form of manifest shares. A relative path is looked for below the list's own folder (or the folder beside it
that its form has: LJSpeech's ``wavs/``), then below ``input.base_dir``; where neither has it, in the other Unicode
forms of its name. A list may name files below these folders, others with ``input.allow_external_paths`` (boundary.py). Size
and version are looked up in the store, many at once where it is remote; a file that a hundred segments name one after
the other is looked at once. What is no regular file is a recording that says so, and is never opened.
"""

import os
import posixpath
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from urllib.parse import unquote

from distil_ray.errors import ErrorKind, InputError, SettingsError
from distil_ray.readers.audio_formats import without_query
from distil_ray.readers.location import recording_version
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.readers.references import unicode_variants
from distil_ray.readers.row_errors import RowError
from distil_ray.readers.row_files import quote_short
from distil_ray.storage.http import is_web
from distil_ray.storage.storage import Entry, Storage, StorageError, is_absolute, is_remote, join, normalize, parent
from distil_ray.types import Recording

_DOTS = re.compile(r"(^|/)\.{1,2}(/|$)")  # a part "." or ".." of a path


def is_inside(folder: str, uri: str) -> bool:
    """Whether a file lies below a folder; both as `storage.normalize` gives them."""
    if is_remote(folder) != is_remote(uri):
        return False
    if not is_remote(folder):
        return os.path.realpath(uri).startswith(_real(folder).rstrip("/") + "/")
    root_place, root_path = _split(folder)
    place, path = _split(uri)
    plain = unquote(unquote(path))  # servers decode once, some gateways twice
    if place != root_place or _DOTS.search(plain) or "\\" in unquote(unquote(uri)):  # some take it for a slash
        return False
    return not root_path or path.startswith(root_path.rstrip("/") + "/")


@lru_cache(maxsize=8)
def _real(folder: str) -> str:
    """Where a folder's links lead; it is asked about for every file of a listing."""
    return os.path.realpath(folder)


def _split(uri: str) -> tuple[str, str]:
    """(scheme and host, path); a query does not say where a file lies, a user neither."""
    scheme, _, rest = uri.partition("://")
    if scheme.lower() in ("http", "https"):
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, _, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}".lower(), path


MAX_NAME_BYTES, MAX_KEY_BYTES = 255, 1100  # of a name on a disk; of a URI in a bucket, whose key may have 1,024
CACHE_SIZE = 8192  # files of which is kept what is known, for the segments that follow; more than one batch of a table


@dataclass(frozen=True, slots=True)
class _ResolvedPath:
    """A path as a list has it, and where to look for it, in order: only what the list may name. `obstacle`: why no
    store can have it."""

    path: str
    uris: tuple[str, ...]
    obstacle: str | None = None


class PathResolver:
    """What one list names."""

    def __init__(
        self,
        list_uri: str,
        storage: Storage,
        *,
        allow_external_paths: bool,
        below: str = "",
        base_dir: str | None = None,
    ) -> None:
        """`below`: the folder beside the list that its paths start from, where it is not the list's own. `base_dir`:
        the folder that they are looked for in after that."""
        self._home = parent(without_query(list_uri))
        first = join(self._home, below) if below else self._home
        self._folders = [first] if base_dir is None else [first, normalize(base_dir)]
        self._allowed = [self._home, *self._folders]
        self._storage = storage
        self._allow_outside = allow_external_paths
        self._named = lru_cache(CACHE_SIZE)(self._look_for)
        self._by_uri: OrderedDict[str, _ResolvedPath] = OrderedDict()

    def resolve(self, path: str, where: str, what: str) -> str:
        """The URI of a path as written, as far as that tells; `located` says where the file is. Raises `InputError` for
        one that the list may not name, `RowError` for what is no path.

        `where` and `what`: the line and the column, for the message.
        """
        if "\0" in path or "\0" in normalize(path):
            raise RowError(f"{where}: {what} {quote_short(path)} holds a NUL character, which no path can")
        named = self._named(path)
        if named.obstacle:
            raise RowError(f"{where}: {what} {quote_short(path)} names no file ({named.obstacle})", is_unreadable=True)
        if not named.uris:
            raise InputError(
                f"{where}: {what} {quote_short(path)} lies outside of {' and '.join(dict.fromkeys(self._allowed))}. If this"
                " manifest may name any file that this job can read, set input.allow_external_paths=true."
            )
        self._by_uri[named.uris[0]] = named
        if len(self._by_uri) > CACHE_SIZE:
            self._by_uri.popitem(last=False)
        return named.uris[0]

    def locate(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        """The recordings with URI, size and version of their files.

        One whose file is not there, or not to be read, has neither and fails when it is read. One that is no regular
        file, or is in none of several folders, has the reason as its error.
        """
        stream = iter(recordings)
        first = next(stream, None)
        if first is None:
            return
        look = lru_cache(CACHE_SIZE)(self._find)

        def locate(recording: Recording) -> Recording:
            named = self._by_uri.get(recording.uri) or _ResolvedPath(recording.uri, (recording.uri,))
            found = look(named)
            if isinstance(found, Entry):
                version = recording_version(found.version, recording.location)
                return replace(recording, uri=found.uri, source_size=found.size, source_version=version)
            return recording if found is None else replace(recording, error_kind=found.kind, error=str(found))

        yield from ordered_parallel_map(locate, chain([first], stream), num_request_threads(first.uri))

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

    def _look_for(self, path: str) -> _ResolvedPath:
        uris = [normalize(path)] if is_absolute(path) else [_below(folder, path) for folder in self._folders]
        if obstacle := self._obstacle(uris[0]):
            return _ResolvedPath(path, (), obstacle)
        return _ResolvedPath(path, tuple(filter(self._may_name, dict.fromkeys(uris))))

    def _find(self, named: _ResolvedPath) -> Entry | StorageError | None:
        """What is there; why nothing can be had; None where only reading it will tell."""
        is_refused = False
        for uri in self._candidates(named):
            try:
                entry = self._storage.stat(uri)
            except StorageError as error:
                # S3 says "forbidden" of a missing key to whom it does not let list; of many web servers one may be down
                if error.kind is not ErrorKind.FORBIDDEN and not is_web(uri):
                    raise
                is_refused = True
                continue
            if entry is not None:
                return entry
            if (kind := self._storage.special_kind(uri)) is not None:
                return StorageError(ErrorKind.NOT_AUDIO, f"{uri}: is a {kind}, not a regular file; it was not read")
        is_told_by_reading = is_refused or len(named.uris) < 2
        return None if is_told_by_reading else self._missing(named)

    def _candidates(self, named: _ResolvedPath) -> Iterator[str]:
        """Where a file may be, the likeliest first."""
        yield from named.uris
        if not named.path.isascii():
            others = (form for uri in named.uris if not is_web(uri) for form in unicode_variants(uri)[1:])
            yield from filter(self._may_name, others)

    def _may_name(self, uri: str) -> bool:
        return self._allow_outside or any(is_inside(folder, uri) for folder in self._allowed)

    def _missing(self, named: _ResolvedPath) -> StorageError:
        tried = " and in ".join(folder for folder in self._folders if _below(folder, named.path) in named.uris)
        words = f"{quote_short(named.path)}: there is no such file; it was looked for in {tried} (input.base_dir)"
        return StorageError(ErrorKind.NOT_FOUND, words)


def _below(folder: str, path: str) -> str:
    """The URI of a relative path."""
    if not is_remote(folder):
        return normalize(join(folder, path))
    scheme, below = folder.split("://", 1)
    return f"{scheme}://{posixpath.normpath(join(below, path))}"  # stores know no "." and ".."
