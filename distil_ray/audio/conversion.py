"""Any number of channels to one: a single one of them, or their mean, unless they cancel in it.

The mean never clips and keeps what is on one side only (at 1/n of its level, which Whisper's normalized features do not
mind). Channels in antiphase (one microphone wired the wrong way round) vanish in a mean; then the louder channel is
taken. Judged stretch by stretch, a block each, and kept through silence, where there is nothing to judge by.
"""

from typing import cast

import numpy as np

from distil_ray.audio.pcm import PCM16, SAMPLE_RATE, Samples

# The sum's energy against the sum of the energies: 0 in antiphase, 1 for unrelated channels or a single one that
# speaks, n for n equal ones. Below a fifth the mean is 7 dB weaker than even unrelated channels would make it.
ANTIPHASE_RATIO = 0.2
SILENCE = 1e-7  # mean square (-70 dBFS) of the channels below which a stretch says nothing about their phase
SWITCH_RATIO = 2.0  # energy ratio at which another channel takes over from the one chosen before: no changes to and fro


class NoChannelError(Exception):
    """The channel that is wanted is not there."""


class ChannelMixer:
    """Mixes a stream of blocks down to mono, or takes `only` one channel, counted from 0, of it; `antiphase` tells
    whether channels that were mixed ever canceled."""

    def __init__(self, only: int | None = None) -> None:
        self.has_antiphase = False
        self._only = only
        self._channel: int | None = None  # taken alone while the channels cancel

    def require(self, channels: int) -> None:
        """Raises `NoChannelError` if what is wanted is not among so many channels."""
        if self._only is not None and self._only >= channels:
            raise NoChannelError(f"channel {self._only} is wanted (counted from 0), and it has {channels}")

    def mix(self, samples: Samples) -> Samples:
        """float32, finite, shape (num_samples, num_channels) -> float32, shape (num_samples,). Raises
        `NoChannelError`."""
        channels = samples.shape[1]
        self.require(channels)
        if self._only is not None:
            return np.ascontiguousarray(samples[:, self._only])
        if channels == 1:
            return samples[:, 0]
        if self._channel is not None and self._channel >= channels:
            self._channel = None
        products = samples.T @ samples  # the energies on the diagonal, and what the channels have in common beside it
        energies = np.diagonal(products)
        total = float(energies.sum())
        if total > SILENCE * samples.size:
            self._update_channel(float(products.sum()) / total, energies)
        if self._channel is not None:
            return np.ascontiguousarray(samples[:, self._channel])
        return samples @ np.full(channels, 1 / channels, np.float32)

    def _update_channel(self, ratio: float, energies: Samples) -> None:
        if ratio >= ANTIPHASE_RATIO:
            self._channel = None
            return
        self.has_antiphase = True
        loudest = int(energies.argmax())
        if self._channel is None or energies[loudest] > SWITCH_RATIO * energies[self._channel]:
            self._channel = loudest


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


def to_pcm16(mono: Samples) -> tuple[PCM16, int]:
    """float32, shape (num_samples,) -> int16 of the same shape, rounded; and how many samples lay beyond full scale."""
    scaled = mono * np.float32(32768)
    np.rint(scaled, out=scaled)
    limited = np.clip(scaled, -32768, 32767)
    over = int(np.count_nonzero(np.abs(scaled - limited) > 1))  # +1.0 itself is one step too high, and no fault
    return limited.astype(np.int16), over
