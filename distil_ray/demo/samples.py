"""The corpus of the demo: sample recordings, one long recording, two broken files, and a manifest.

Recordings keep their published formats (FLAC, WAV, MP3, Opus; 16 to 48 kHz). The long recording joins the English clips
in the order of the table with short pauses, so that its reference is exact; no package contains a recording of several
minutes with a reference. The broken files show the result of such input: one row per file, with the error.
"""

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile

from distil_ray.audio.decode import decode_file
from distil_ray.audio.pcm import PCM16, DecodeResult
from distil_ray.demo import archives
from distil_ray.demo.archives import Archive
from distil_ray.demo.clips import CLIPS, Clip
from distil_ray.types import SAMPLE_RATE

MANIFEST = "manifest.jsonl"
VERSION = "VERSION"  # file with the hash of the clips and `RECIPE`; written last
RECIPE = 2  # incremented when the files that are made from the clips change

LONG_RECORDING = "joined-english.flac"
PAUSE_S = 0.5  # silence between two clips of the long recording
HEADER_ONLY = "header-only.flac"
ERROR_PAGE = "error-page.mp3"
# Typical content of a file that a download script saved for a URL that no longer exists.
ERROR_PAGE_CONTENT = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Gone</body></html>\n"
FLAC_STREAMINFO_END = 42  # bytes: "fLaC", block header (4), STREAMINFO (34), which declares the number of samples


@dataclass(frozen=True, slots=True)
class Samples:
    """A corpus on disk: `folder` contains the files and their manifest; `audio_s` is in seconds."""

    folder: Path
    num_recordings: int
    num_broken: int
    audio_s: float

    @property
    def manifest(self) -> Path:
        """Path of the manifest."""
        return self.folder / MANIFEST


def build_samples(folder: Path, clips: Sequence[Clip] = CLIPS) -> Samples:
    """Builds the corpus in `folder`, unless the same corpus is already there.

    Raises:
        RunError: A package cannot be downloaded or is not the expected file.
    """
    version = hashlib.sha256(repr((RECIPE, tuple(clips))).encode()).hexdigest()
    stamp = folder / VERSION
    if not (stamp.exists() and stamp.read_text() == version):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=".samples-") as temporary:
            staging = Path(temporary, folder.name)
            staging.mkdir()
            _extract(clips, staging, Path(temporary))
            _write_long_recording([clip for clip in clips if clip.language == "en"], staging)
            _write_broken(clips, staging)
            _write_manifest(clips, staging)
            (staging / VERSION).write_text(version)
            shutil.rmtree(folder, ignore_errors=True)
            staging.rename(folder)
    return _load_samples(folder)


def _extract(clips: Sequence[Clip], folder: Path, downloads: Path) -> None:
    """Downloads the archives into `downloads` and writes the clips to `folder`."""
    wanted: dict[Archive, dict[str, Clip]] = defaultdict(dict)
    for clip in clips:
        wanted[clip.archive][clip.member] = clip
    for archive, path in archives.download_archives(list(wanted), downloads):
        for member, content in archives.read_members(path, wanted[archive]):
            (folder / wanted[archive][member].name).write_bytes(content)


def _write_long_recording(clips: Sequence[Clip], folder: Path) -> None:
    """Joins clips into one 16 kHz mono FLAC."""
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE), dtype=np.int16)
    pieces = [piece for clip in clips for piece in (*_pcm(folder / clip.name), pause)]
    soundfile.write(folder / LONG_RECORDING, np.concatenate(pieces[:-1]), SAMPLE_RATE)


def _pcm(path: Path) -> list[PCM16]:
    return [piece for piece in decode_file(str(path)) if not isinstance(piece, DecodeResult)]


def _write_broken(clips: Sequence[Clip], folder: Path) -> None:
    """Writes a FLAC that ends after its header, and a web page saved as MP3."""
    source = next(clip.name for clip in clips if clip.name.endswith(".flac"))
    header = bytearray((folder / source).read_bytes()[:FLAC_STREAMINFO_END])
    header[4] |= 0x80  # flag "last metadata block": the header is complete, but the audio is missing
    (folder / HEADER_ONLY).write_bytes(header)
    (folder / ERROR_PAGE).write_bytes(ERROR_PAGE_CONTENT)


def _write_manifest(clips: Sequence[Clip], folder: Path) -> None:
    lines = [json.dumps(line, ensure_ascii=False) for line in _manifest(clips, folder)]
    (folder / MANIFEST).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _manifest(clips: Sequence[Clip], folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the lines of the manifest; broken files have neither a duration nor a reference."""
    for clip in clips:
        yield {
            "id": Path(clip.name).stem,
            "uri": clip.name,
            "duration": _duration(folder / clip.name),
            "language": clip.language,
            "reference": clip.reference,
            **({"speaker": clip.speaker} if clip.speaker else {}),
            "source": f"{clip.archive.package}=={clip.archive.version}",
            "license": clip.license,
        }
    english = [clip for clip in clips if clip.language == "en"]
    yield {
        "id": Path(LONG_RECORDING).stem,
        "uri": LONG_RECORDING,
        "duration": _duration(folder / LONG_RECORDING),
        "language": "en",
        "reference": " ".join(clip.reference for clip in english),
        "speaker": "several",
        "source": f"{len(english)} of these recordings, one after the other",
    }
    for name, made_as in ((HEADER_ONLY, "a FLAC cut off after its header"), (ERROR_PAGE, "a web page saved as MP3")):
        yield {"id": Path(name).stem, "uri": name, "source": made_as}


def _duration(path: Path) -> float:
    info = soundfile.info(path)
    return round(float(info.frames / info.samplerate), 3)


def _load_samples(folder: Path) -> Samples:
    lines = [json.loads(line) for line in (folder / MANIFEST).read_text(encoding="utf-8").splitlines()]
    durations = [line["duration"] for line in lines if "duration" in line]
    return Samples(folder, len(durations), len(lines) - len(durations), sum(durations))
