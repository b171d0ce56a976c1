"""Keeps speech only and cuts in its pauses (needs the extra `vad`).

Speech begins with a likely frame and ends after a pause; stretches of speech that lie near each other share a chunk
as far as they fit, with the pause between them. Where the next stretch does not fit, the chunk ends in the pause
before it; a single stretch that is longer than a chunk is cut at its quietest place, as `quiet` does. Chunks keep
their place on the recording's time line, do not depend on how the audio was portioned, and hold no more than about two
chunks of audio. Whisper invents text where nobody speaks: that is what this is for. What it costs stands in vad.py.
"""

from collections.abc import Iterator

from distil_ray.audio.pcm import PCM16
from distil_ray.chunking.base import SHORTEST_FRACTION, Chunk, Chunker, ChunkSizes, SampleQueue, find_quiet_cut
from distil_ray.chunking.silero_vad import FRAME, SileroVad, find_silero_model
from distil_ray.types import SAMPLE_RATE

# Silero's own thresholds, 0.5 and 0.35, cut the edges off faint and reverberant speech; no frame of noise, music, tones
# or clicks in the test corpus comes above 0.1. Lost words are worse than a second of noise.
SPEECH = 0.3  # probability from which a frame is speech
STILL_SPEECH = 0.15  # and from which speech goes on
SHORTEST_SPEECH = SAMPLE_RATE // 10  # samples; what is shorter is a click
PAUSE = SAMPLE_RATE * 3 // 10  # samples without speech that end a stretch
PADDING = SAMPLE_RATE * 2 // 5  # samples kept around speech: soft beginnings and ends
LONGEST_PAUSE = 2 * SAMPLE_RATE  # samples between two stretches that share a chunk


class VadChunker(Chunker):
    """Cuts one recording; a new one is made for the next.

    All positions are samples of the recording. A stretch of speech from `_since` to `_until` is being spoken, once it
    is long enough to be no click. The chunk that is being filled goes from `_begin` to `_end`, the end of its last
    stretch that is over; None where there is no such chunk, or only the stretch that is being spoken in it.
    """

    omits_audio = True
    search_fraction = 1 / 3

    def __init__(self, sizes: ChunkSizes) -> None:
        super().__init__(sizes)
        self._vad = SileroVad()
        self._queue = SampleQueue()
        self._judged = 0  # end of the last frame that was judged
        self._since: int | None = None
        self._until = 0
        self._begin: int | None = None
        self._end: int | None = None
        self._taken = 0  # end of the last chunk
        self._next = 0

    @classmethod
    def check_requirements(cls) -> None:
        find_silero_model()

    def push(self, pcm: PCM16) -> Iterator[Chunk]:
        self._queue.push(pcm)
        for probability in self._vad.push(pcm).tolist():
            yield from self._judge(probability)
        self._forget()

    def finish(self) -> Iterator[Chunk]:
        for probability in self._vad.finish().tolist():
            yield from self._judge(probability)
        self._until = min(self._until, self._queue.start + self._queue.size)  # the last frame was filled up
        yield from self._end_stretch()
        yield from self._end_chunk(None)

    def _judge(self, probability: float) -> Iterator[Chunk]:
        """Takes one more frame."""
        start, self._judged = self._judged, self._judged + FRAME
        if probability >= (SPEECH if self._since is None else STILL_SPEECH):
            self._since = start if self._since is None else self._since
            self._until = self._judged
            yield from self._make_room(self._since)
        elif self._since is not None:
            if self._judged - self._until >= PAUSE:
                yield from self._end_stretch()
        elif self._end is not None and self._judged - self._end > LONGEST_PAUSE:
            yield from self._end_chunk(None)

    def _make_room(self, since: int) -> Iterator[Chunk]:
        """The stretch being spoken has become longer: does it still fit into the chunk?"""
        if self._until - since < SHORTEST_SPEECH:
            return
        if self._begin is not None and self._end is not None and self._until - self._begin > self.sizes.length:
            yield from self._end_chunk(since)
        if self._begin is None:
            self._begin = max(since - PADDING, self._taken)
        if self._end is None:
            yield from self._cut_until(self.sizes.length + self.sizes.length // SHORTEST_FRACTION)

    def _end_stretch(self) -> Iterator[Chunk]:
        """The stretch being spoken is over; unless it was a click it stays in the chunk."""
        if self._since is not None and self._until - self._since >= SHORTEST_SPEECH:
            if self._end is None:
                yield from self._cut_until(self.sizes.length)
            self._end = self._until
        self._since = None

    def _cut_until(self, longest: int) -> Iterator[Chunk]:
        """Cuts chunks off the stretch being spoken, at quiet places, until `longest` or less of it is left."""
        while self._begin is not None and self._until - self._begin > longest:
            self._drop_until(self._begin)
            size = find_quiet_cut(self._queue, self._until - self._begin, self.sizes.length, self.sizes.search)
            yield self._chunk(self._begin, self._begin + size)
            self._begin = self._taken

    def _end_chunk(self, next_since: int | None) -> Iterator[Chunk]:
        """Gives the chunk and what is near its last stretch; half of a pause belongs to the stretch at `next_since`."""
        if self._begin is not None and self._end is not None:
            end = min(self._end + PADDING, self._begin + self.sizes.length, self._queue.start + self._queue.size)
            if next_since is not None:
                end = min(end, (self._end + next_since) // 2)
            yield self._chunk(self._begin, end)
        self._begin = self._end = None

    def _chunk(self, begin: int, end: int) -> Chunk:
        self._drop_until(begin)
        chunk = Chunk(self._next, begin, self._queue.peek(end - begin), 0, 0)
        self._queue.drop(end - begin)
        self._taken = end
        self._next += 1
        return chunk

    def _forget(self) -> None:
        """Drops what can be in no chunk any more."""
        if self._begin is not None:
            self._drop_until(self._begin)
        else:
            self._drop_until((self._judged if self._since is None else self._since) - PADDING)

    def _drop_until(self, position: int) -> None:
        if position > self._queue.start:
            self._queue.drop(position - self._queue.start)


CHUNKER = VadChunker
