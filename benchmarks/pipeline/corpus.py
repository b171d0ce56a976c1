"""A corpus of a given length in a given format, made of real speech that is repeated.

Recordings of equal length are cut out of all the speech there is, laid end to end and begun again; a few different
ones are encoded, the others are links to these: decoding does not know the difference, and the disk is spared. FLAC
and WAV are 16 kHz mono, MP3 is 44.1 kHz mono at libsndfile's default quality, so that it has to be resampled as most
MP3s have. Each has a reference beside it.
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
    """Fills `folder`, which must not exist; gives the seconds of audio in it.

    `speech`: int16, 16 kHz mono, of any length but zero. Raises KeyError for a format that is not in `RATES`.
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
