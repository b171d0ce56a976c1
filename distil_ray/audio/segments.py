"""Segments of a file: which samples are requested, and how they are taken out of the stream.

All positions are samples at 16 kHz, counted from the file's start as decoding the whole of it would count them.
`SegmentExtractor` cuts one segment out of a stream while it is decoded. What lies before the segment a backend may
skip, as far as `SegmentExtractor.skip` says: to a place at which the resampler's output falls on whole samples, and a
little early, because the filter looks back. So a segment of a 16 kHz file has exactly the samples of the whole file; at
other rates about one sample in a thousand differs by one step of the 16 bits, because the resampler's sums are rounded
elsewhere. `extract_spans` takes several spans, for example chunks, out of the resulting PCM.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from distil_ray.audio.pcm import PCM16, DecodeResult
from distil_ray.types import SAMPLE_RATE

PREROLL_S = 0.1  # decoded before a segment: several times the length of the resampler's filter
END_TOLERANCE = SAMPLE_RATE // 10  # samples by which a segment may exceed the file: manifests round their times

Value = TypeVar("Value", np.int16, np.float32)


@dataclass(frozen=True, slots=True)
class AudioSegment:
    """A part of a file.

    Attributes:
        start: First sample, at 16 kHz.
        length: Number of samples; None: up to the end.
        channel: Channel to take alone, counted from 0; None: all channels, mixed.
    """

    start: int = 0
    length: int | None = None
    channel: int | None = None

    @property
    def is_segment(self) -> bool:
        """True if this is less than the file's whole length."""
        return self.start > 0 or self.length is not None


WHOLE_FILE = AudioSegment()


class SegmentExtractor:
    """Takes one segment out of one stream.

    Attributes:
        position: Position of the next sample of the stream.
    """

    def __init__(self, segment: AudioSegment) -> None:
        self.position = 0
        self._start = segment.start
        self._end = math.inf if segment.length is None else segment.start + segment.length
        self._length = segment.length
        self._block_s = 0.0  # start of the next block in the file

    @property
    def start_s(self) -> float:
        """Start of the segment in the file, in seconds."""
        return self._start / SAMPLE_RATE

    @property
    def end_s(self) -> float:
        """End of the segment in the file, in seconds; infinite if it ends with the file."""
        return self._end / SAMPLE_RATE

    @property
    def is_over(self) -> bool:
        """True once the whole segment has been taken."""
        return self.position >= self._end

    @property
    def has_begun(self) -> bool:
        """True once the stream has reached the segment."""
        return self.position >= self._start

    def skip(self, rate: int) -> int:
        """Returns how many frames at `rate` Hz the backend has to skip. `position` moves behind them."""
        if not self._start or rate <= 0:  # a rate of 0 is reported by the backend
            return 0
        grid = rate // math.gcd(rate, SAMPLE_RATE)
        lead = 0.0 if rate == SAMPLE_RATE else PREROLL_S
        frames = max(0, int((self.start_s - lead) * rate)) // grid * grid
        self.position = frames * SAMPLE_RATE // rate
        self._block_s = frames / rate
        return frames

    def take(self, samples: NDArray[Value]) -> NDArray[Value]:
        """Returns those of the stream's next samples, shape (num_samples,), that lie in the segment."""
        begin, self.position = self.position, self.position + len(samples)
        return samples[max(0, self._start - begin) : max(0, int(min(self._end - begin, len(samples))))]

    def frames_inside(self, num_frames: int, rate: int) -> slice:
        """Returns which frames of the next block, at its own rate, lie in the segment: only their errors count."""
        begin_s, self._block_s = self._block_s, self._block_s + num_frames / rate
        first, last = (self.start_s - begin_s) * rate, (self.end_s - begin_s) * rate
        return slice(max(0, math.ceil(min(first, num_frames))), max(0, math.ceil(min(last, num_frames))))

    def segment_duration_s(self, file_s: float) -> float:
        """Returns the duration of the segment in a file of `file_s` seconds."""
        return min(max(0.0, file_s - self.start_s), (self._end - self._start) / SAMPLE_RATE)

    def set_file_end(self, seconds: float) -> None:
        """Records that the file ended at this time while everything was still being skipped."""
        self.position = round(seconds * SAMPLE_RATE)

    def describe_shortfall(self, num_samples: int) -> str | None:
        """Returns a message if the segment has only `num_samples` samples; None if these are all, or nearly."""
        ends_s = self.position / SAMPLE_RATE
        if num_samples == 0:
            return f"the segment begins at {self.start_s:,.2f} s, the file ends at {ends_s:,.2f} s"
        if self._length is not None and num_samples < self._length - END_TOLERANCE:
            return f"the segment should end at {self.end_s:,.2f} s, the file ends at {ends_s:,.2f} s"
        return None


Span = tuple[int, int]  # first sample, one past the last


def extract_spans(pieces: Iterable[PCM16], spans: Sequence[Span]) -> Iterator[PCM16]:
    """Yields the samples of each span of a recording while it is decoded.

    Args:
        pieces: The recording's consecutive samples, int16, shape (num_samples,) each. All are consumed.
        spans: Ordered by their start; they may overlap. A span beyond the end comes out shorter, or empty.
    """
    waiting = deque(spans)
    held, begin = np.empty(0, np.int16), 0
    for piece in pieces:
        held = np.concatenate([held, piece])
        while waiting and waiting[0][1] <= begin + len(held):
            start, end = waiting.popleft()
            yield held[start - begin : end - begin]
        keep = waiting[0][0] - begin if waiting else len(held)
        begin += min(keep, len(held))
        held = held[keep:]
    for start, end in waiting:
        yield held[max(start - begin, 0) : end - begin]


def iter_pcm(items: Iterable[PCM16 | DecodeResult], ended: Callable[[DecodeResult], None]) -> Iterator[PCM16]:
    """Yields the samples that a decoder yields, and calls `ended` with its result."""
    for item in items:
        if isinstance(item, DecodeResult):
            ended(item)
        else:
            yield item
