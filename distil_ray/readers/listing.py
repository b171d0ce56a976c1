"""What there is to transcribe: every input of the settings, one form after another, as one stream of recordings.

A form is a module with a generator of `Recording`; forms.py knows which one a location has. What a listing keeps in
memory is eight bytes a recording, to see whether an id comes twice.
"""

import glob
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from distil_ray.config import InputConfig
from distil_ray.errors import InputError
from distil_ray.languages import language_code
from distil_ray.readers.audio_files import glob_root, special_file_counter
from distil_ray.readers.audio_formats import without_query
from distil_ray.readers.base import ReadContext
from distil_ray.readers.brace_expansion import expand_braces, folder_before_braces, has_braces
from distil_ray.readers.channels import split_channels
from distil_ray.readers.containers import TAR_SHARDS, ContainerReader, is_parquet_name
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.readers.references import count_ignored_name
from distil_ray.readers.registry import FILES, InputFormat, files_of, form_of_file, form_of_folder, is_list_name
from distil_ray.readers.tar_index import is_tar_name
from distil_ray.readers.webdataset import iter_shard_recordings
from distil_ray.storage.http import is_web
from distil_ray.storage.patterns import has_magic
from distil_ray.storage.storage import Entry, Storage, StorageError, is_remote, normalize, parent
from distil_ray.types import Recording


@dataclass(frozen=True, slots=True)
class Ignored:
    """What the inputs held that is no recording: number of files by extension, or by the reason."""

    counts: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        """Such as ``.txt 8, .md 4``."""
        return ", ".join(f"{name} {count}" for name, count in self.counts.most_common())


def list_recordings(config: InputConfig, storage: Storage, indexes: IndexCache | None = None) -> "Listing":
    """The recordings of `input.uri`. Nothing is read before the listing is iterated over.

    `indexes`: what an output has kept of what archives hold; without them every archive is read through.
    """
    return Listing(config, storage, indexes or IndexCache())


