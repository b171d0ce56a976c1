"""Test clips for the benchmarks: recordings with references, written as 16 kHz WAV files.

The sets are short clips of 3 to 30 s and long recordings of more than 45 s (`prepare_clips`), or those that a column of
the manifest names (`list_sets`).
"""

import math
import os
import random
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.comparison.catalog import LONG, SHORT
from distil_ray.audio.decode import decode_file
from distil_ray.audio.pcm import PCM16, DecodeResult
from distil_ray.config import InputConfig, StorageConfig
from distil_ray.errors import SettingsError
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import is_remote
from distil_ray.types import SAMPLE_RATE, Recording

SHORT_S = (3.0, 30.0)  # seconds: a second of speech says little about speed or errors
LONG_FROM_S = 45.0
SEED = 0  # of every order and choice

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording of a set.

    Attributes:
        clip_id: Id of the recording.
        path: Its WAV file, 16 kHz mono PCM16.
        audio_s: Duration in seconds.
        reference: Reference text.
        language: Its code; None if unknown.
        speaker: Name of the speaker; None if unknown.
    """

    clip_id: str
    path: Path
    audio_s: float
    reference: str
    language: str | None = None
    speaker: str | None = None


ClipSets = dict[str, list[Clip]]


def prepare_clips(source: str, folder: Path, language: str, limits: dict[str, int], long_s: float = 0.0) -> ClipSets:
    """Selects recordings, decodes them and writes them as WAV files.

    Args:
        source: Folder, glob or manifest; empty for the demo's samples.
        folder: Folder below which the files are written.
        language: Only recordings in this language, or without one, are taken.
        limits: Maximum number of clips of each set.
        long_s: Maximum duration of a long recording, in seconds.

    Returns:
        The clips of each set that is not empty, sorted by id.

    Raises:
        SettingsError: No recording fits.
    """
    sets: ClipSets = {name: [] for name in limits}
    for recording in _candidates(source, folder, language):
        if all(len(sets[name]) >= limit for name, limit in limits.items()):
            break
        name = _set_of(recording.duration_s, long_s) if recording.duration_s else None
        if recording.duration_s and (name not in limits or len(sets[name]) >= limits[name]):
            continue
        pcm = decode_audio(recording.uri)
        name = _set_of(len(pcm) / SAMPLE_RATE, long_s)
        if name in limits and len(sets[name]) < limits[name]:
            sets[name].append(write_clip(recording, pcm, folder))
    found = {name: sorted(clips, key=lambda clip: clip.clip_id) for name, clips in sets.items() if clips}
    if not found:
        raise SettingsError(f"clips={source}: no recording in {language} with a reference and of a fitting length")
    return found


def list_sets(
    source: str, folder: Path, column: str, sets: Sequence[str], share: float, languages: Sequence[str]
) -> dict[str, list[Recording]]:
    """Returns the recordings of each set in random order, the same every time.

    Args:
        source: Folder, glob or manifest; empty for the demo's samples.
        folder: Folder for the demo's samples.
        column: Metadata column that names the set; recordings without it are in the set "all".
        sets: Sets to list; empty for all.
        share: Share of each set, rounded up. A larger share contains the smaller ones.
        languages: Languages to list. A recording without one counts as English.
    """
    listed: dict[str, list[Recording]] = {}
    for recording in list_local_recordings(source, folder):
        name = recording.metadata.get(column, "all")
        if (not sets or name in sets) and (recording.language or "en") in languages:
            listed.setdefault(name, []).append(recording)
    return {name: draw_sample(members, math.ceil(share * len(members))) for name, members in listed.items()}


def draw_sample(items: Sequence[T], number: int) -> list[T]:
    """Returns at most `number` items in random order, with a fixed seed; a larger sample contains the smaller ones."""
    return random.Random(SEED).sample(items, len(items))[:number]


def write_clip(recording: Recording, pcm: PCM16, folder: Path) -> Clip:
    """Writes a recording as a WAV file below `folder`."""
    path = folder / "clips" / f"{recording.recording_id.replace('/', '_')}.wav"
    write_wav(path, pcm)
    return Clip(
        recording.recording_id,
        path,
        len(pcm) / SAMPLE_RATE,
        recording.reference or "",
        recording.language,
        recording.metadata.get("speaker"),
    )


def _candidates(source: str, folder: Path, language: str) -> list[Recording]:
    listed = [
        recording
        for recording in list_local_recordings(source, folder)
        if recording.reference and recording.language in (None, language)
    ]
    listed.sort(key=lambda recording: recording.recording_id)
    random.Random(SEED).shuffle(listed)
    return listed


def list_local_recordings(source: str, folder: Path) -> Iterator[Recording]:
    """Yields the recordings of `source`; if it is empty, those of the demo's samples, which are built below `folder`.

    Raises:
        SettingsError: A recording is not a local file.
    """
    if not source:
        from distil_ray.demo import samples

        source = str(samples.build_samples(folder / "samples").manifest)
    for recording in list_recordings(InputConfig(uri=(source,), allow_external_paths=True), Storage(StorageConfig())):
        if is_remote(recording.uri):
            raise SettingsError(f"{recording.uri}: the benchmarks read local files only")
        yield recording


def _set_of(audio_s: float, long_s: float) -> str | None:
    if SHORT_S[0] <= audio_s <= SHORT_S[1]:
        return SHORT
    return LONG if LONG_FROM_S < audio_s <= long_s else None


def decode_audio(path: str) -> PCM16:
    """Returns all samples of a file, 16 kHz mono; an empty array if it cannot be read."""
    pieces = [piece for piece in decode_file(path) if not isinstance(piece, DecodeResult)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)


def write_wav(path: Path, pcm: PCM16) -> None:
    """Writes samples as a WAV file, which is there only as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    with wave.open(str(unfinished), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(pcm.tobytes())
    unfinished.replace(path)
