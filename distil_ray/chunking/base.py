"""Chunkers cut a recording into chunks while its samples stream in: their base class, and what they share.

`Chunker` is the base class of all strategies, `make_chunker` makes one by name. `SampleQueue` holds the samples that
are in no chunk yet, and `find_quiet_cut` finds the quietest point to cut at. Everything is counted in samples at 16
kHz, and all arithmetic is exact: the chunks do not depend on the pieces in which the samples arrive.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray

from distil_ray.audio.pcm import PCM16
from distil_ray.errors import SettingsError
from distil_ray.registry import CHUNKERS
from distil_ray.types import SAMPLE_RATE

MIN_LENGTH_S = 1.0  # smallest `chunking.length_s`
QUIET_SPAN = SAMPLE_RATE // 10  # samples over which loudness is measured: 100 ms, the pause between two words
QUIET_HOP = SAMPLE_RATE // 100  # samples between two candidates for a cut: 10 ms
SHORTEST_FRACTION = 4  # `find_quiet_cut` leaves no rest shorter than the chunk length divided by this

Sums = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of a recording that is recognized at once.

    Attributes:
        index: Number of the chunk in its recording, from 0.
        start: First sample of the chunk in the recording.
        pcm: int16, shape (num_samples,), 16 kHz mono, never empty.
        stride_left: Samples shared with the chunk before. Text is kept of what lies between the two strides.
        stride_right: Samples shared with the chunk behind.
    """

    index: int
    start: int
    pcm: PCM16
    stride_left: int
    stride_right: int


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """Lengths that a chunker works with, in samples.

    Attributes:
        length: Longest chunk.
        stride: Audio shared with the neighbor on each side.
        search: Length of the region, at the end of the longest chunk, in which the cut is searched.

    Raises:
        ValueError: No chunk can be made with these lengths.
    """

    length: int
    stride: int = 0
    search: int = 0

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"chunks of {self.length} samples cannot hold any audio")
        if not 0 <= 2 * self.stride < self.length:
            raise ValueError(f"strides of {self.stride} samples on both sides leave nothing of chunks of {self.length}")
        if not 0 <= self.search < self.length:
            raise ValueError(f"a search region of {self.search} samples does not fit into chunks of {self.length}")


class Chunker(ABC):
    """Cuts one recording into chunks; a new object is made for each recording.

    A subclass is a chunking strategy. Its class attributes describe it to the rest of the pipeline:

    Attributes:
        overlaps: Neighboring chunks share audio. Their transcripts are then merged by tokens, for which the run stores
            the tokenizer. Otherwise the texts are joined in their order.
        omits_audio: Some samples may be in no chunk, for example those without speech.
        long_form: Chunks are sections: they may be longer than the encoder's window, and are given to a
            `LongFormRecognizer`, which returns a text for each of their windows.
        max_length_s: Largest ``chunking.length_s`` in seconds.
        default_length_s: Length in seconds for ``chunking.length_s: auto``; None: the length that suits the checkpoint.
        stride_fraction: Stride for ``chunking.stride_s: auto``, as a fraction of the length; None: the strategy does
            not use a stride.
        search_fraction: The same for ``chunking.search_s``.
        settings_name: Name of the section of ``chunking`` that has settings of the strategy; None: there is none. Its
            values reach `create`.
    """

    overlaps: ClassVar[bool] = False
    omits_audio: ClassVar[bool] = False
    long_form: ClassVar[bool] = False
    max_length_s: ClassVar[float] = 30.0
    default_length_s: ClassVar[float | None] = None
    stride_fraction: ClassVar[float | None] = None
    search_fraction: ClassVar[float | None] = None
    settings_name: ClassVar[str | None] = None

    def __init__(self, sizes: ChunkSizes) -> None:
        self.sizes = sizes

    @classmethod
    def create(cls, sizes: ChunkSizes, settings: Mapping[str, Any]) -> Self:
        """Returns a chunker for one recording.

        Args:
            sizes: The lengths to work with.
            settings: Those of the section `settings_name` that differ from their defaults; empty without a section.
        """
        return cls(sizes)

    @classmethod  # noqa: B027 - not abstract: most strategies need nothing
    def check_requirements(cls) -> None:
        """Checks, before a run starts, that everything is there that the strategy needs: a package, a model.

        Raises:
            SettingsError: Something is missing; the message names what to install.
        """

    @abstractmethod
    def push(self, pcm: PCM16) -> Iterator[Chunk]:
        """Takes the next samples (int16, 16 kHz mono) and yields the chunks that are certain by now."""

    @abstractmethod
    def finish(self) -> Iterator[Chunk]:
        """Yields the remaining chunks at the end of the recording."""


def load_chunker(strategy: str) -> type[Chunker]:
    """Returns the class of a strategy.

    Args:
        strategy: Value of `chunking.strategy`: a name in `distil_ray.registry.CHUNKERS`, or an import path.

    Raises:
        SettingsError: There is no such strategy, or its module cannot be imported.
    """
    found = CHUNKERS.load(strategy)
    if not (isinstance(found, type) and issubclass(found, Chunker)):
        raise SettingsError(
            f"chunking.strategy={strategy}: found {found!r}, which is no subclass of distil_ray.chunking.base.Chunker"
        )
    return found


