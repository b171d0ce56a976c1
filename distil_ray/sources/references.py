"""Reference texts that lie beside the audio: LibriSpeech's ``*.trans.txt`` and sidecars ``name.txt``.

One small file is read at a time, when its folder is listed. It knows the folder's text files from the listing, so a
recording without a reference costs no request. A text file that cannot be a reference (too large, not UTF-8) is
passed over and counted: a bad reference must neither stop a run nor become a wrong score.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from distil_ray.storage import Entry, MissingError, Storage

MAX_REFERENCE_BYTES = 1_000_000
TRANSCRIPT_SUFFIX = ".trans.txt"
_UTTERANCE = re.compile(r"(\d+)-\d+-\d+")  # LibriSpeech: speaker-chapter-utterance


def stem(uri: str) -> str:
    """A URI without the extension of its last name."""
    return posixpath.splitext(uri)[0]


def is_reference_of(text_uri: str, stems: Iterable[str]) -> bool:
    """Whether a text file speaks of the audio files with these stems (a set or dict), all of one folder."""
    return text_uri.lower().endswith(TRANSCRIPT_SUFFIX) or stem(text_uri) in stems


def name_of_text(uri: str) -> str:
    """What a file and the texts that may speak of it have in common: the stem, or LibriSpeech's chapter."""
    if uri.lower().endswith(TRANSCRIPT_SUFFIX):
        return uri[: -len(TRANSCRIPT_SUFFIX)]
    name = stem(uri)
    return name.rpartition("-")[0] if _UTTERANCE.fullmatch(posixpath.basename(name)) else name


class References(Protocol):
    """What is known of the audio files of one folder."""

    @property
    def num_sidecars(self) -> int:
        """How many files `find` may have to read."""

    def find(self, audio_uri: str) -> tuple[str | None, dict[str, str]]:
        """Reference (None: there is none) and metadata of an audio file of the folder."""


class FolderReferences:
    """The references of one folder."""

    def __init__(self, texts: Iterable[Entry], storage: Storage, ignored: Counter[str]) -> None:
        """`texts`: the folder's ``.txt`` files; what is passed over is counted in `ignored`."""
        self._storage = storage
        self._ignored = ignored
        self._sidecars: dict[str, Entry] = {}
        self._utterances: dict[str, str] = {}
        for text in texts:
            if text.uri.lower().endswith(TRANSCRIPT_SUFFIX):
                self._utterances |= _parse_transcripts(self._read(text) or "")
            else:
                self._sidecars[stem(text.uri)] = text

    @property
    def num_sidecars(self) -> int:
        """How many files `find` may have to read; what ``*.trans.txt`` say is known already."""
        return len(self._sidecars)

    def find(self, audio_uri: str) -> tuple[str | None, dict[str, str]]:
        """Reference (None: there is none) and metadata of an audio file of the folder."""
        utterance = posixpath.basename(stem(audio_uri))
        reference = self._utterances.get(utterance)
        if reference is not None:
            match = _UTTERANCE.fullmatch(utterance)
            return reference, {"speaker": match[1]} if match else {}
        sidecar = self._sidecars.get(stem(audio_uri))
        return (self._read(sidecar) if sidecar else None), {}

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
    """Lines of ``ID TEXT`` as a dict; an id alone has an empty text."""
    rows = (line.split(maxsplit=1) for line in text.splitlines())
    return {row[0]: row[1].strip() if len(row) > 1 else "" for row in rows if row}
