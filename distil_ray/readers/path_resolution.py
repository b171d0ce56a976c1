"""Resolves the paths in a list: where the files are, whether the list may name them, and their size and version.

All list formats use it. A relative path is looked for below the list's own folder (or a folder beside it, such as
LJSpeech's ``wavs/``), then below ``input.base_dir``; if neither has it, under the other Unicode forms of its name.

A list may name files below these folders only, unless ``input.allow_external_paths`` is set: a foreign list must not
make a job read anything else. What counts is where a URI leads and not its spelling. ``..`` and its encoded forms,
other buckets and hosts, other schemes (``file://`` in a manifest on S3) and symbolic links on local disks are resolved.

Size and version come from the storage: on a remote one from listings where these pay (`file_lookup.py`), else with
parallel requests. A file that a hundred consecutive segments name is requested once. What is not a regular file becomes
a failed recording and is never opened.
"""

import os
import posixpath
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain, islice
from urllib.parse import unquote

from distil_ray.errors import ErrorKind, InputError, SettingsError
from distil_ray.readers.audio_formats import without_query
from distil_ray.readers.file_lookup import FileLookup
from distil_ray.readers.location import recording_version
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.readers.references import unicode_variants
from distil_ray.readers.row_errors import RowError
from distil_ray.readers.row_files import quote_short
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import is_absolute, is_http, is_remote, join, normalize, parent
from distil_ray.types import Recording

_DOTS = re.compile(r"(^|/)\.{1,2}(/|$)")  # a part "." or ".." of a path


def is_inside(folder: str, uri: str) -> bool:
    """Returns whether a file is below a folder. Both are URIs from `storage.normalize`."""
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
    """Returns the target of a folder's symbolic links; cached, because every file of a listing needs it."""
    return os.path.realpath(folder)


def _split(uri: str) -> tuple[str, str]:
    """Returns (scheme and host, path) without query and user, which do not change where a file is."""
    scheme, _, rest = uri.partition("://")
    if scheme.lower() in ("http", "https"):
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, _, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}".lower(), path


MAX_NAME_BYTES, MAX_KEY_BYTES = 255, 1100  # of a name on a disk; of a URI in a bucket, whose key may have 1,024
CACHE_SIZE = 32_768  # files of which is kept what is known, for the segments that follow
WINDOW = 8192  # recordings whose files are looked for at once; with a batch of a table it is less than `CACHE_SIZE`


@dataclass(frozen=True, slots=True)
class _ResolvedPath:
    """A path of a list.

    Attributes:
        path: As the list has it.
        uris: Where to look for it, in order; only what the list may name.
        obstacle: Why no storage can have such a file; None if one may.
    """

    path: str
    uris: tuple[str, ...]
    obstacle: str | None = None


