"""Writes PCM16 as Ogg Opus: small sound for a page that people listen to, 2 kB a second."""

import io

import av
import numpy as np

from distil_ray.audio.pcm import PCM16, SAMPLE_RATE

BIT_RATE = 16_000  # bits a second: clear for one voice
FRAME = SAMPLE_RATE  # samples that are handed over at once


def opus_bytes(pcm: PCM16) -> bytes:
    """The sound, 16 kHz mono, shape (num_samples,), as a whole file."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="ogg") as container:
        options = {"application": "voip", "compression_level": "3"}  # a quarter of the time, and hardly to be heard
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono", options=options)
        stream.bit_rate = BIT_RATE
        for start in range(0, len(pcm), FRAME):
            piece = np.ascontiguousarray(pcm[start : start + FRAME])[np.newaxis, :]
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.rate = SAMPLE_RATE
            frame.pts = start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sink.getvalue()
