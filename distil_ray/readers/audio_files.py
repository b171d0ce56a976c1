"""Audio files by their place: a folder with all below it, a glob, a single file.

A recording's id is its path below the input's root, extension included, so that the same corpus in another bucket
keeps its ids. A folder is taken file by file by extension, where there is none by the first bytes; what a glob or a
single path names is taken as it is. The names of one folder and of those above it are held at a time, of large folders
a portion; those that a glob matches on a local disk are held all.
"""

import glob
import math
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from distil_ray.audio.file_type import is_audio
from distil_ray.errors import ErrorKind
from distil_ray.readers.audio_formats import (
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
from distil_ray.readers.tar_index import is_tar_name
from distil_ray.storage.patterns import fixed_length
from distil_ray.storage.storage import Entry, Storage, StorageError, is_remote, parent
from distil_ray.types import Recording

HEAD_BYTES = 512  # of a file without an extension, looked at to see whether it is audio
UTF_16 = b"\xff\xfe"  # begins a text, and would pass for a frame of MPEG audio
# Lists that make a folder a corpus; deeper down they are not looked for, and would go unnoticed.
LIST_NAMES = ("wav.scp", "metadata.csv", "metadata.jsonl", "metadata.parquet", "train.tsv", "validated.tsv")
MAX_HELD = 10_000  # files of one folder at a time, about: half a kilobyte each

FindReferences = Callable[[str, Iterable[Entry], Iterable[str]], References]
SplitContainers = Callable[[list[Entry], str], tuple[Iterator[Recording], list[Entry]]]


class AudioFileLister:
    """Lists audio files; counts what it passes over, by extension or reason, in `ignored`."""

    def __init__(
        self,
        storage: Storage,
        ignored: Counter[str],
        with_references: bool,
        beside: FindReferences | None = None,
        split: SplitContainers | None = None,
    ) -> None:
        """`beside`: the references of the audio of a folder, given the folder, its text files and its audio's URIs.
        `split`: the recordings inside of some files of a folder, and the other files; without it files hold none
        (holders.py)."""
        self._storage = storage
        self._ignored = ignored
        self._with_references = with_references
        self._split = split or (lambda entries, _: (iter(()), entries))
        self._beside = beside or (lambda _, texts, audio: FolderReferences(texts, storage, ignored, audio))

    def folder(self, uri: str, root: str | None = None) -> Iterator[Recording]:
        """Every file below a folder with an audio extension, or with none and an audio's first bytes; hidden files and
        folders are not entered.

        `root`: what the ids are paths below, where it is not the folder itself.
        """
        listed = self._storage.list_files(uri, special_file_counter(root or uri, self._ignored))
        for every in group_by_folder(self._visible(uri, listed), MAX_HELD):
            inside, entries = self._split(every, root or uri)
            audio = self._audio(entries)
            stems = {to_nfc(stem(entry.uri)) for entry in audio}
            taken = set(audio)
            texts = []
            for entry in entries:
                if extension(entry.uri) == ".txt" and is_reference_for(entry.uri, stems):
                    texts.append(entry)
                elif entry not in taken:
                    self._ignored[_ignored_as(entry.uri)] += 1
            yield from self._recordings(root or uri, audio, texts)
            yield from inside

    def glob(self, pattern: str, root: str | None = None) -> Iterator[Recording]:
        """Every file that matches, but text files and manifests, which a wide pattern meets beside the audio.

        `root`: what the ids are paths below, where it is not the folder that the pattern begins with.
        """
        root = root or glob_root(pattern)
        matched = self._storage.glob(pattern, special_file_counter(root, self._ignored))
        for every in group_by_folder(self._visible(root, matched)):
            inside, entries = self._split(every, root)
            audio = []
            for entry in entries:
                if extension(entry.uri) == ".txt" or is_manifest_name(entry.uri):
                    self._ignored[extension(entry.uri)] += 1
                else:
                    audio.append(entry)
            wanted = self._with_references and audio
            texts = self._storage.glob(f"{glob.escape(parent(audio[0].uri))}/*.txt") if wanted else ()
            yield from self._recordings(root, audio, texts)
            yield from inside

    def single(self, entry: Entry, root: str | None = None) -> Iterator[Recording]:
        """One file, whatever its name; but text is no audio. `root`: as for a folder."""
        if extension(entry.uri) == ".txt":
            self._ignored[".txt"] += 1
            return
        folder, name = posixpath.split(entry.uri)
        chapter = f"{folder}/{stem(name).rpartition('-')[0]}{TRANSCRIPT_SUFFIX}"
        sidecars = [f"{folder}/{form}.txt" for form in unicode_variants(stem(name))]
        wanted = (*sidecars, chapter) if self._with_references else ()
        texts = [text for uri in wanted if (text := self._storage.stat(uri)) is not None]
        yield from self._recordings(root or folder, [entry], texts)

    def _audio(self, entries: list[Entry]) -> list[Entry]:
        """Those that are audio, in order: by their extensions, without one by their first bytes."""
        nameless = [entry for entry in entries if not extension(entry.uri)]
        threads = num_request_threads(nameless[0].uri) if nameless else 1
        sounds = zip(nameless, ordered_parallel_map(self._begins_like_audio, nameless, threads), strict=True)
        heard = {entry.uri for entry, sound in sounds if sound}
        return [entry for entry in entries if is_audio_name(entry.uri) or entry.uri in heard]

    def _begins_like_audio(self, entry: Entry) -> bool:
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
            if any(part.startswith(".") for part in name.split("/")):
                self._ignored["hidden"] += 1
            elif not is_utf8(name):
                self._ignored["name not in UTF-8"] += 1  # no table could hold its id
            elif is_broken_link(entry) and not _may_hold_recordings(name):
                count_ignored_name(self._ignored, "broken link", name)
            else:
                yield entry

    def _recordings(self, root: str, audio: list[Entry], texts: Iterable[Entry]) -> Iterator[Recording]:
        """The recordings of one folder, with their references if these are wanted."""
        if not self._with_references or not audio:
            yield from (_recording(root, entry, None, {}) for entry in audio)
            return
        references = self._beside(parent(audio[0].uri), texts, (entry.uri for entry in audio))
        threads = num_request_threads(root) if references.num_sidecars else 1
        found = ordered_parallel_map(lambda entry: references.find(entry.uri), audio, threads)
        for entry, (reference, metadata) in zip(audio, found, strict=True):
            yield _recording(root, entry, reference, metadata)


def _ignored_as(uri: str) -> str:
    """What a file that is no audio is counted as: its kind, but a list of recordings by its name, and what to do."""
    name = uri.rpartition("/")[2]
    if name in LIST_NAMES:
        return f"{name} (to read it, name its own folder in input.uri)"
    return extension(uri) or "no extension"


def group_by_folder(entries: Iterable[Entry], most: float = math.inf) -> Iterator[list[Entry]]:
    """The entries of each folder together, given that what lies below a folder comes in one piece.

    A folder is complete when an entry from outside of it comes; until then those above it are kept waiting. A folder of
    more than `most` files comes in portions, which do not part a file from the texts that speak of it, given that its
    own files come by name.
    """
    waiting: list[tuple[str, list[Entry]]] = []
    for entry in entries:
        folder = parent(entry.uri)
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
    """What counts a FIFO, socket or device that a listing meets, by kind and name; `root`: what names start from."""

    def count(uri: str, kind: str) -> None:
        count_ignored_name(ignored, kind, relative_id(root, uri))

    return count


def _may_hold_recordings(name: str) -> bool:
    """Whether a file of this name ends as a failed row if it cannot be read."""
    return is_audio_name(name) or is_tar_name(name) or plain_name(name).endswith(".parquet")


def is_broken_link(entry: Entry) -> bool:
    """Whether an entry of a listing is a link on a local disk whose target is not there."""
    return entry.size is None and not is_remote(entry.uri)


def glob_root(pattern: str, written: int = 0) -> str:
    """The folder that a pattern's fixed beginning names; its first `written` characters are no pattern."""
    return parent(pattern[: written + fixed_length(pattern[written:])])


def _recording(root: str, entry: Entry, reference: str | None, metadata: dict[str, str]) -> Recording:
    return Recording(
        recording_id=relative_id(root, without_query(entry.uri)),
        uri=entry.uri,
        source_size=entry.size,
        source_version=entry.version,
        reference=reference,
        metadata=metadata,
    )
