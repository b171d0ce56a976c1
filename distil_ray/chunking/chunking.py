"""A recording's PCM, as it streams in, cut into the chunks that are recognized at once.

Three ways. `quiet` cuts at the quietest place near the end of the window, and around two seconds of zeros or more:
chunks follow each other without overlap and their texts are joined. `overlap` gives chunks that share a stride with
each neighbor, span for span those of transformers' `chunk_iter`; their tokens are merged. Both are pure: integer
samples in, integer samples out, and the same chunks however the PCM was portioned. They hold about one chunk and a
quarter. Neither knows what the audio is; `vad`, which does and leaves out what is no speech, is in speech.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from distil_ray.audio.pcm import PCM16, SAMPLE_RATE

QUIET_SPAN = SAMPLE_RATE // 10  # samples over which quietness is measured: 100 ms, the pause between two words
QUIET_HOP = SAMPLE_RATE // 100  # samples between two places that are compared: 10 ms
LONG_SILENCE = 2 * SAMPLE_RATE  # zeros from which `quiet` ends a chunk and begins another
SHORTEST_FRACTION = 4  # `quiet` leaves no chunk shorter than a fourth of the length, unless the recording is

Sums = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is recognized at once. Counted in samples: `start` on the recording's time line; `stride_left` and
    `stride_right` are shared with the neighbors, so that what lies between them is kept of this chunk alone.
    `pcm`: int16, shape (num_samples,), 16 kHz mono, never empty."""

    index: int
    start: int
    pcm: PCM16
    stride_left: int
    stride_right: int


class Chunker(Protocol):
    """Cuts one recording; a new one is made for the next."""

    def push(self, pcm: PCM16) -> Iterator[Chunk]:
        """Takes the next samples (int16, 16 kHz mono), gives the chunks that are certain by now."""
        ...

    def finish(self) -> Iterator[Chunk]:
        """The recording ended: gives the rest."""
        ...


def make_chunker(strategy: str, length: int, stride: int, search: int) -> Chunker:
    """The chunker of a strategy, `quiet`, `overlap` or `vad`. All in samples: the longest chunk; the overlap on each
    side (`overlap` only); how far before the window's end a cut is looked for (not `overlap`). Raises ValueError."""
    if length < 1:
        raise ValueError(f"chunks of {length} samples cannot hold anything")
    if strategy in ("quiet", "vad"):
        if not 0 <= search < length:
            raise ValueError(f"search of {search} samples does not fit into chunks of {length}")
        if strategy == "quiet":
            return SilenceBoundaries(length, search)
        from distil_ray.chunking.vad_chunker import (
            SpeechChunker,  # what the others do not need: a model, and this module
        )

        return SpeechChunker(length, search)
    if strategy == "overlap":
        if not 0 <= 2 * stride < length:
            raise ValueError(f"strides of {stride} samples on both sides leave nothing of chunks of {length}")
        return OverlapChunker(length, stride)
    raise ValueError(f"there is no chunking strategy {strategy!r}: quiet, overlap or vad")


class QuietChunker:
    """Cuts in the middle of the quietest 100 ms of the window's last `search` samples, the latest of equals.

    A rest that fits into one chunk stays whole. A rest that is only a little longer is cut earlier, so that its second
    half is not a scrap: one needs a fourth of the length more than a chunk to know.
    """

    def __init__(self, length: int, search: int) -> None:
        self._length = length
        self._search = search
        self._queue = SampleQueue()
        self._next = 0

    def push(self, pcm: PCM16) -> Iterator[Chunk]:
        self._queue.push(pcm)
        while self._queue.size > self._length + self._length // SHORTEST_FRACTION:
            yield self._take(self._cut())

    def finish(self) -> Iterator[Chunk]:
        while self._queue.size > self._length:
            yield self._take(self._cut())
        if self._queue.size:
            yield self._take(self._queue.size)

    def _take(self, num_samples: int) -> Chunk:
        start = self._queue.start
        chunk = Chunk(self._next, start, self._queue.peek(num_samples), 0, 0)
        self._queue.drop(num_samples)
        self._next += 1
        return chunk

    def _cut(self) -> int:
        return quiet_cut(self._queue, self._queue.size, self._length, self._search)


