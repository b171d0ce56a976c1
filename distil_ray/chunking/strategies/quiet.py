"""Cuts at the quietest point near the end of the longest chunk.

Two seconds of zeros or more are chunks of their own. Chunks follow each other without overlap, every sample is in one
of them, and their texts are joined. The strategy knows nothing about what the audio contains. It holds a chunk and a
quarter of samples at most.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import numpy as np

from distil_ray.audio.pcm import PCM16
from distil_ray.chunking.base import SHORTEST_FRACTION, Chunk, Chunker, ChunkSizes, SampleQueue, find_quiet_cut
from distil_ray.types import SAMPLE_RATE

LONG_SILENCE = 2 * SAMPLE_RATE  # zeros from which a chunk ends and another begins


class QuietChunker(Chunker):
    """Cuts at quiet points; starts again where at least `long_silence` zeros begin and where they end.

    A gap in a file's time line is decoded to zeros. Whisper begins its first segment where the chunk begins, so that
    speech behind a gap would get a time before the gap. Therefore zeros are chunks of their own.
    """

    search_fraction = 1 / 3
    long_silence: ClassVar[int] = LONG_SILENCE

    def __init__(self, sizes: ChunkSizes) -> None:
        super().__init__(sizes)
        self._chunker = _QuietestCutChunker(sizes)
        self._start = 0  # position of the inner chunker's first sample in the recording
        self._num_pushed = 0  # samples given to the inner chunker
        self._zeros = 0  # zeros at the end that were not pushed yet: possibly the beginning of a long silence
        self._is_silent = False
        self._next = 0

    def push(self, pcm: PCM16) -> Iterator[Chunk]:
        nonzero = np.flatnonzero(pcm)
        if not len(nonzero):
            yield from self._push_zeros(len(pcm))
            return
        yield from self._push_zeros(int(nonzero[0]))
        begin = int(nonzero[0])
        for index in np.flatnonzero(np.diff(nonzero) > self.long_silence):
            end, following = int(nonzero[index]) + 1, int(nonzero[index + 1])
            yield from self._push_audio(pcm[begin:end])
            yield from self._push_zeros(following - end)
            begin = following
        end = int(nonzero[-1]) + 1
        yield from self._push_audio(pcm[begin:end])
        yield from self._push_zeros(len(pcm) - end)

    def finish(self) -> Iterator[Chunk]:
        yield from self._push_pending_zeros()
        yield from self._renumber(self._chunker.finish())

    def _push_audio(self, pcm: PCM16) -> Iterator[Chunk]:
        if self._is_silent:
            yield from self._restart()
            self._is_silent = False
        yield from self._push_pending_zeros()
        self._num_pushed += len(pcm)
        yield from self._renumber(self._chunker.push(pcm))

    def _push_zeros(self, count: int) -> Iterator[Chunk]:
        self._zeros += count
        if self._zeros >= self.long_silence and not self._is_silent:
            yield from self._restart()
            self._is_silent = True
        if self._is_silent:
            yield from self._push_pending_zeros()

    def _push_pending_zeros(self) -> Iterator[Chunk]:
        zeros, self._zeros = self._zeros, 0
        self._num_pushed += zeros
        yield from self._renumber(self._chunker.push(np.zeros(zeros, np.int16)))

    def _restart(self) -> Iterator[Chunk]:
        yield from self._renumber(self._chunker.finish())
        self._start += self._num_pushed
        self._num_pushed = 0
        self._chunker = _QuietestCutChunker(self.sizes)

    def _renumber(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            yield replace(chunk, index=self._next, start=self._start + chunk.start)
            self._next += 1


class _QuietestCutChunker(Chunker):
    """Cuts at the quietest point of the search region (`find_quiet_cut`).

    A rest that fits into one chunk is not cut. A rest that is only a little longer is cut earlier, so that its second
    part is not too short. To know this, the chunker needs a fourth of the length more than a chunk.
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
