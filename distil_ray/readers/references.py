"""Reference texts beside the audio: LibriSpeech's ``*.trans.txt`` and sidecar files ``name.txt``.

A folder's text files are known from its listing, so a recording without a reference costs no request. A text file that
cannot be a reference (too large, not UTF-8) is ignored and counted: it must neither stop a run nor become a wrong
score.

A text with exactly the name of the audio comes first; else one whose name differs only in its Unicode form (NFC, NFD:
disks and archivers change it). If several texts match so, none is used, and they are counted by their names.
"""

import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import MissingError

MAX_REFERENCE_BYTES = 1_000_000
MAX_NAMED = 5  # files of a kind that are named in the count of what is passed over
TRANSCRIPT_SUFFIX = ".trans.txt"
Value = TypeVar("Value")
_UTTERANCE = re.compile(r"(\d+)-\d+-\d+")  # LibriSpeech: speaker-chapter-utterance


def stem(uri: str) -> str:
    """Returns a URI without the extension of its last name."""
    return posixpath.splitext(uri)[0]


def to_nfc(text: str) -> str:
    """Returns the text in the Unicode form NFC."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def unicode_variants(path: str) -> list[str]:
    """Returns a path as written, and with its last name and its folders in the other Unicode forms."""
    if path.isascii():
        return [path]
    folder, slash, name = path.rpartition("/")
    folders, names = _normal_forms(folder), _normal_forms(name)
    return list(dict.fromkeys(f"{above}{slash}{below}" for above in folders for below in names))


def _normal_forms(text: str) -> tuple[str, str, str]:
    return text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)


def count_ignored_name(ignored: Counter[str], kind: str, name: str) -> None:
    """Counts an ignored file by its name: the first `MAX_NAMED` of a kind by name, the others together."""
    key = f"{kind} {name if name.isprintable() else ascii(name)}"
    if key not in ignored and sum(known.startswith(f"{kind} ") for known in ignored) >= MAX_NAMED:
        key = f"{kind}, others"
    ignored[key] += 1


def is_reference_for(text_uri: str, stems: Iterable[str]) -> bool:
    """Returns whether a text file may be the reference of one of some audio files of the same folder.

    Args:
        text_uri: The text file.
        stems: Stems of the audio files, in NFC; a set or dict.
    """
    return text_uri.lower().endswith(TRANSCRIPT_SUFFIX) or to_nfc(stem(text_uri)) in stems


def reference_group(uri: str) -> str:
    """Returns what a file and its reference texts have in common: the stem or LibriSpeech's chapter, in NFC."""
    uri = to_nfc(uri)
    if uri.lower().endswith(TRANSCRIPT_SUFFIX):
        return uri[: -len(TRANSCRIPT_SUFFIX)]
    name = stem(uri)
    return name.rpartition("-")[0] if _UTTERANCE.fullmatch(posixpath.basename(name)) else name


class References(Protocol):
    """References and metadata of the audio files of one folder."""

    @property
    def num_sidecars(self) -> int:
        """Number of files that `find` may have to read."""

    def find(self, audio_uri: str) -> tuple[str | None, dict[str, str]]:
        """Returns the reference (None if there is none) and the metadata of an audio file of the folder."""


class _NameLookup(Generic[Value]):
    """Values by name, which are also found by a name in another Unicode form."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self._claimed: set[str] = set()
        self._alike: defaultdict[str, list[str]] = defaultdict(list)  # names that are not ASCII, by their NFC

    def __len__(self) -> int:
        return len(self.values)

    def add(self, name: str, value: Value) -> None:
        if not name.isascii() and name not in self.values:
            self._alike[to_nfc(name)].append(name)
        self.values[name] = value

    def claim(self, name: str) -> None:
        """Records that an audio file has exactly this name."""
        self._claimed.add(name)

    def names_for(self, name: str) -> list[str]:
        """Returns the name if it is known; else names equal in NFC, with the name itself if one of them is claimed."""
        if name in self.values:
            return [name]
        alike = self._alike.get(to_nfc(name), []) if not name.isascii() else []
        return [*alike, name] if any(one in self._claimed for one in alike) else alike


class FolderReferences:
    """The references of one folder."""

    def __init__(
        self, texts: Iterable[Entry], storage: Storage, ignored: Counter[str], audio: Iterable[str] = ()
    ) -> None:
        """Args:
        texts: The ``.txt`` files of the folder.
        storage: Access to them.
        ignored: Counter of ignored files.
        audio: URIs of the folder's audio. A text with exactly the name of one is not used for another.
        """
        self._storage = storage
        self._ignored = ignored
        self._sidecars = _NameLookup[Entry]()
        self._utterances = _NameLookup[str]()
        for text in texts:
            if text.uri.lower().endswith(TRANSCRIPT_SUFFIX):
                for name, words in _parse_transcripts(self._read(text) or "").items():
                    self._utterances.add(name, words)
            else:
                self._sidecars.add(stem(text.uri), text)
        for uri in audio:
            if not uri.isascii():
                self._sidecars.claim(stem(uri))
                self._utterances.claim(posixpath.basename(stem(uri)))

    @property
    def num_sidecars(self) -> int:
        """Number of files that `find` may have to read. ``*.trans.txt`` files are read already."""
        return len(self._sidecars)

    def find(self, audio_uri: str) -> tuple[str | None, dict[str, str]]:
        """Returns the reference (None if there is none) and the metadata of an audio file of the folder."""
        if not self._utterances and not self._sidecars:
            return None, {}
        utterance = posixpath.basename(stem(audio_uri))
        reference = self._one_of(self._utterances, utterance)
        if reference is not None:
            match = _UTTERANCE.fullmatch(utterance)
            return reference, {"speaker": match[1]} if match else {}
        sidecar = self._one_of(self._sidecars, stem(audio_uri))
        return (self._read(sidecar) if sidecar else None), {}

    def _one_of(self, known: "_NameLookup[Value]", name: str) -> "Value | None":
        """Returns the value of a name, or of the one name that is equal to it in NFC."""
        names = known.names_for(name)
        if len(names) > 1:
            told = " or ".join(ascii(posixpath.basename(one)) for one in names)
            count_ignored_name(self._ignored, "ambiguous reference", f"{told} of {posixpath.basename(name)!a}")
        return known.values[names[0]] if len(names) == 1 else None

    def _read(self, text: Entry) -> str | None:
        if text.size is not None and text.size > MAX_REFERENCE_BYTES:
            self._ignored["reference over 1 MB"] += 1
            return None
        try:
            return self._storage.read(text.uri).decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            self._ignored["reference not in UTF-8"] += 1
        except MissingError:  # gone since it was listed
            pass
        return None


def _parse_transcripts(text: str) -> dict[str, str]:
    """Returns lines of ``ID TEXT`` as a dict; an id alone has an empty text."""
    rows = (line.split(maxsplit=1) for line in text.splitlines())
    return {row[0]: row[1].strip() if len(row) > 1 else "" for row in rows if row}
