"""Writes PCM16 as FLAC: what a part of a file's sound becomes when it has to be a file of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import soundfile

from distil_ray.audio.pcm import PCM16, SAMPLE_RATE


@contextmanager
def create_flac(target: Path | BinaryIO) -> Iterator[Callable[[PCM16], None]]:
    """A FLAC file, 16 kHz mono, on the disk or in memory, and what takes its samples, piece by piece."""
    with soundfile.SoundFile(target, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
        yield file.write