def check_lengths(
    strategy: str, length_s: str | float, stride_s: str | float = "auto", search_s: str | float = "auto"
) -> None:
    """Checks `chunking.length_s`, `stride_s` and `search_s` against the strategy; ``auto`` suits any.

    Raises:
        SettingsError: The length is out of the range of the strategy, or the strategy has no stride or does not search.
    """
    chunker = load_chunker(strategy)
    unused = {
        f"chunking.stride_s={stride_s}": not isinstance(stride_s, str) and chunker.stride_fraction is None,
        f"chunking.search_s={search_s}": not isinstance(search_s, str) and chunker.search_fraction is None,
    }
    if found := [setting for setting, is_unused in unused.items() if is_unused]:
        raise SettingsError(
            f"{', '.join(found)}: not used by chunking.strategy={strategy}. Leave it out, or choose a strategy"
            " that uses it: overlap has strides, the others search for their cuts"
        )
    longest_s = chunker.max_length_s
    if not isinstance(length_s, str) and not MIN_LENGTH_S <= length_s <= longest_s:
        raise SettingsError(
            f"chunking.length_s: must be between {MIN_LENGTH_S:g} and {longest_s:g} seconds with"
            f" chunking.strategy={strategy}, or auto; found {length_s:g}"
        )


def make_chunker(strategy: str, sizes: ChunkSizes, settings: Mapping[str, Any] | None = None) -> Chunker:
    """Returns a new chunker for one recording; see `load_chunker` and `Chunker.create`."""
    return load_chunker(strategy).create(sizes, settings or {})


def iter_chunks(chunker: Chunker, pieces: Iterable[PCM16]) -> Iterator[Chunk]:
    """Yields all chunks of a recording whose samples come in `pieces`."""
    for pcm in pieces:
        yield from chunker.push(pcm)
    yield from chunker.finish()


class SampleQueue:
    """Samples that were pushed and not yet dropped.

    Attributes:
        start: Position of the first of them in the recording.
        size: Their number.
    """

    def __init__(self) -> None:
        self.start = 0
        self.size = 0
        self._pieces: list[PCM16] = []

    def push(self, pcm: PCM16) -> None:
        """Appends samples."""
        if len(pcm):
            self._pieces.append(pcm)
            self.size += len(pcm)

    def peek(self, num_samples: int) -> PCM16:
        """Returns a copy of the first samples."""
        return self._joined()[:num_samples].copy()

    def drop(self, num_samples: int) -> None:
        """Removes the first samples."""
        self._pieces = [rest] if len(rest := self._joined()[num_samples:]) else []
        self.start += num_samples
        self.size -= num_samples

    def _joined(self) -> PCM16:
        if len(self._pieces) > 1:
            self._pieces = [np.concatenate(self._pieces)]
        return self._pieces[0]


def find_quiet_cut(queue: SampleQueue, size: int, length: int, search: int) -> int:
    """Returns the number of samples after which to end a chunk that begins with the queue.

    The cut lies in the middle of the quietest 100 ms of the search region, the latest of equal ones. The rest is at
    least a fourth of `length`.

    Args:
        queue: Samples of the recording.
        size: Samples in the queue that are to be divided, more than `length`.
        length: Longest chunk, in samples.
        search: Length of the search region before the end of the longest chunk, in samples.
    """
    shortest = length // SHORTEST_FRACTION
    latest = min(length, size - shortest)
    earliest = max(latest - search, min(shortest, latest), 1)
    hop = max(1, min(QUIET_HOP, shortest // (QUIET_SPAN // QUIET_HOP)))
    half = hop * min(QUIET_SPAN // 2 // QUIET_HOP, shortest // hop)
    hops = (latest - earliest) // hop
    if half == 0 or hops <= 0:
        return latest
    # Half a span fits on both sides of the search region, since it is at most a fourth of the length.
    sums = _hop_sums(queue.peek(latest + half)[latest - half - hops * hop :], hop)
    sums = _moving_sum(sums, 2 * half // hop)  # shape (2, hops + 1): samples, squares
    power = sums[1] * (2 * half) - sums[0] ** 2  # variance, so that a constant offset does not count; exact
    return latest - hop * int(power[::-1].argmin())


def _hop_sums(pcm: PCM16, hop: int) -> Sums:
    """Returns the sums of the samples and of their squares over each `hop`: shape (2, len(pcm) // hop)."""
    wide = pcm.astype(np.int32)
    return np.stack([np.add.reduce(values.reshape(-1, hop), axis=1, dtype=np.int64) for values in (wide, wide * wide)])


def _moving_sum(values: Sums, span: int) -> Sums:
    """Returns the sums over every `span` neighbors of the last axis, which becomes shorter by span - 1."""
    sums = np.pad(np.cumsum(values, axis=-1), ((0, 0), (1, 0)))
    return cast(Sums, sums[..., span:] - sums[..., :-span])