class SilenceBoundaries:
    """`QuietChunker`, begun anew where at least `LONG_SILENCE` zeros begin and where they end.

    Zeros are what a gap in a file's time line becomes. Whisper begins its first segment where the chunk begins, so that
    speech behind a gap would be given a time before it. The zeros are chunks of their own.
    """

    def __init__(self, length: int, search: int) -> None:
        self._length = length
        self._search = search
        self._chunker = QuietChunker(length, search)
        self._start = 0  # of the chunker's samples in the recording
        self._pushed = 0
        self._zeros = 0  # that came last and were not pushed yet: maybe the beginning of a long silence
        self._is_silent = False
        self._next = 0

    def push(self, pcm: PCM16) -> Iterator[Chunk]:
        sound = np.flatnonzero(pcm)
        if not len(sound):
            yield from self._push_zeros(len(pcm))
            return
        yield from self._push_zeros(int(sound[0]))
        begin = int(sound[0])
        for index in np.flatnonzero(np.diff(sound) > LONG_SILENCE):
            end, following = int(sound[index]) + 1, int(sound[index + 1])
            yield from self._push_sound(pcm[begin:end])
            yield from self._push_zeros(following - end)
            begin = following
        end = int(sound[-1]) + 1
        yield from self._push_sound(pcm[begin:end])
        yield from self._push_zeros(len(pcm) - end)

    def finish(self) -> Iterator[Chunk]:
        yield from self._release()
        yield from self._numbered(self._chunker.finish())

    def _push_sound(self, pcm: PCM16) -> Iterator[Chunk]:
        if self._is_silent:
            yield from self._begin_anew()
            self._is_silent = False
        yield from self._release()
        self._pushed += len(pcm)
        yield from self._numbered(self._chunker.push(pcm))

    def _push_zeros(self, count: int) -> Iterator[Chunk]:
        self._zeros += count
        if self._zeros >= LONG_SILENCE and not self._is_silent:
            yield from self._begin_anew()
            self._is_silent = True
        if self._is_silent:
            yield from self._release()

    def _release(self) -> Iterator[Chunk]:
        zeros, self._zeros = self._zeros, 0
        self._pushed += zeros
        yield from self._numbered(self._chunker.push(np.zeros(zeros, np.int16)))

    def _begin_anew(self) -> Iterator[Chunk]:
        yield from self._numbered(self._chunker.finish())
        self._start += self._pushed
        self._pushed = 0
        self._chunker = QuietChunker(self._length, self._search)

    def _numbered(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            yield replace(chunk, index=self._next, start=self._start + chunk.start)
            self._next += 1


class OverlapChunker:
    """Windows of `length` every `length - 2 * stride` samples; the first has no left stride, the last no right one."""

    def __init__(self, length: int, stride: int) -> None:
        self._length = length
        self._stride = stride
        self._queue = SampleQueue()
        self._next = 0

    def push(self, pcm: PCM16) -> Iterator[Chunk]:
        self._queue.push(pcm)
        while self._queue.size > self._length:  # more comes after this window, so it is not the last
            yield self._chunk(self._length, self._stride)
            self._queue.drop(self._length - 2 * self._stride)

    def finish(self) -> Iterator[Chunk]:
        if self._queue.size:
            yield self._chunk(self._queue.size, 0)
            self._queue.drop(self._queue.size)

    def _chunk(self, num_samples: int, stride_right: int) -> Chunk:
        stride_left = self._stride if self._next else 0
        chunk = Chunk(self._next, self._queue.start, self._queue.peek(num_samples), stride_left, stride_right)
        self._next += 1
        return chunk


class SampleQueue:
    """Samples that were pushed and not yet dropped; `start` is the first one's place in the recording."""

    def __init__(self) -> None:
        self.start = 0
        self.size = 0
        self._pieces: list[PCM16] = []

    def push(self, pcm: PCM16) -> None:
        if len(pcm):
            self._pieces.append(pcm)
            self.size += len(pcm)

    def peek(self, num_samples: int) -> PCM16:
        """The first samples, as an array of their own."""
        return self._joined()[:num_samples].copy()

    def drop(self, num_samples: int) -> None:
        self._pieces = [rest] if len(rest := self._joined()[num_samples:]) else []
        self.start += num_samples
        self.size -= num_samples

    def _joined(self) -> PCM16:
        if len(self._pieces) > 1:
            self._pieces = [np.concatenate(self._pieces)]
        return self._pieces[0]


def quiet_cut(queue: SampleQueue, size: int, length: int, search: int) -> int:
    """Where to end a chunk of at most `length` that begins with the queue, counted from there.

    `size`: samples that there are to divide, more than `length` and in the queue; the rest will be a fourth of the
    length at least.
    """
    shortest = length // SHORTEST_FRACTION
    latest = min(length, size - shortest)
    earliest = max(latest - search, min(shortest, latest), 1)
    hop = max(1, min(QUIET_HOP, shortest // (QUIET_SPAN // QUIET_HOP)))
    half = hop * min(QUIET_SPAN // 2 // QUIET_HOP, shortest // hop)
    hops = (latest - earliest) // hop
    if half == 0 or hops <= 0:
        return latest
    # Around both ends of the window there is room for half a span, since it is a fourth of the length at most.
    sums = _hop_sums(queue.peek(latest + half)[latest - half - hops * hop :], hop)
    sums = _moving_sum(sums, 2 * half // hop)  # shape (2, hops + 1): the samples, their squares
    power = sums[1] * (2 * half) - sums[0] ** 2  # variance, so that a constant offset does not count; exact integers
    return latest - hop * int(power[::-1].argmin())


def _hop_sums(pcm: PCM16, hop: int) -> Sums:
    """Sums of the samples and of their squares over each `hop`: shape (2, len(pcm) // hop)."""
    wide = pcm.astype(np.int32)
    return np.stack([np.add.reduce(values.reshape(-1, hop), axis=1, dtype=np.int64) for values in (wide, wide * wide)])


def _moving_sum(values: Sums, span: int) -> Sums:
    """Sums over every `span` neighbors of the last axis, which becomes shorter by span - 1."""
    sums = np.pad(np.cumsum(values, axis=-1), ((0, 0), (1, 0)))
    return cast(Sums, sums[..., span:] - sums[..., :-span])
