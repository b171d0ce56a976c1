"""Types of decoded audio: blocks as a backend reads them, PCM16 pieces and the result that `decode_file` yields.

An `AudioBlock` has the file's own sample rate and channels. `PCM16` is always 16 kHz mono.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distil_ray.errors import ErrorKind
from distil_ray.types import SAMPLE_RATE

MAX_PIECE_SAMPLES = 10 * SAMPLE_RATE  # longest piece of PCM16 that is yielded at once
DETECTION_SAMPLES = 30 * SAMPLE_RATE  # that a language is detected from, at most
MAX_BLOCK_VALUES = 1 << 18  # samples times channels of the largest block: 1 MiB of float32

PCM16 = NDArray[np.int16]
Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """A run of a file's samples at the file's own rate.

    Attributes:
        rate: Sample rate in Hz.
        samples: float32 in [-1, 1], shape (num_samples, num_channels). In a file that is 16-bit 16 kHz mono already:
            int16, shape (num_samples,), which needs no conversion.
    """

    rate: int
    samples: Samples | PCM16


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """Result of decoding a file or a segment of it.

    Attributes:
        num_samples: Samples at 16 kHz that were yielded.
        error_kind: None if these are all there is. With samples the recording is partial, without any it failed.
        error: Message for people, in terms of the file's content; None without an error.
        quality_flags: ``antiphase`` (channels canceled in their mean, so the louder one was taken), ``non_finite`` (NaN
            or infinite samples became zeros), ``clipped`` (over 1 % of the samples were beyond full scale).
        cpu_s: CPU seconds that the decoder process spent.
    """

    num_samples: int
    error_kind: ErrorKind | None
    error: str | None
    quality_flags: tuple[str, ...] = ()
    cpu_s: float = 0.0


def block_frames(rate: int, channels: int) -> int:
    """Returns the samples per channel of a block: about two seconds, bounded by `MAX_BLOCK_VALUES`."""
    return max(256, min(2 * rate, MAX_BLOCK_VALUES // channels))


def loudest_stretch(pcm: PCM16) -> PCM16:
    """Returns the loudest `DETECTION_SAMPLES` of those that follow each other; all of `pcm` if it is shorter.

    The last stretch ends with `pcm`.
    """
    if len(pcm) <= DETECTION_SAMPLES:
        return pcm
    starts = [*range(0, len(pcm) - DETECTION_SAMPLES, DETECTION_SAMPLES), len(pcm) - DETECTION_SAMPLES]
    stretches = [pcm[start : start + DETECTION_SAMPLES] for start in starts]
    return max(stretches, key=lambda each: float(np.mean(np.square(each, dtype=np.float32))))
