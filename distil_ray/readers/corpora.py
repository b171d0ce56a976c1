"""Corpora that are known by how their folders look: LJSpeech, Common Voice, VCTK. (LibriSpeech's: references.py.)

LJSpeech is a table without a header beside ``wavs/``, Common Voice tables beside ``clips/``, VCTK a folder of audio and
one of texts, with speakers below both.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator

from distil_ray.errors import InputError
from distil_ray.readers.audio_files import AudioFileLister, special_file_counter
from distil_ray.readers.audio_formats import is_audio_name, is_utf8
from distil_ray.readers.base import ReadContext
from distil_ray.readers.manifest import COLUMNS, SPEAKER, read_manifest
from distil_ray.readers.path_resolution import PathResolver
from distil_ray.readers.references import FolderReferences, stem
from distil_ray.readers.row_errors import RowError, rows_to_recordings
from distil_ray.readers.row_files import TableHead, escape_surrogates, quote_short, read_head, read_lines
from distil_ray.storage.storage import Storage, join
from distil_ray.types import Recording

LJSPEECH_TABLE = "metadata.csv"
CLIPS = "clips"
COMMON_VOICE_TABLES = ("train.tsv", "validated.tsv", "test.tsv", "dev.tsv", "other.tsv", "invalidated.tsv")
VCTK_AUDIO = ("wav48_silence_trimmed", "wav48")
VCTK_TEXTS = "txt"
_MICROPHONE = re.compile(r"_(mic\d)$")


def is_ljspeech_head(head: TableHead) -> bool:
    cells = head.line.split("|")
    names = {name for known in COLUMNS.values() for name in known}
    return len(cells) in (2, 3) and " " not in cells[0] and not names & set(cells)


def is_ljspeech_folder(uri: str, storage: Storage) -> bool:
    table = join(uri, LJSPEECH_TABLE)
    return storage.stat(table) is not None and is_ljspeech_head(read_head(table, storage))


def read_ljspeech(uri: str, context: ReadContext) -> Iterator[Recording]:
    """``ID|text|normalized text`` a line, the audio in ``wavs/ID.wav``; the reference is the last text there is."""
    table = uri if context.storage.stat(uri) is not None else join(uri, LJSPEECH_TABLE)
    files = context.resolver_for(table, "wavs")
    lines = enumerate(read_lines(table, context.storage, strict=False), 1)
    rows = ((f"{table} line {number}", line) for number, line in lines if line.strip())
    recordings = rows_to_recordings(rows, lambda where, line: _ljspeech_line(where, line, files), _ljspeech_id, table)
    yield from files.locate(recordings)


def _ljspeech_id(line: str) -> str | None:
    name = line.split("|", maxsplit=1)[0].strip()
    return name if name and is_utf8(name) else None


def _ljspeech_line(where: str, line: str, files: PathResolver) -> Recording:
    name, *texts = (cell.strip() for cell in line.split("|"))
    if not name or len(texts) not in (1, 2) or not is_utf8(line):
        raise RowError(
            f"{where}: expected ID|text|normalized text in UTF-8, found {quote_short(escape_surrogates(line))}",
            is_unreadable=True,
        )
    path = name if is_audio_name(name) else f"{name}.wav"
    reference = next((text for text in reversed(texts) if text), "")
    return Recording(recording_id=name, uri=files.resolve(path, where, "id"), reference=reference)


def is_common_voice_head(head: TableHead) -> bool:
    return {"client_id", "path", "sentence"} <= set(head.columns)


def is_common_voice_folder(uri: str, storage: Storage) -> bool:
    return any(storage.stat(join(uri, name)) for name in COMMON_VOICE_TABLES) and storage.is_folder(join(uri, CLIPS))


def read_common_voice(uri: str, context: ReadContext) -> Iterator[Recording]:
    """The clips of one table. Raises `InputError` for the folder, whose tables overlap: one of them has to be named."""
    if context.storage.stat(uri) is None:
        tables = [name for name in COMMON_VOICE_TABLES if context.storage.stat(join(uri, name)) is not None]
        found = f"Name one of its tables: {', '.join(tables)}" if tables else "It has no table such as train.tsv"
        raise InputError(f"input.uri={uri}: is a folder of Common Voice, whose tables hold clips twice. {found}")
    yield from read_manifest(uri, context, below=CLIPS, columns={SPEAKER: "client_id"})


def is_vctk_folder(uri: str, storage: Storage) -> bool:
    return storage.is_folder(join(uri, VCTK_TEXTS)) and _vctk_audio(uri, storage) is not None


def _vctk_audio(uri: str, storage: Storage) -> str | None:
    return next((join(uri, name) for name in VCTK_AUDIO if storage.is_folder(join(uri, name))), None)


def read_vctk(uri: str, context: ReadContext) -> Iterator[Recording]:
    """Every file of every microphone, with the text that its utterance has below ``txt/`` and its speaker."""
    audio = _vctk_audio(uri, context.storage)
    if audio is None:
        raise InputError(f"input.uri={uri}: is no folder of VCTK: it has none of {', '.join(VCTK_AUDIO)}")
    speakers = _vctk_speakers(join(uri, "speaker-info.txt"), context)

    def beside(folder: str, *_: Iterable[object]) -> "_VctkTexts":
        return _VctkTexts(join(uri, VCTK_TEXTS, posixpath.basename(folder)), speakers, context)

    wanted = context.config.references == "auto"
    yield from AudioFileLister(context.storage, context.ignored, wanted, beside).folder(audio, root=uri)


class _VctkTexts:
    """References and speaker of one speaker's audio."""

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
    """What is said of each speaker, by number; nothing if there is no such table."""
    if context.storage.stat(uri) is None:
        return {}
    rows = (line.split() for line in read_lines(uri, context.storage))
    return {
        row[0].lstrip("p"): dict(zip(("age", "gender", "accent"), row[1:4], strict=False))
        for row in rows
        if len(row) >= 4
    }
