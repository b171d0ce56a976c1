"""What the audio modules hand each other: blocks as a decoder gives them, PCM16 as everything after it takes it, and
what a header says.

A `Block` has the file's own rate and channels; `PCM16` is always 16 kHz mono. The rounding here is the inverse of how
decoders widen 16-bit samples to float, so that a 16-bit 16 kHz mono file comes out with its very samples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000  # Hz; equal to schema.SAMPLE_RATE, which this folder does not import (it would load Arrow)
MAX_PIECE = 10 * SAMPLE_RATE  # samples of PCM16 that are passed on at once, at most
MAX_BLOCK_VALUES = 1 << 18  # samples times channels that a reader gives at once: 1 MiB of float32

PCM16 = NDArray[np.int16]
Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a file's samples: float32 in [-1, 1], shape (num_samples, num_channels), at `rate` Hz.

    Where the file is 16-bit 16 kHz mono already, `samples` is int16 of shape (num_samples,) and needs no more work.
    """

    rate: int
    samples: Samples | PCM16


@dataclass(frozen=True, slots=True)
class SoundFacts:
    """How a file was recorded, by its header. `rate` in Hz; `duration_s` may be an estimate, None where nothing tells
    it."""

    rate: int
    num_channels: int
    duration_s: float | None


def block_frames(rate: int, channels: int) -> int:
    """Samples per channel of a block: about two seconds, in bounded memory."""
    return max(256, min(2 * rate, MAX_BLOCK_VALUES // channels))


def to_pcm16(mono: Samples) -> tuple[PCM16, int]:
    """float32, shape (num_samples,) -> int16 of the same shape, rounded; and how many samples lay beyond full scale."""
    scaled = mono * np.float32(32768)
    np.rint(scaled, out=scaled)
    limited = np.clip(scaled, -32768, 32767)
    over = int(np.count_nonzero(np.abs(scaled - limited) > 1))  # +1.0 itself is one step too high, and no fault
    return limited.astype(np.int16), over
