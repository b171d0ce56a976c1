"""Any rate to 16 kHz, streamed, with soxr at high quality.

Keeps no more than the filter's length between calls. n samples give round(n * 16000 / rate) in all, give or take one;
16 kHz passes through untouched. soxr's own int16 mode is not used: it dithers.
"""

from typing import cast

import numpy as np

from distil_ray.audio.pcm import SAMPLE_RATE, Samples

MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; beyond these a header is wrong, and its audio would have no sane length


class Resampler:
    """One mono stream of `rate` Hz to 16 kHz."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._stream = None
        if rate != SAMPLE_RATE:
            import soxr  # only files of other rates pay for loading it

            self._stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def push(self, mono: Samples) -> Samples:
        """float32, shape (num_samples,) at `rate` -> float32 at 16 kHz, as much of it as is ready."""
        return mono if self._stream is None else cast(Samples, self._stream.resample_chunk(mono))

    def finish(self) -> Samples:
        """What the filter still holds. Nothing may be pushed after it."""
        empty = np.zeros(0, np.float32)
        return empty if self._stream is None else cast(Samples, self._stream.resample_chunk(empty, last=True))
