"""Keeps speech only and cuts in its pauses (needs the extra `vad`).

Speech begins with a probable frame and ends after a pause. Neighboring stretches of speech, with the pause between
them, share a chunk as far as they fit. Where the next stretch does not fit, the chunk ends in the pause before it. A
single stretch that is longer than a chunk is cut at its quietest point, as `quiet` does. Chunks keep their position in
the recording. The chunker holds about two chunks of audio at most. Purpose: Whisper invents text where nobody speaks.
The cost is stated in silero_vad.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from distil_ray.audio.pcm import PCM16
from distil_ray.chunking.base import SHORTEST_FRACTION, Chunk, Chunker, ChunkSizes, SampleQueue, find_quiet_cut
from distil_ray.chunking.silero_vad import FRAME, SileroVad, find_silero_model
from distil_ray.types import SAMPLE_RATE

THRESHOLD_DROP = 0.15  # below the threshold, speech goes on until this much less, as in Silero
MIN_CONTINUED_SPEECH = 0.01  # the lowest probability that continues speech, as in Silero
SHORTEST_SPEECH = SAMPLE_RATE // 10  # samples; shorter stretches are clicks
LONGEST_PAUSE = 2 * SAMPLE_RATE  # samples between two stretches that share a chunk


@dataclass(frozen=True, slots=True)
class VadSettings:
    """The section ``chunking.vad``. Times are in seconds.

    Silero's own thresholds, 0.5 and 0.35, cut off the edges of faint and reverberant speech. No frame of noise, music,
    tones or clicks in the test corpus exceeds 0.1. Lost words are worse than a second of noise.

    Attributes:
        threshold: Probability from which a frame begins speech.
        min_silence_s: Time without speech that ends a stretch.
        speech_pad_s: Time kept around speech: soft beginnings and ends.
        max_speech_s: Longest stretch that is not cut; None: the length of a chunk.
    """

    threshold: float = 0.3
    min_silence_s: float = 0.3
    speech_pad_s: float = 0.4
    max_speech_s: float | None = None


class VadChunker(Chunker):
    """Cuts one recording by the speech probabilities of its frames.

    All positions are samples of the recording. The current stretch of speech goes from `_speech_begin` to
    `_speech_end`; it counts once it is longer than a click. The current chunk begins at `_begin`, and its last finished
    stretch ends at `_end`. `_begin` is None without a current chunk, `_end` while the chunk has no finished stretch.
    """

    omits_audio = True
    search_fraction = 1 / 3
    settings_name = "vad"

    def __init__(self, sizes: ChunkSizes, settings: VadSettings | None = None) -> None:
        super().__init__(sizes)
        settings = settings or VadSettings()
        self._speech = settings.threshold
        self._continued_speech = max(settings.threshold - THRESHOLD_DROP, MIN_CONTINUED_SPEECH)
        self._pause = round(settings.min_silence_s * SAMPLE_RATE)
        self._padding = round(settings.speech_pad_s * SAMPLE_RATE)
        longest_s = settings.max_speech_s
        self._longest = sizes.length if longest_s is None else min(sizes.length, round(longest_s * SAMPLE_RATE))
        self._vad = SileroVad()
        self._queue = SampleQueue()
        self._frames_end = 0  # end of the last frame with a probability
        self._speech_begin: int | None = None
        self._speech_end = 0
        self._begin: int | None = None
        self._end: int | None = None
        self._last_end = 0  # end of the last chunk
        self._next = 0

    @classmethod
    def create(cls, sizes: ChunkSizes, settings: Mapping[str, Any]) -> Self:
        return cls(sizes, VadSettings(**settings))

    @classmethod
    def check_requirements(cls) -> None:
        find_silero_model()

    def push(self, pcm: PCM16) -> Iterator[Chunk]:
        self._queue.push(pcm)
        for probability in self._vad.push(pcm).tolist():
            yield from self._add_frame(probability)
        self._drop_unneeded()

    def finish(self) -> Iterator[Chunk]:
        for probability in self._vad.finish().tolist():
            yield from self._add_frame(probability)
        self._speech_end = min(self._speech_end, self._queue.start + self._queue.size)  # the last frame was padded
        yield from self._end_stretch()
        yield from self._end_chunk(None)

    def _add_frame(self, probability: float) -> Iterator[Chunk]:
        """Takes the probability of the next frame."""
        start, self._frames_end = self._frames_end, self._frames_end + FRAME
        if probability >= (self._speech if self._speech_begin is None else self._continued_speech):
            self._speech_begin = start if self._speech_begin is None else self._speech_begin
            self._speech_end = self._frames_end
            yield from self._make_space(self._speech_begin)
        elif self._speech_begin is not None:
            if self._frames_end - self._speech_end >= self._pause:
                yield from self._end_stretch()
        elif self._end is not None and self._frames_end - self._end > LONGEST_PAUSE:
            yield from self._end_chunk(None)

    def _make_space(self, begin: int) -> Iterator[Chunk]:
        """Ends the current chunk if the current stretch no longer fits into it, and begins one if there is none.

        A stretch that has to be cut is in chunks of its own.
        """
        if self._speech_end - begin < SHORTEST_SPEECH:
            return
        if (
            self._begin is not None
            and self._end is not None
            and (self._speech_end - self._begin > self.sizes.length or self._speech_end - begin > self._longest)
        ):
            yield from self._end_chunk(begin)
        if self._begin is None:
            self._begin = max(begin - self._padding, self._last_end)
        if self._end is None:
            yield from self._cut_until(self._longest + self._longest // SHORTEST_FRACTION)

    def _end_stretch(self) -> Iterator[Chunk]:
        """Ends the current stretch, which becomes part of the chunk unless it was a click."""
        if self._speech_begin is not None and self._speech_end - self._speech_begin >= SHORTEST_SPEECH:
            if self._end is None:
                yield from self._cut_until(self._longest)
            self._end = self._speech_end
        self._speech_begin = None

    def _cut_until(self, longest: int) -> Iterator[Chunk]:
        """Cuts chunks off the current stretch, at quiet points, until at most `longest` samples of it are left."""
        while self._begin is not None and self._speech_end - self._begin > longest:
            self._drop_until(self._begin)
            search = min(self.sizes.search, self._longest - 1)
            size = find_quiet_cut(self._queue, self._speech_end - self._begin, self._longest, search)
            yield self._chunk(self._begin, self._begin + size)
            self._begin = self._last_end

    def _end_chunk(self, next_begin: int | None) -> Iterator[Chunk]:
        """Yields the current chunk, with padding behind its last stretch.

        Args:
            next_begin: Beginning of the next stretch, to which half of the pause belongs; None: far away.
        """
        if self._begin is not None and self._end is not None:
            end = min(self._end + self._padding, self._begin + self.sizes.length, self._queue.start + self._queue.size)
            if next_begin is not None:
                end = min(end, (self._end + next_begin) // 2)
            yield self._chunk(self._begin, end)
        self._begin = self._end = None

    def _chunk(self, begin: int, end: int) -> Chunk:
        self._drop_until(begin)
        chunk = Chunk(self._next, begin, self._queue.peek(end - begin), 0, 0)
        self._queue.drop(end - begin)
        self._last_end = end
        self._next += 1
        return chunk

    def _drop_unneeded(self) -> None:
        """Drops samples that cannot be in a chunk any more."""
        if self._begin is not None:
            self._drop_until(self._begin)
        else:
            self._drop_until((self._frames_end if self._speech_begin is None else self._speech_begin) - self._padding)

    def _drop_until(self, position: int) -> None:
        if position > self._queue.start:
            self._queue.drop(position - self._queue.start)


CHUNKER = VadChunker
