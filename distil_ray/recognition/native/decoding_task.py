"""What the decoder loop takes and gives: a chunk to decode, and what was decoded."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from distil_ray.recognition.base import Alignment


@dataclass(frozen=True, slots=True)
class DecodingTask:
    """One chunk to decode: int16 `pcm`, shape (num_samples,), in a window of `num_frames`, after `prompt`.

    It may be the rest of a chunk, from sample `start` on.

    Decoding stops at the end token, after `max_tokens`, and where `repetition_loop` (if given) says so of the tokens so far.
    Above temperature 0 tokens are sampled, from `seed` (sampling.py).
    """

    index: int
    pcm: NDArray[np.int16]
    prompt: tuple[int, ...]
    num_frames: int
    max_tokens: int
    is_repetitive: Callable[[Sequence[int]], bool] | None = None
    temperature: float = 0.0
    seed: int = 0
    start: int = 0


@dataclass(frozen=True, slots=True)
class DecodingResult:
    """The tokens of one chunk, without prompt and end token; ``ended``: the end token came by itself.

    Of its drafted tokens the main model looked at ``judged`` and chose ``kept`` itself; what was drafted behind one
    that it did not choose does not count. ``alignment``: None unless it was asked for. ``last_position``: where the
    model looked for the last words, in encoder positions from the chunk's first sample; None where unknown.
    ``num_passes``: end tokens in ``sum_logprob``; more than one where a chunk was decoded pass by pass (remainder.py).
    """

    tokens: tuple[int, ...]
    sum_logprob: float
    no_speech_prob: float
    ended: bool
    proposed: int = 0
    accepted: int = 0
    alignment: Alignment | None = None
    last_position: int | None = None
    num_passes: int = 1


class AlignmentLevel(StrEnum):
    """Which times are found for a text, once it has ended."""

    NONE = "none"
    END = "end"  # where it ends
    TOKENS = "tokens"  # that, and of every token


@dataclass(slots=True)
class DecodingStats:
    """What a recognizer has done so far: the honest side of a speed-up."""

    steps: int = 0  # of the main model over its rows; the prompts' own are not counted
    drafts: int = 0  # tokens drafted for rows that were not over
    proposed: int = 0  # of them, looked at by the main model: up to the first of a pass that it did not choose
    accepted: int = 0
    tokens: int = 0  # of finished texts

    def add(self, finished: Iterable[DecodingResult]) -> None:
        for result in finished:
            self.proposed += result.proposed
            self.accepted += result.accepted
            self.tokens += len(result.tokens)


def has_sampled(tasks: Iterable[DecodingTask]) -> bool:
    """Whether a temperature chooses any of the tokens: greedy rows alone are spared the noise."""
    return any(task.temperature > 0 for task in tasks)
