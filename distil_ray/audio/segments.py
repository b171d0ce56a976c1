"""Which part of a file's sound is wanted, and what of the samples that stream by lies in it.

All positions are samples at 16 kHz, counted from the file's start as decoding the whole of it would count them. A
reader may leave out what comes before: from where, `Cutter.skip` says, in the file's own rate. It is a place at which
the resampler's output falls on whole samples, and a little early, because the filter hears what is before. So a cut out
of 16 kHz has the very samples of the whole; out of other rates about one sample in a thousand differs by one step of
the 16 bits, for the resampler's sums are rounded elsewhere.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from distil_ray.audio.pcm import PCM16, SAMPLE_RATE, DecodeResult

PREROLL_S = 0.1  # heard before a cut: several times the length of the resampler's filter
END_TOLERANCE = SAMPLE_RATE // 10  # samples that a cut may reach beyond the file's end: lists round their times

Value = TypeVar("Value", np.int16, np.float32)


@dataclass(frozen=True, slots=True)
class AudioSegment:
    """A part of a file: samples at 16 kHz from `start` on, `length` of them (None: to the end); of `channel` alone,
    counted from 0 (None: of all, mixed)."""

    start: int = 0
    length: int | None = None
    channel: int | None = None

    @property
    def is_segment(self) -> bool:
        return self.start > 0 or self.length is not None


WHOLE_FILE = AudioSegment()


class SegmentExtractor:
    """Takes one cut out of one stream. `position`: the next sample of the stream that comes."""

    def __init__(self, segment: AudioSegment) -> None:
        self.position = 0
        self._start = segment.start
        self._end = math.inf if segment.length is None else segment.start + segment.length
        self._length = segment.length
        self._block_s = 0.0  # where the next block of the file begins

    @property
    def start_s(self) -> float:
        return self._start / SAMPLE_RATE

    @property
    def end_s(self) -> float:
        return self._end / SAMPLE_RATE

    @property
    def is_over(self) -> bool:
        """Whether all that is wanted has come."""
        return self.position >= self._end

    @property
    def has_begun(self) -> bool:
        return self.position >= self._start

    def skip(self, rate: int) -> int:
        """How many frames of `rate` Hz a reader may leave out; the stream is then expected to begin behind them."""
        if not self._start or rate <= 0:  # no rate: the reader will say so
            return 0
        grid = rate // math.gcd(rate, SAMPLE_RATE)
        lead = 0.0 if rate == SAMPLE_RATE else PREROLL_S
        frames = max(0, int((self.start_s - lead) * rate)) // grid * grid
        self.position = frames * SAMPLE_RATE // rate
        self._block_s = frames / rate
        return frames

    def take(self, samples: NDArray[Value]) -> NDArray[Value]:
        """What of the stream's next samples, shape (num_samples,), is wanted: often all, maybe none."""
        begin, self.position = self.position, self.position + len(samples)
        return samples[max(0, self._start - begin) : max(0, int(min(self._end - begin, len(samples))))]

    def frames_inside(self, num_frames: int, rate: int) -> slice:
        """Which frames of the next block, in its own rate, lie in the cut: what is wrong with others is no matter."""
        begin_s, self._block_s = self._block_s, self._block_s + num_frames / rate
        first, last = (self.start_s - begin_s) * rate, (self.end_s - begin_s) * rate
        return slice(max(0, math.ceil(min(first, num_frames))), max(0, math.ceil(min(last, num_frames))))

    def segment_duration_s(self, file_s: float) -> float:
        """How long the cut is if the file lasts `file_s`."""
        return min(max(0.0, file_s - self.start_s), (self._end - self._start) / SAMPLE_RATE)

    def set_file_end(self, seconds: float) -> None:
        """The file ended there, before anything came of what was not left out."""
        self.position = round(seconds * SAMPLE_RATE)

    def describe_shortfall(self, num_samples: int) -> str | None:
        """What to say if the file gave only `num_samples` of the cut; None if they are all, or nearly."""
        ends_s = self.position / SAMPLE_RATE
        if num_samples == 0:
            return f"the segment begins at {self.start_s:,.2f} s, the file ends at {ends_s:,.2f} s"
        if self._length is not None and num_samples < self._length - END_TOLERANCE:
            return f"the segment should end at {self.end_s:,.2f} s, the file ends at {ends_s:,.2f} s"
        return None


Span = tuple[int, int]  # first sample, one past the last


def extract_spans(pieces: Iterable[PCM16], spans: Sequence[Span]) -> Iterator[PCM16]:
    """The samples of each span, out of consecutive pieces (int16, shape (num_samples,)); spans are ordered by their
    start and may overlap. A span beyond the end is shorter, or empty. All pieces are taken."""
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
    """The samples that a decoder gives; how it ended is handed to `ended`."""
    for item in items:
        if isinstance(item, DecodeResult):
            ended(item)
        else:
            yield item
