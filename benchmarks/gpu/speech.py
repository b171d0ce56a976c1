"""Speech for the gpu command, read with little more than the standard library, and a plain word error rate.

The GPU machine may have only torch, transformers and numpy: WAV files need no package, FLAC needs soundfile. Texts are
normalized to words of letters and digits. The rate compares dtypes on the same texts; it is not comparable with
published figures.
"""

import json
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distil_ray.errors import SettingsError
from distil_ray.evaluation.typography import unify_typography
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.features import MAX_SAMPLES

PCM16 = NDArray[np.int16]
AUDIO_EXTENSIONS = (".wav", ".flac")


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording of at most 30 s: int16 samples, 16 kHz mono, and its reference, if known."""

    pcm: PCM16
    reference: str | None


def read_clips(source: str, num: int) -> list[Clip]:
    """Returns the first `num` recordings of at most 30 s.

    Args:
        source: Folder of WAV or FLAC files, or JSON-lines manifest with `uri` (absolute, or relative to the manifest)
            and
            `reference` or `text`.
        num: Maximum number of clips.

    Raises:
        SettingsError: There is no such source, or no recording fits.
    """
    path = Path(source)
    if path.is_dir():
        listed: list[tuple[Path, str | None]] = [(file, None) for file in sorted(path.rglob("*")) if _is_audio(file)]
    elif path.is_file():
        listed = [_entry(line, path.parent) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        raise SettingsError(f"speech={source}: no such folder or manifest")
    clips: list[Clip] = []
    for file, reference in listed:
        if len(clips) == num:
            break
        pcm = _read(file) if _is_audio(file) else None
        if pcm is not None and len(pcm) <= MAX_SAMPLES:
            clips.append(Clip(pcm, reference))
    if not clips:
        raise SettingsError(f"speech={source}: no WAV or FLAC file of at most 30 s, 16 kHz, mono, 16 bits there")
    return clips


def make_noise(num: int, seconds: float) -> list[PCM16]:
    """Returns noise of varying loudness, the input for random weights."""
    noise = np.random.default_rng(0)
    length = round(seconds * SAMPLE_RATE)
    swell = np.sin(np.arange(length) * (2 * np.pi * 3 / SAMPLE_RATE)) * 2000
    kinds = [(noise.standard_normal(length) * swell).astype(np.int16) for _ in range(min(num, 8))]
    return [kinds[i % len(kinds)] for i in range(num)]


def normalize_words(text: str) -> list[str]:
    """Returns casefolded words of letters and digits; an apostrophe belongs to its word."""
    folded = unify_typography(text).casefold()
    return "".join(letter if letter.isalnum() or letter == "'" else " " for letter in folded).split()


def count_word_errors(reference: Sequence[str], found: Sequence[str]) -> int:
    """Returns the substitutions, deletions and insertions of the cheapest alignment of two word sequences."""
    row = list(range(len(found) + 1))
    for i, word in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(found, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


def _entry(line: str, folder: Path) -> tuple[Path, str | None]:
    row = json.loads(line)
    return folder / row["uri"], row.get("reference", row.get("text"))


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in AUDIO_EXTENSIONS


def _read(path: Path) -> PCM16 | None:
    """Returns all samples; None unless they are 16 kHz, mono, 16 bits."""
    if path.suffix.lower() != ".wav":
        return _read_flac(path)
    with wave.open(str(path), "rb") as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (SAMPLE_RATE, 1, 2):
            return None
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def _read_flac(path: Path) -> PCM16 | None:
    try:
        import soundfile
    except ImportError as error:
        raise SettingsError(f"{path}: FLAC needs the package soundfile; give WAV files where it is missing") from error
    pcm, rate = soundfile.read(path, dtype="int16")
    return pcm if rate == SAMPLE_RATE and pcm.ndim == 1 else None
