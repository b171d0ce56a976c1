"""Lists the recordings of every location in ``input.uri`` as one stream.

A location is a file, a folder, a glob pattern, or a pattern with braces. `format_detection` chooses the format of each,
and the format's reader yields the recordings. A listing holds eight bytes per recording, to detect duplicate ids.
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
from distil_ray.readers.base import FilesReader, InputFormat, ReadContext
from distil_ray.readers.brace_expansion import expand_braces, folder_before_braces, has_braces
from distil_ray.readers.channels import name_channels, split_channels
from distil_ray.readers.containers import ContainerReader, is_parquet_name
from distil_ray.readers.format_detection import FormatDetector
from distil_ray.readers.formats import files
from distil_ray.readers.formats.files import make_audio_file_lister
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.location import add_prompt_to_version
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.readers.output_exclusion import StorageWithoutOutput
from distil_ray.readers.references import count_ignored_name
from distil_ray.readers.rttm import add_speaker_turns
from distil_ray.storage.entries import Entry
from distil_ray.storage.patterns import has_magic
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import is_http, is_remote, normalize, parent
from distil_ray.types import Recording


@dataclass(frozen=True, slots=True)
class Ignored:
    """Files at the inputs that are not recordings: their number by extension or by reason."""

    counts: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        """Returns a text such as ``.txt 8, .md 4``."""
        return ", ".join(f"{name} {count}" for name, count in self.counts.most_common())


def list_recordings(config: InputConfig, storage: Storage, indexes: IndexCache | None = None) -> "Listing":
    """Returns the recordings of ``input.uri``. Nothing is read before the listing is iterated over.

    Args:
        config: The section ``input`` of the settings.
        storage: Access to the files.
        indexes: Indexes of archives and tables that an output keeps. Without them every archive is read to be listed.
            Files of that output are not listed.
    """
    return Listing(config, storage, indexes or IndexCache())


class Listing:
    """Iterable of `Recording`. Every iteration lists the input again.

    Attributes:
        ignored: Files that are not recordings; complete when an iteration has ended.
        formats: Number of locations by title of the detected format; complete when an iteration has ended.

    Raises:
        SettingsError: The format in ``input.format`` cannot be loaded (when the listing is made).
        InputError: While it is iterated over, for a location or a manifest that cannot be read; at the end, for a
            duplicate id, or if there is no recording at all.
    """

    def __init__(self, config: InputConfig, storage: Storage, indexes: IndexCache) -> None:
        self._config = config
        self._indexes = indexes
        self.ignored = Ignored()
        self._storage = (
            StorageWithoutOutput(storage, indexes.output_uri, self.ignored.counts) if indexes.output_uri else storage
        )
        self.formats = Counter[str]()
        self._detector = FormatDetector(config.format)

    def __iter__(self) -> Iterator[Recording]:
        hashes = array("q")
        for recording in self._all():
            hashes.append(hash_id(recording.recording_id))
            yield recording
        if not hashes:
            raise InputError(self._no_recordings())
        ordered = np.sort(np.frombuffer(hashes, dtype=np.int64))
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            self._raise_duplicate_ids(set(twice.tolist()))

    def _all(self) -> Iterator[Recording]:
        self.ignored.counts.clear()
        self.formats.clear()
        for given in self._config.uri:
            uri = normalize(given)
            try:
                for recording in self._iter_location(uri, given.endswith("/")):
                    code = language_code(recording.language)
                    named = recording if code == recording.language else replace(recording, language=code)
                    yield add_prompt_to_version(named)
            except StorageError as error:
                raise InputError(f"input.uri={given}: {error}") from error

    def _iter_location(self, uri: str, is_folder: bool) -> Iterator[Recording]:
        """Yields the recordings of one entry of `input.uri`, with what the settings add to those of its format.

        These are one recording per channel, the names of the channels, and the speaker turns.
        """
        recordings = self._expand(uri, is_folder)
        if self._config.channels == "split":
            recordings = split_channels(recordings, self._storage)
        if self._config.channel_names:
            recordings = name_channels(recordings, self._config.channel_names)
        return add_speaker_turns(recordings, self._storage) if self._config.speakers == "auto" else recordings

    def _expand(self, uri: str, is_folder: bool) -> Iterator[Recording]:
        """Yields the recordings of one entry of ``input.uri``; `is_folder`: the entry ends with a slash."""
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
        together = self._detector.detect_shared(names) if len(names) > 1 else None
        if together is not None and together.read_files is not None and not any(map(has_magic, names)):
            yield from self._read_together(together, together.read_files, names, context)
        else:
            for name in names:
                yield from self._iter_one(name, context, is_folder)

    def _read_together(
        self, format: InputFormat, read_files: FilesReader, names: list[str], context: ReadContext
    ) -> Iterator[Recording]:
        """Reads files that braces name several at a time, like those of a folder."""
        self.formats[format.title] += len(names)
        found = zip(names, ordered_parallel_map(self._storage.stat, names, num_request_threads(names[0])), strict=True)
        entries = (_require_entry(name, entry) for name, entry in found)
        yield from read_files(entries, context.root or parent(names[0]), context)

    def _iter_one(self, uri: str, context: ReadContext, is_folder: bool) -> Iterator[Recording]:
        """Yields the recordings at one location.

        An object that is also the prefix of other objects counts as the object, unless the entry ends with a slash.
        """
        if is_http(uri) and self._storage.is_folder(uri):
            raise InputError(
                f"input.uri={uri}: is a web page, and folders cannot be listed over http: name the files, or a"
                " manifest of them"
            )
        if is_folder and is_remote(uri) and not is_http(uri):
            uri = f"{uri}/"
        if self._storage.stat(uri) is not None:
            yield from self._read(self._detector.detect_file(uri, context), uri, context)
        elif self._storage.is_folder(uri):
            yield from self._read(self._detector.detect_folder(uri, context), uri, context)
        elif kind := self._storage.special_kind(uri):
            count_ignored_name(context.ignored, kind, uri)
        elif has_magic(uri) and not is_http(uri):
            yield from self._glob(uri, context)
        else:
            raise _missing_location(uri)

    def _glob(self, pattern: str, context: ReadContext) -> Iterator[Recording]:
        """Yields what a pattern matches: recordings of lists if it ends like the name of a list, else audio files."""
        written = literal_prefix_length(pattern, self._storage)
        root = context.root or glob_root(pattern, written)
        pattern = glob.escape(pattern[:written]) + pattern[written:]
        if is_parquet_name(pattern):
            lists = self._storage.glob(pattern, special_file_counter(root, context.ignored))
            yield from ContainerReader(context).read_tables(lists, root, lambda one: self._list(one.uri, context))
        elif self._detector.is_list_name(pattern):
            for found in self._storage.glob(pattern, special_file_counter(root, context.ignored)):
                yield from self._list(found.uri, context)
        else:
            self.formats[files.FORMAT.title] += 1
            yield from make_audio_file_lister(context).glob(pattern, root)

    def _list(self, uri: str, context: ReadContext) -> Iterator[Recording]:
        yield from self._read(self._detector.detect_file(uri, context), uri, context)

    def _read(self, format: InputFormat, uri: str, context: ReadContext) -> Iterator[Recording]:
        self.formats[format.title] += 1
        yield from format.read(uri, context)

    def _no_recordings(self) -> str:
        where = ", ".join(self._config.uri)
        if not self.ignored:
            return f"input.uri={where}: there are no recordings"
        total = self.ignored.counts.total()
        return f"input.uri={where}: {total} file{'s' * (total > 1)}, none of them audio: {self.ignored}"

    def _raise_duplicate_ids(self, hashes: set[int]) -> None:
        """Lists again to name both locations of a duplicate id; returns if only the hashes were equal."""
        places: dict[str, str] = {}
        for recording in self._all():
            name = recording.recording_id
            if hash_id(name) not in hashes:
                continue
            if name in places:
                raise InputError(_describe_duplicate(name, places[name], recording.uri))
            places[name] = recording.uri


def _describe_duplicate(name: str, first_uri: str, second_uri: str) -> str:
    places = f"input.uri: duplicate id {name!r}: {first_uri} and {second_uri}."
    if first_uri == second_uri:
        return f"{places} The location is listed twice. List it once, or give each of its segments an id of its own."
    return (
        f"{places} Ids must be unique. Set input.columns.recording_id to a column with unique ids. For folders, list"
        " the folder above them instead (ids are paths below it), or give each folder an output.uri of its own."
    )


def literal_prefix_length(uri: str, storage: Storage) -> int:
    """Returns how many characters at the beginning of a location name something that exists.

    Folders such as ``{1,2}`` or ``[a]`` exist under names that could also be patterns. The result is the whole length
    if the location exists as it is written, and 0 if it has no such characters.
    """
    end = 0
    if is_http(uri):
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
    """Returns a signed 64-bit hash of an id. Hashes are comparable only within one process."""
    return hash(recording_id)


def _require_entry(name: str, entry: Entry | None) -> Entry:
    if entry is None:
        raise _missing_location(name)
    return entry


def _missing_location(uri: str) -> InputError:
    return InputError(f"input.uri={uri}: there is no such file or folder{_missing_hint(uri)}")


def _missing_hint(uri: str) -> str:
    """Returns a hint for a location that does not exist; for a local path the nearest folder that does."""
    if is_http(uri):
        return "; patterns need a listing, which http has not" if has_magic(without_query(uri)) else ""
    if is_remote(uri):
        return ", or its bucket does not exist"
    folder = parent(uri)
    while folder and not Path(folder).is_dir():
        folder = parent(folder)
    return f"; the nearest that exists is {folder or '/'}"
