"""Speech for the GPU's benchmark, read with little more than the standard library, and a plain word error rate.

The machine that lends its GPU may have torch, transformers and numpy and nothing else: WAV files need no package, other
formats need soundfile. Texts are folded to words of letters and digits; the rate serves to compare number types with
each other on the same texts, not with other people's figures.
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
    """A recording of at most 30 s: int16 `pcm`, 16 kHz mono, and what is said in it, if that is known."""

    pcm: PCM16
    reference: str | None


def read_clips(source: str, num: int) -> list[Clip]:
    """The first `num` recordings of at most 30 s.

    `source`: a folder of WAV or FLAC files, or a JSON-lines manifest with `uri` (beside the manifest, or whole) and
    `reference` or `text`. Raises `SettingsError`, which names what is wrong.
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
    """Noise, of a loudness that comes and goes: what random weights are given."""
    noise = np.random.default_rng(0)
    length = round(seconds * SAMPLE_RATE)
    swell = np.sin(np.arange(length) * (2 * np.pi * 3 / SAMPLE_RATE)) * 2000
    kinds = [(noise.standard_normal(length) * swell).astype(np.int16) for _ in range(min(num, 8))]
    return [kinds[i % len(kinds)] for i in range(num)]


def normalize_words(text: str) -> list[str]:
    """Letters and digits, folded; an apostrophe belongs to its word."""
    folded = unify_typography(text).casefold()
    return "".join(letter if letter.isalnum() or letter == "'" else " " for letter in folded).split()


def count_word_errors(reference: Sequence[str], found: Sequence[str]) -> int:
    """Substitutions, deletions and insertions of the cheapest alignment of two sequences of words."""
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
    """All samples; None unless they are 16 kHz, mono, 16 bits."""
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