class PathResolver:
    """Resolves the paths in one list."""

    def __init__(
        self,
        list_uri: str,
        storage: Storage,
        *,
        allow_external_paths: bool,
        below: str = "",
        base_dir: str | None = None,
    ) -> None:
        """Args:
        list_uri: The list.
        storage: Access to the files.
        allow_external_paths: Allow paths outside of the list's folder and of `base_dir`.
        below: Folder beside the list that its paths are relative to; empty: the list's own folder.
        base_dir: Folder in which paths are looked for after that.
        """
        self._home = parent(without_query(list_uri))
        first = join(self._home, below) if below else self._home
        self._folders = [first] if base_dir is None else [first, normalize(base_dir)]
        self._allowed = [self._home, *self._folders]
        self._storage = storage
        self._allow_external_paths = allow_external_paths
        self._named = lru_cache(CACHE_SIZE)(self._resolve)
        self._by_uri: OrderedDict[str, _ResolvedPath] = OrderedDict()

    def resolve(self, path: str, where: str, what: str) -> str:
        """Returns the URI of a path. Only `locate` looks whether the file exists, and corrects the URI.

        Args:
            path: As the list has it.
            where: Location of the row, for messages.
            what: Column of the path, for messages.

        Raises:
            InputError: The list may not name this file.
            RowError: It is not a valid path.
        """
        if "\0" in path or "\0" in normalize(path):
            raise RowError(f"{where}: {what} {quote_short(path)} holds a NUL character, which no path can")
        named = self._named(path)
        if named.obstacle:
            raise RowError(f"{where}: {what} {quote_short(path)} names no file ({named.obstacle})", is_unreadable=True)
        if not named.uris:
            raise InputError(
                f"{where}: {what} {quote_short(path)} lies outside of {' and '.join(dict.fromkeys(self._allowed))}."
                " If this manifest may name any file that this job can read, set input.allow_external_paths=true."
            )
        self._by_uri[named.uris[0]] = named
        if len(self._by_uri) > CACHE_SIZE:
            self._by_uri.popitem(last=False)
        return named.uris[0]

    def locate(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        """Yields the recordings with URI, size and version of their files.

        A recording whose file is missing or may not be read stays without them and fails when it is read. One whose
        file is not a regular file, or is in none of several folders, gets an error.
        """
        stream = iter(recordings)
        first = next(stream, None)
        if first is None:
            return
        look = lru_cache(CACHE_SIZE)(self._find)

        def locate(listed: Mapping[str, Entry], recording: Recording) -> Recording:
            named = self._by_uri.get(recording.uri) or _ResolvedPath(recording.uri, (recording.uri,))
            found = listed.get(recording.uri) or look(named)
            if isinstance(found, Entry):
                version = recording_version(found.version, recording.location)
                return replace(recording, uri=found.uri, source_size=found.size, source_version=version)
            return recording if found is None else replace(recording, error_kind=found.kind, error=str(found))

        recordings, threads = chain([first], stream), num_request_threads(first.uri)
        if not is_remote(first.uri):
            yield from ordered_parallel_map(partial(locate, {}), recordings, threads)
            return
        files = FileLookup(self._storage)
        while window := list(islice(recordings, WINDOW)):
            listed = files.find({recording.uri for recording in window})
            yield from ordered_parallel_map(partial(locate, listed), window, threads, partial(_is_missing, listed))

    def _obstacle(self, uri: str) -> str | None:
        """Returns why no storage can have such a file; None if one may."""
        longest = max(len(name.encode()) for name in ([uri] if is_remote(uri) else uri.split("/")))
        if longest > (MAX_KEY_BYTES if is_remote(uri) else MAX_NAME_BYTES) and not is_http(uri):
            return f"{longest:,} bytes are more than a name may have"
        try:
            self._storage.check_scheme(uri)
        except SettingsError as error:
            return str(error)
        return None

    def _resolve(self, path: str) -> _ResolvedPath:
        uris = [normalize(path)] if is_absolute(path) else [_below(folder, path) for folder in self._folders]
        if obstacle := self._obstacle(uris[0]):
            return _ResolvedPath(path, (), obstacle)
        return _ResolvedPath(path, tuple(filter(self._may_name, dict.fromkeys(uris))))

    def _find(self, named: _ResolvedPath) -> Entry | StorageError | None:
        """Returns the file, or the error; None if only reading it will give the error."""
        is_refused = False
        for uri in self._candidates(named):
            try:
                entry = self._storage.stat(uri)
            except StorageError as error:
                # S3 says "forbidden" of a missing key to whom it does not let list; of many web servers one may be down
                if error.kind is not ErrorKind.FORBIDDEN and not is_http(uri):
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
        """Yields the URIs where a file may be, the most likely first."""
        yield from named.uris
        if not named.path.isascii():
            others = (form for uri in named.uris if not is_http(uri) for form in unicode_variants(uri)[1:])
            yield from filter(self._may_name, others)

    def _may_name(self, uri: str) -> bool:
        return self._allow_external_paths or any(is_inside(folder, uri) for folder in self._allowed)

    def _missing(self, named: _ResolvedPath) -> StorageError:
        tried = " and in ".join(folder for folder in self._folders if _below(folder, named.path) in named.uris)
        words = f"{quote_short(named.path)}: there is no such file; it was looked for in {tried} (input.base_dir)"
        return StorageError(ErrorKind.NOT_FOUND, words)


def _is_missing(listed: Mapping[str, Entry], recording: Recording) -> bool:
    return recording.uri not in listed


def _below(folder: str, path: str) -> str:
    """Returns the URI of a path relative to a folder."""
    if not is_remote(folder):
        return normalize(join(folder, path))
    scheme, below = folder.split("://", 1)
    return f"{scheme}://{posixpath.normpath(join(below, path))}"  # stores know no "." and ".."
