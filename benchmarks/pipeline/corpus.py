"""A synthetic corpus of a given duration and format, made from real speech that is repeated.

All speech is concatenated and repeated, and recordings of equal length are cut from it. Only 16 different ones are
encoded; the others are hard links to these, which costs the decoder the same and saves disk space. FLAC and WAV are
16 kHz mono. MP3 is 44.1 kHz mono at libsndfile's default quality, so that it has to be resampled as most MP3 files
have. Each recording has a reference beside it.
"""

import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from benchmarks.pipeline.null_model import WORDS, WORDS_PER_S
from distil_ray.audio.pcm import PCM16
from distil_ray.types import SAMPLE_RATE

RATES = {"flac": SAMPLE_RATE, "wav": SAMPLE_RATE, "mp3": 44_100}  # Hz
DIFFERENT = 16  # recordings that are encoded


def build_corpus(speech: PCM16, audio_format: str, recording_s: float, num_recordings: int, folder: Path) -> float:
    """Writes a corpus.

    Args:
        speech: int16 samples, 16 kHz mono, not empty.
        audio_format: A key of `RATES`.
        recording_s: Duration of each recording, in seconds.
        num_recordings: Number of recordings.
        folder: Target folder; must not exist.

    Returns:
        Seconds of audio in the corpus.

    Raises:
        KeyError: The format is unknown.
    """
    rate = RATES[audio_format]
    folder.mkdir(parents=True)
    samples = round(recording_s * SAMPLE_RATE)
    reference = " ".join(WORDS[-1 - i % len(WORDS)] for i in range(round(recording_s * WORDS_PER_S)))
    for number in range(num_recordings):
        path = folder / f"recording-{number:05d}.{audio_format}"
        if number < DIFFERENT:
            pcm = np.take(speech, np.arange(number * samples, (number + 1) * samples), mode="wrap")
            resampled = pcm if rate == SAMPLE_RATE else soxr.resample(pcm, SAMPLE_RATE, rate)
            soundfile.write(path, resampled, rate, format=audio_format.upper())
        else:
            os.link(folder / f"recording-{number % DIFFERENT:05d}.{audio_format}", path)
        path.with_suffix(".txt").write_text(reference)
    return num_recordings * samples / SAMPLE_RATE
