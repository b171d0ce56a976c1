"""Converts a stream of blocks to 16 kHz mono PCM16: mixes channels, resamples, rounds.

Each step handles one block at a time and keeps almost no state. The rounding is the inverse of how decoders widen
16-bit samples to float, so that a 16-bit 16 kHz mono file is decoded to exactly its own samples.
"""

from typing import cast

import numpy as np

from distil_ray.audio.pcm import PCM16, Samples
from distil_ray.types import SAMPLE_RATE

# Energy of the channels' sum divided by the sum of their energies: 0 in antiphase, 1 for unrelated channels or a single
# active one, n for n equal ones. Below a fifth the mean is 7 dB weaker than even unrelated channels would make it.
ANTIPHASE_RATIO = 0.2
SILENCE = 1e-7  # mean square of the channels (-70 dBFS) below which a block does not show their phase
SWITCH_RATIO = 2.0  # energy ratio at which another channel replaces the selected one: avoids switching to and fro
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; a header with a rate outside is wrong


class NoChannelError(Exception):
    """The file does not have the requested channel."""


class ChannelMixer:
    """Mixes the channels of a stream of blocks to one.

    The result is the mean of the channels. It never clips, and keeps what is on one channel only, at 1/n of its level,
    which does not matter to Whisper's normalized features. Channels in antiphase (one microphone with swapped wires)
    cancel in a mean: then the loudest channel is taken. This is decided for each block, and kept during silence.

    Args:
        only: Channel to take alone, counted from 0; None: mix all.

    Attributes:
        has_antiphase: True once channels have canceled.
    """

    def __init__(self, only: int | None = None) -> None:
        self.has_antiphase = False
        self._only = only
        self._channel: int | None = None  # taken alone while the channels cancel

    def require(self, channels: int) -> None:
        """Raises `NoChannelError` if the requested channel is not among this many channels."""
        if self._only is not None and self._only >= channels:
            raise NoChannelError(f"channel {self._only} is requested (counted from 0), and it has {channels}")

    def mix(self, samples: Samples) -> Samples:
        """Returns one channel of a block.

        Args:
            samples: float32, finite, shape (num_samples, num_channels).

        Returns:
            float32, shape (num_samples,).

        Raises:
            NoChannelError: The requested channel does not exist.
        """
        channels = samples.shape[1]
        self.require(channels)
        if self._only is not None:
            return np.ascontiguousarray(samples[:, self._only])
        if channels == 1:
            return samples[:, 0]
        if self._channel is not None and self._channel >= channels:
            self._channel = None
        products = samples.T @ samples  # the diagonal holds the energies, the rest what the channels have in common
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


class Resampler:
    """Resamples a mono stream to 16 kHz with soxr at high quality.

    n samples give round(n * 16000 / rate) samples in all, plus or minus one. 16 kHz passes through unchanged. soxr's
    own int16 mode is not used because it dithers.

    Args:
        rate: Sample rate of the stream in Hz.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._stream = None
        if rate != SAMPLE_RATE:
            import soxr  # loaded only for files of other rates

            self._stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def push(self, mono: Samples) -> Samples:
        """Takes float32 samples, shape (num_samples,), and returns those at 16 kHz that are ready."""
        return mono if self._stream is None else cast(Samples, self._stream.resample_chunk(mono))

    def finish(self) -> Samples:
        """Returns what the filter still holds. Nothing may be pushed after it."""
        empty = np.zeros(0, np.float32)
        return empty if self._stream is None else cast(Samples, self._stream.resample_chunk(empty, last=True))


def to_pcm16(mono: Samples) -> tuple[PCM16, int]:
    """Rounds float32 samples, shape (num_samples,), to 16 bits.

    Returns:
        int16 samples of the same shape, and the number of samples that were beyond full scale.
    """
    scaled = mono * np.float32(32768)
    np.rint(scaled, out=scaled)
    limited = np.clip(scaled, -32768, 32767)
    over = int(np.count_nonzero(np.abs(scaled - limited) > 1))  # +1.0 itself is one step too high, and no error
    return limited.astype(np.int16), over
