"""What the audio modules hand each other: blocks as a decoder gives them, PCM16 as everything after it takes it, and
what a header says.

A `Block` has the file's own rate and channels; `PCM16` is always 16 kHz mono. The rounding here is the inverse of how
decoders widen 16-bit samples to float, so that a 16-bit 16 kHz mono file comes out with its very samples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distil_ray.errors import ErrorKind

SAMPLE_RATE = 16_000  # Hz; equal to schema.SAMPLE_RATE, which this folder does not import (it would load Arrow)
MAX_PIECE_SAMPLES = 10 * SAMPLE_RATE  # samples of PCM16 that are passed on at once, at most
MAX_BLOCK_VALUES = 1 << 18  # samples times channels that a reader gives at once: 1 MiB of float32

PCM16 = NDArray[np.int16]
Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """A stretch of a file's samples: float32 in [-1, 1], shape (num_samples, num_channels), at `rate` Hz.

    Where the file is 16-bit 16 kHz mono already, `samples` is int16 of shape (num_samples,) and needs no more work.
    """

    rate: int
    samples: Samples | PCM16


def block_frames(rate: int, channels: int) -> int:
    """Samples per channel of a block: about two seconds, in bounded memory."""
    return max(256, min(2 * rate, MAX_BLOCK_VALUES // channels))


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """How the decoding of one file ended.

    `num_samples` were yielded, at 16 kHz; `error_kind` is None if they are all there is. With a kind and samples the
    recording is partial, with a kind and none it failed. Flags: `antiphase` (channels canceled in their mean, the
    louder one was taken), `non_finite` (NaN or infinite samples became zeros), `clipped` (over 1 % of the samples were
    beyond full scale). `cpu_s`: CPU seconds that the decoder's process spent on it.
    """

    num_samples: int
    error_kind: ErrorKind | None
    error: str | None
    quality_flags: tuple[str, ...] = ()
    cpu_s: float = 0.0
