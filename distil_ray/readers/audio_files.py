"""Lists audio files: a folder with everything below it, a glob pattern, or a single file.

The id of a recording is its path below the root of the input, with its extension: the same corpus in another bucket
keeps its ids. In a folder, files are chosen by extension, and without one by their first bytes. Files that a glob or a
path names are all taken. Memory holds the names of one folder and of its parents, of large folders a portion; of a glob
on a local disk all matches.
"""

import glob
import math
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from distil_ray.audio.file_type import is_audio
from distil_ray.errors import ErrorKind
from distil_ray.readers.audio_formats import (
    AUDIO_BYTES_PER_S,
    extension,
    is_audio_name,
    is_manifest_name,
    is_utf8,
    plain_name,
    without_query,
)
from distil_ray.readers.location import relative_id
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.readers.references import (
    TRANSCRIPT_SUFFIX,
    FolderReferences,
    References,
    count_ignored_name,
    is_reference_for,
    reference_group,
    stem,
    to_nfc,
    unicode_variants,
)
from distil_ray.readers.rttm import EXTENSION as RTTM
from distil_ray.readers.tar_index import is_tar_name
from distil_ray.storage.entries import Entry
from distil_ray.storage.patterns import fixed_length
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import is_remote, parent
from distil_ray.types import Recording

HEAD_BYTES = 512  # of a file without an extension, looked at to see whether it is audio
UTF_16 = b"\xff\xfe"  # begins a text, and would pass for a frame of MPEG audio
# Lists that make a folder a corpus; deeper down they are not looked for, and would go unnoticed.
LIST_NAMES = ("wav.scp", "metadata.csv", "metadata.jsonl", "metadata.parquet", "train.tsv", "validated.tsv")
MAX_HELD = 10_000  # files of one folder at a time, about: half a kilobyte each

FindReferences = Callable[[str, Iterable[Entry], Iterable[str]], References]
SplitContainers = Callable[[list[Entry], str], tuple[Iterator[Recording], list[Entry]]]