class Listing:
    """Iterable of `Recording`, listed anew by every iteration.

    Raises `InputError` while it is iterated over: for a location that cannot be listed, for a manifest that cannot be
    read, and at the end for an id that came twice, or if there was no recording at all. `ignored`, and `forms` (what
    each location was taken for, number of locations by title), are complete when an iteration has ended.
    """

    def __init__(self, config: InputConfig, storage: Storage, indexes: IndexCache) -> None:
        self._config = config
        self._storage = storage
        self._indexes = indexes
        self.ignored = Ignored()
        self.formats = Counter[str]()

    def __iter__(self) -> Iterator[Recording]:
        hashes = array("q")
        for recording in self._all():
            hashes.append(hash_id(recording.recording_id))
            yield recording
        if not hashes:
            raise InputError(self._nothing())
        ordered = np.sort(np.frombuffer(hashes, dtype=np.int64))
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            self._refuse_doubled_ids(set(twice.tolist()))

    def _all(self) -> Iterator[Recording]:
        self.ignored.counts.clear()
        self.formats.clear()
        for given in self._config.uri:
            uri = normalize(given)
            try:
                for recording in self._heard(uri, given.endswith("/")):
                    code = language_code(recording.language)
                    yield recording if code == recording.language else replace(recording, language=code)
            except StorageError as error:
                raise InputError(f"input.uri={given}: {error}") from error

    def _heard(self, uri: str, is_folder: bool) -> Iterator[Recording]:
        """What one entry of `input.uri` stands for, channel by channel if so wished."""
        given = self._given(uri, is_folder)
        return split_channels(given, self._storage) if self._config.channels == "split" else given

    def _given(self, uri: str, is_folder: bool) -> Iterator[Recording]:
        """What one entry of `input.uri` stands for; `is_folder`: as it is written, with a slash at its end."""
        written = literal_prefix_length(uri, self._storage)
        context = ReadContext(
            self._storage,
            self._config,
            self.ignored.counts,
            self.formats,
            self._indexes,
            folder_before_braces(uri, written),
        )
        names = expand_braces(uri, written)
        if len(names) > 1 and all(is_tar_name(name) and not has_magic(name) for name in names):
            yield from self._shards(names, context)
        else:
            for name in names:
                yield from self._one(name, context, is_folder)

    def _shards(self, names: list[str], context: ReadContext) -> Iterator[Recording]:
        """Shards that braces name: looked at several at a time, as those of a folder are."""
        self.formats[TAR_SHARDS] += len(names)
        found = zip(names, ordered_parallel_map(self._storage.stat, names, num_request_threads(names[0])), strict=True)
        entries = (_require_entry(name, entry) for name, entry in found)
        yield from iter_shard_recordings(entries, context.root or parent(names[0]), context)

    def _one(self, uri: str, context: ReadContext, is_folder: bool) -> Iterator[Recording]:
        """The recordings at one location, by what it is: of an object that is also the prefix of others the object,
        unless it is written as a folder."""
        if is_web(uri) and self._storage.is_folder(uri):
            raise InputError(
                f"input.uri={uri}: is a web page, and folders cannot be listed over http: name the files, or a"
                " manifest of them"
            )
        if is_folder and is_remote(uri) and not is_web(uri):
            uri = f"{uri}/"
        if self._storage.stat(uri) is not None:
            yield from self._read(form_of_file(uri, context), uri, context)
        elif self._storage.is_folder(uri):
            yield from self._read(form_of_folder(uri, context), uri, context)
        elif kind := self._storage.special_kind(uri):
            count_ignored_name(context.ignored, kind, uri)
        elif has_magic(uri) and not is_web(uri):
            yield from self._glob(uri, context)
        else:
            raise _missing_location(uri)

    def _glob(self, pattern: str, context: ReadContext) -> Iterator[Recording]:
        """What matches: lists of recordings if the pattern ends as their names do, else the recordings themselves."""
        written = literal_prefix_length(pattern, self._storage)
        root = context.root or glob_root(pattern, written)
        pattern = glob.escape(pattern[:written]) + pattern[written:]
        if is_parquet_name(pattern):
            lists = self._storage.glob(pattern, special_file_counter(root, context.ignored))
            yield from ContainerReader(context).read_tables(lists, root, lambda one: self._list(one.uri, context))
        elif is_list_name(pattern) and not is_tar_name(pattern):
            for found in self._storage.glob(pattern, special_file_counter(root, context.ignored)):
                yield from self._list(found.uri, context)
        else:
            self.formats[FILES.title] += 1
            yield from files_of(context).glob(pattern, root)

    def _list(self, uri: str, context: ReadContext) -> Iterator[Recording]:
        yield from self._read(form_of_file(uri, context), uri, context)

    def _read(self, format: InputFormat, uri: str, context: ReadContext) -> Iterator[Recording]:
        self.formats[format.title] += 1
        yield from format.read(uri, context)

    def _nothing(self) -> str:
        where = ", ".join(self._config.uri)
        if not self.ignored:
            return f"input.uri={where}: there are no recordings"
        total = self.ignored.counts.total()
        return f"input.uri={where}: {total} file{'s' * (total > 1)}, none of them audio: {self.ignored}"

    def _refuse_doubled_ids(self, hashes: set[int]) -> None:
        """Lists once more to name both places of an id; does nothing if only the hashes were equal."""
        places: dict[str, str] = {}
        for recording in self._all():
            name = recording.recording_id
            if hash_id(name) not in hashes:
                continue
            if name in places:
                raise InputError(f"input.uri: duplicate id {name!r}: {places[name]} and {recording.uri}")
            places[name] = recording.uri


def literal_prefix_length(uri: str, storage: Storage) -> int:
    """Number of characters at the beginning of a location that name something which exists, although they could mean
    others: a folder ``{1,2}`` or ``[a]``. All of it where it exists as it is written; 0 if nothing could mean others.
    """
    end = 0
    if is_web(uri):
        return end
    for slash in re.finditer("/", uri):
        if _is_pattern(uri[end : slash.start()]):
            if not storage.is_folder(uri[: slash.start()]):
                return end
            end = slash.start()
    if has_braces(uri[end:]) and (storage.stat(uri) is not None or storage.is_folder(uri)):
        return len(uri)
    return end


def _is_pattern(part: str) -> bool:
    return has_magic(part) or has_braces(part)


def hash_id(recording_id: str) -> int:
    """64 bits, signed. Equal only within one process."""
    return hash(recording_id)


def _require_entry(name: str, entry: Entry | None) -> Entry:
    if entry is None:
        raise _missing_location(name)
    return entry


def _missing_location(uri: str) -> InputError:
    return InputError(f"input.uri={uri}: there is no such file or folder{_missing_hint(uri)}")


def _missing_hint(uri: str) -> str:
    """For a local path: the nearest folder above it that exists."""
    if is_web(uri):
        return "; patterns need a listing, which http has not" if has_magic(without_query(uri)) else ""
    if is_remote(uri):
        return ", or its bucket does not exist"
    folder = parent(uri)
    while folder and not Path(folder).is_dir():
        folder = parent(folder)
    return f"; the nearest that exists is {folder or '/'}"
