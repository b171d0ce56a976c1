"""Cuts at the quietest place near the end of the longest chunk.

Two seconds of zeros or more are chunks of their own. Chunks follow each other without overlap, every sample is in one
of them, and their texts are joined. The strategy knows nothing about what the audio contains. It holds a chunk and a
quarter of samples at most.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from distil_ray.audio.pcm import PCM16
from distil_ray.chunking.base import SHORTEST_FRACTION, Chunk, Chunker, ChunkSizes, SampleQueue, find_quiet_cut
from distil_ray.types import SAMPLE_RATE

LONG_SILENCE = 2 * SAMPLE_RATE  # zeros from which a chunk ends and another begins


class QuietChunker(Chunker):
    """`QuietChunker`, begun anew where at least `LONG_SILENCE` zeros begin and where they end.

    Zeros are what a gap in a file's time line becomes. Whisper begins its first segment where the chunk begins, so that
    speech behind a gap would be given a time before it. The zeros are chunks of their own.
    """

    search_fraction = 1 / 3

    def __init__(self, sizes: ChunkSizes) -> None:
        super().__init__(sizes)
        self._chunker = _QuietestCutChunker(sizes)
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
        self._chunker = _QuietestCutChunker(self.sizes)

    def _numbered(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            yield replace(chunk, index=self._next, start=self._start + chunk.start)
            self._next += 1


class _QuietestCutChunker(Chunker):
    """Cuts in the middle of the quietest 100 ms of the window's last `search` samples, the latest of equals.

    A rest that fits into one chunk stays whole. A rest that is only a little longer is cut earlier, so that its second
    half is not a scrap: one needs a fourth of the length more than a chunk to know.
    """

    def __init__(self, sizes: ChunkSizes) -> None:
        super().__init__(sizes)
        self._queue = SampleQueue()
        self._next = 0

    def push(self, pcm: PCM16) -> Iterator[Chunk]:
        self._queue.push(pcm)
        while self._queue.size > self.sizes.length + self.sizes.length // SHORTEST_FRACTION:
            yield self._take(self._cut())

    def finish(self) -> Iterator[Chunk]:
        while self._queue.size > self.sizes.length:
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
        return find_quiet_cut(self._queue, self._queue.size, self.sizes.length, self.sizes.search)


CHUNKER = QuietChunker
