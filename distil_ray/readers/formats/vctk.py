"""VCTK: a folder of audio and a folder of texts, each with one folder per speaker.

Every file of every microphone is a recording. Its reference is the text of its utterance; its metadata are the
speaker, the microphone, and the speaker's age, gender and accent from ``speaker-info.txt`` where there is one.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator

from distil_ray.errors import InputError
from distil_ray.readers.audio_files import AudioFileLister, special_file_counter
from distil_ray.readers.base import InputFormat, ReadContext
from distil_ray.readers.columns import SPEAKER
from distil_ray.readers.references import FolderReferences, stem
from distil_ray.readers.row_files import read_lines
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import Recording

VCTK_AUDIO = ("wav48_silence_trimmed", "wav48")
VCTK_TEXTS = "txt"
_MICROPHONE = re.compile(r"_(mic\d)$")


def is_vctk_folder(uri: str, storage: Storage) -> bool:
    return storage.is_folder(join(uri, VCTK_TEXTS)) and _vctk_audio(uri, storage) is not None


def _vctk_audio(uri: str, storage: Storage) -> str | None:
    return next((join(uri, name) for name in VCTK_AUDIO if storage.is_folder(join(uri, name))), None)


def read_vctk(uri: str, context: ReadContext) -> Iterator[Recording]:
    """Yields every file of every microphone, with the text of its utterance and the speaker's metadata.

    Raises:
        InputError: The folder has no audio folder of VCTK.
    """
    audio = _vctk_audio(uri, context.storage)
    if audio is None:
        raise InputError(f"input.uri={uri}: is no folder of VCTK: it has none of {', '.join(VCTK_AUDIO)}")
    speakers = _vctk_speakers(join(uri, "speaker-info.txt"), context)

    def beside(folder: str, *_: Iterable[object]) -> "_VctkTexts":
        return _VctkTexts(join(uri, VCTK_TEXTS, posixpath.basename(folder)), speakers, context)

    wanted = context.config.references == "auto"
    yield from AudioFileLister(context.storage, context.ignored, wanted, beside).folder(audio, root=uri)


class _VctkTexts:
    """References and metadata of the audio of one speaker."""

    def __init__(self, folder: str, speakers: dict[str, dict[str, str]], context: ReadContext) -> None:
        self._folder = folder
        self._speaker = posixpath.basename(folder)
        self._of_speaker = {SPEAKER: self._speaker} | speakers.get(self._speaker.lstrip("p"), {})
        texts = context.storage.list_files(folder, special_file_counter(folder, context.ignored))
        self._texts = FolderReferences(texts, context.storage, context.ignored)

    @property
    def num_sidecars(self) -> int:
        return self._texts.num_sidecars

    def find(self, audio_uri: str) -> tuple[str | None, dict[str, str]]:
        name = posixpath.basename(stem(audio_uri))
        found = _MICROPHONE.search(name)
        reference, _ = self._texts.find(join(self._folder, f"{_MICROPHONE.sub('', name)}.txt"))
        return reference, self._of_speaker | ({"microphone": found[1]} if found else {})


def _vctk_speakers(uri: str, context: ReadContext) -> dict[str, dict[str, str]]:
    """Returns the metadata of each speaker, by number; empty if there is no such table."""
    if context.storage.stat(uri) is None:
        return {}
    rows = (line.split() for line in read_lines(uri, context.storage))
    return {
        row[0].lstrip("p"): dict(zip(("age", "gender", "accent"), row[1:4], strict=False))
        for row in rows
        if len(row) >= 4
    }


FORMAT = InputFormat("VCTK", read_vctk, has_folder=is_vctk_folder)