class AudioFileLister:
    """Lists audio files, and counts the files that it ignores by extension or reason."""

    def __init__(
        self,
        storage: Storage,
        ignored: Counter[str],
        with_references: bool,
        beside: FindReferences | None = None,
        split: SplitContainers | None = None,
        with_speakers: bool = False,
    ) -> None:
        """Args:
        storage: Access to the files.
        ignored: Counter of ignored files.
        with_references: Look for texts beside the audio.
        beside: Returns the references for a folder, given the folder, its text files and the URIs of its audio.
        split: Returns the recordings inside of containers among the files of a folder, and the other files
            (`containers`). Without it no file is a container.
        with_speakers: Look for RTTM files beside the audio.
        """
        self._storage = storage
        self._ignored = ignored
        self._with_references = with_references
        self._with_speakers = with_speakers
        self._split = split or (lambda entries, _: (iter(()), entries))
        self._beside = beside or (lambda _, texts, audio: FolderReferences(texts, storage, ignored, audio))

    def folder(self, uri: str, root: str | None = None) -> Iterator[Recording]:
        """Yields every file below a folder with an audio extension, or with none and the first bytes of audio.

        Hidden files and folders are ignored. `root`: folder that ids are relative to, if it is not `uri`.
        """
        listed = self._storage.list_files(uri, special_file_counter(root or uri, self._ignored))
        for every in group_by_folder(self._visible(uri, listed), MAX_HELD):
            inside, entries = self._split(every, root or uri)
            audio, others = self._separate_audio(entries)
            stems = {to_nfc(stem(entry.uri)) for entry in audio} if others else set()
            texts, rttm_uris = [], []
            for entry in others:
                if extension(entry.uri) == ".txt" and is_reference_for(entry.uri, stems):
                    texts.append(entry)
                elif extension(entry.uri) == RTTM and self._with_speakers and to_nfc(stem(entry.uri)) in stems:
                    rttm_uris.append(entry.uri)
                else:
                    self._ignored[_ignored_as(entry.uri)] += 1
            yield from self._recordings(root or uri, audio, texts, rttm_uris)
            yield from inside

    def glob(self, pattern: str, root: str | None = None) -> Iterator[Recording]:
        """Yields every file that matches, except text files and manifests, which wide patterns match beside the audio.

        `root`: folder that ids are relative to, if it is not the fixed beginning of the pattern.
        """
        root = root or glob_root(pattern)
        matched = self._storage.glob(pattern, special_file_counter(root, self._ignored))
        for every in group_by_folder(self._visible(root, matched)):
            inside, entries = self._split(every, root)
            audio = []
            for entry in entries:
                if extension(entry.uri) in (".txt", RTTM) or is_manifest_name(entry.uri):
                    self._ignored[extension(entry.uri)] += 1
                else:
                    audio.append(entry)
            beside = f"{glob.escape(parent(audio[0].uri))}/*" if audio else ""
            texts = self._storage.glob(f"{beside}.txt") if self._with_references and audio else ()
            found = self._storage.glob(f"{beside}{RTTM}") if self._with_speakers and audio else ()
            yield from self._recordings(root, audio, texts, [entry.uri for entry in found])
            yield from inside

    def single(self, entry: Entry, root: str | None = None) -> Iterator[Recording]:
        """Yields one file, whatever its name, unless it is a text file. `root`: folder that its id is relative to."""
        if extension(entry.uri) == ".txt":
            self._ignored[".txt"] += 1
            return
        folder, name = posixpath.split(entry.uri)
        chapter = f"{folder}/{stem(name).rpartition('-')[0]}{TRANSCRIPT_SUFFIX}"
        sidecars = [f"{folder}/{form}.txt" for form in unicode_variants(stem(name))]
        wanted = (*sidecars, chapter) if self._with_references else ()
        texts = [text for uri in wanted if (text := self._storage.stat(uri)) is not None]
        forms = unicode_variants(stem(name)) if self._with_speakers else ()
        rttm_uris = [uri for form in forms if self._storage.stat(uri := f"{folder}/{form}{RTTM}") is not None]
        yield from self._recordings(root or folder, [entry], texts, rttm_uris)

    def _separate_audio(self, entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
        """Returns the files that are audio, by extension, without one by their first bytes; and the others."""
        endings = [extension(entry.uri) for entry in entries]
        nameless = [entry for entry, ending in zip(entries, endings, strict=True) if not ending]
        threads = num_request_threads(nameless[0].uri) if nameless else 1
        heads = ordered_parallel_map(self._has_audio_head, nameless, threads)
        audio: list[Entry] = []
        others: list[Entry] = []
        for entry, ending in zip(entries, endings, strict=True):
            is_sound = ending in AUDIO_BYTES_PER_S if ending else next(heads)
            (audio if is_sound else others).append(entry)
        return audio, others

    def _has_audio_head(self, entry: Entry) -> bool:
        size = min(entry.size or 0, HEAD_BYTES)
        try:
            head = self._storage.read_range(entry.uri, 0, size) if size else b""
        except StorageError as error:
            if error.kind not in (ErrorKind.NOT_FOUND, ErrorKind.FORBIDDEN):
                raise
            return False  # gone since it was listed, or nobody's to read
        return is_audio(head) and not head.startswith(UTF_16)

    def _visible(self, root: str, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            name = relative_id(root, entry.uri)
            if name.startswith(".") or "/." in name:
                self._ignored["hidden"] += 1
            elif not is_utf8(name):
                self._ignored["name not in UTF-8"] += 1  # no table could hold its id
            elif is_broken_link(entry) and not _may_hold_recordings(name):
                count_ignored_name(self._ignored, "broken link", name)
            else:
                yield entry

    def _recordings(
        self, root: str, audio: list[Entry], texts: Iterable[Entry], rttm_uris: Iterable[str]
    ) -> Iterator[Recording]:
        """Yields the recordings of one folder, with their references if they are wanted, and their RTTM files."""
        turns = {to_nfc(stem(uri)): uri for uri in rttm_uris}
        if not self._with_references or not audio:
            yield from (_recording(root, entry, None, {}, turns) for entry in audio)
            return
        references = self._beside(parent(audio[0].uri), texts, (entry.uri for entry in audio))
        threads = num_request_threads(root) if references.num_sidecars else 1
        found = ordered_parallel_map(lambda entry: references.find(entry.uri), audio, threads)
        for entry, (reference, metadata) in zip(audio, found, strict=True):
            yield _recording(root, entry, reference, metadata, turns)


def _ignored_as(uri: str) -> str:
    """Returns what an ignored file is counted as: its extension; for the list of a corpus its name and a hint."""
    name = uri.rpartition("/")[2]
    if name in LIST_NAMES:
        return f"{name} (to read it, name its own folder in input.uri)"
    return extension(uri) or "no extension"


def group_by_folder(entries: Iterable[Entry], most: float = math.inf) -> Iterator[list[Entry]]:
    """Yields the entries of each folder together, given that everything below a folder comes in one piece.

    A folder is complete when an entry from outside of it comes; until then its parents wait. A folder of more than
    `most` files comes in portions. A portion does not separate a file from its reference texts, given that the files of
    the folder are sorted by name.
    """
    waiting: list[tuple[str, list[Entry]]] = []
    for entry in entries:
        folder = parent(entry.uri)
        if waiting and waiting[-1][0] == folder and len(waiting[-1][1]) < most:
            waiting[-1][1].append(entry)
            continue
        while waiting and not f"{folder}/".startswith(f"{waiting[-1][0]}/"):
            yield waiting.pop()[1]
        if not waiting or waiting[-1][0] != folder:
            waiting.append((folder, []))
        elif len(waiting[-1][1]) >= most and reference_group(entry.uri) != reference_group(waiting[-1][1][-1].uri):
            yield waiting.pop()[1]
            waiting.append((folder, []))
        waiting[-1][1].append(entry)
    while waiting:
        yield waiting.pop()[1]


def special_file_counter(root: str, ignored: Counter[str]) -> Callable[[str, str], None]:
    """Returns a function that counts FIFOs, sockets and devices of a listing, by kind and name.

    Args:
        root: Folder that names are relative to.
        ignored: The counter.
    """

    def count(uri: str, kind: str) -> None:
        count_ignored_name(ignored, kind, relative_id(root, uri))

    return count


def _may_hold_recordings(name: str) -> bool:
    """Returns whether a file of this name becomes a failed row if it cannot be read."""
    return is_audio_name(name) or is_tar_name(name) or plain_name(name).endswith(".parquet")


def is_broken_link(entry: Entry) -> bool:
    """Returns whether an entry of a listing is a symbolic link on a local disk without a target."""
    return entry.size is None and not is_remote(entry.uri)


def glob_root(pattern: str, written: int = 0) -> str:
    """Returns the folder before the first wildcard; the first `written` characters have no wildcards."""
    return parent(pattern[: written + fixed_length(pattern[written:])])


def _recording(
    root: str, entry: Entry, reference: str | None, metadata: dict[str, str], rttm_uris: Mapping[str, str]
) -> Recording:
    """Returns the recording of a file. `rttm_uris`: RTTM files by their stems in NFC."""
    return Recording(
        recording_id=relative_id(root, without_query(entry.uri)),
        uri=entry.uri,
        source_size=entry.size,
        source_version=entry.version,
        reference=reference,
        rttm_uri=rttm_uris.get(to_nfc(stem(entry.uri))) if rttm_uris else None,
        metadata=metadata,
    )
