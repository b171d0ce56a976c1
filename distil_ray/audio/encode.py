"""Encodes 16 kHz mono PCM16 as FLAC (lossless, for exported audio) and as Ogg Opus (small, for web pages)."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from distil_ray.audio.pcm import PCM16
from distil_ray.types import SAMPLE_RATE

OPUS_BIT_RATE = 16_000  # bits per second (2 kB): clear for one voice
OPUS_FRAME_SAMPLES = SAMPLE_RATE  # samples handed to the encoder at once


@contextmanager
def open_flac_writer(target: Path | BinaryIO) -> Iterator[Callable[[PCM16], None]]:
    """Opens a FLAC file, on disk or in memory, and yields a function that appends samples to it."""
    with soundfile.SoundFile(target, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
        yield file.write


def encode_opus(pcm: PCM16) -> bytes:
    """Returns the samples, shape (num_samples,), as the bytes of an Ogg Opus file."""
    import av  # not needed for FLAC

    sink = io.BytesIO()
    with av.open(sink, "w", format="ogg") as container:
        options = {"application": "voip", "compression_level": "3"}  # a quarter of the time, hardly audible
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
