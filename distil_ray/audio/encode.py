"""Writes PCM16 as FLAC: what a part of a file's sound becomes when it has to be a file of its own."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from distil_ray.audio.pcm import PCM16, SAMPLE_RATE

OPUS_BIT_RATE = 16_000  # bits a second: clear for one voice
OPUS_FRAME_SAMPLES = SAMPLE_RATE  # samples that are handed over at once


@contextmanager
def open_flac_writer(target: Path | BinaryIO) -> Iterator[Callable[[PCM16], None]]:
    """A FLAC file, 16 kHz mono, on the disk or in memory, and what takes its samples, piece by piece."""
    with soundfile.SoundFile(target, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
        yield file.write


def encode_opus(pcm: PCM16) -> bytes:
    """The sound, 16 kHz mono, shape (num_samples,), as a whole file."""
    import av  # FLAC is written without it

    sink = io.BytesIO()
    with av.open(sink, "w", format="ogg") as container:
        options = {"application": "voip", "compression_level": "3"}  # a quarter of the time, and hardly to be heard
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono", options=options)
        stream.bit_rate = OPUS_BIT_RATE
        for start in range(0, len(pcm), OPUS_FRAME_SAMPLES):
            piece = np.ascontiguousarray(pcm[start : start + OPUS_FRAME_SAMPLES])[np.newaxis, :]
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.rate = SAMPLE_RATE
            frame.pts = start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sink.getvalue()
