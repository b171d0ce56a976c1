"""Cuts windows that overlap, whose transcripts are merged by tokens.

Each window shares a stride with each neighbor. Windows and strides are those of transformers' `chunk_iter`, to the
sample. The chunker holds one window.
"""

from collections.abc import Iterator

from distil_ray.audio.pcm import PCM16
from distil_ray.chunking.base import Chunk, Chunker, ChunkSizes, SampleQueue


class OverlapChunker(Chunker):
    """Cuts a window every `length - 2 * stride` samples. The first has no left stride, the last no right one."""

    overlaps = True
    stride_fraction = 1 / 6

    def __init__(self, sizes: ChunkSizes) -> None:
        super().__init__(sizes)
        self._queue = SampleQueue()
        self._next = 0

    def push(self, pcm: PCM16) -> Iterator[Chunk]:
        self._queue.push(pcm)
        while self._queue.size > self.sizes.length:  # more samples follow this window, so it is not the last
            yield self._chunk(self.sizes.length, self.sizes.stride)
            self._queue.drop(self.sizes.length - 2 * self.sizes.stride)

    def finish(self) -> Iterator[Chunk]:
        if self._queue.size:
            yield self._chunk(self._queue.size, 0)
            self._queue.drop(self._queue.size)

    def _chunk(self, num_samples: int, stride_right: int) -> Chunk:
        stride_left = self.sizes.stride if self._next else 0
        chunk = Chunk(self._next, self._queue.start, self._queue.peek(num_samples), stride_left, stride_right)
        self._next += 1
        return chunk


CHUNKER = OverlapChunker
