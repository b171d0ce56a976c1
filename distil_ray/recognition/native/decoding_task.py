"""Input and result of the decoding loop: one chunk to decode, and the tokens decoded from it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from distil_ray.recognition.base import PCM16
from distil_ray.types import TokenAlignment
from distil_ray.whisper.features import LongAudio


@dataclass(frozen=True, slots=True)
class DecodingTask:
    """One chunk to decode, or the part of a chunk from sample `start` on, or a window of a section.

    Decoding stops at the end token, after `max_tokens` tokens, or when `is_repetitive` returns True for the tokens so
    far. Above temperature 0 tokens are sampled (logits_rules.py).
    """

    index: int  # of the chunk in its batch
    pcm: PCM16  # shape (num_samples,), 16 kHz
    prompt: tuple[int, ...]  # ids; prompts may differ in length
    num_frames: int  # of the encoder window, 10 ms each
    max_tokens: int
    is_repetitive: Callable[[Sequence[int]], bool] | None = None
    temperature: float = 0.0
    seed: int = 0  # of the sampling noise
    start: int = 0  # samples from the beginning of the chunk
    num_previous: int = 0  # first ids of the prompt, those of the previous text, before `<|startoftranscript|>`
    num_begun: int = 0  # last ids of the prompt that the rules take for the beginning of the text
    section: LongAudio | None = None  # of which `pcm` is a window; it has the features, and `start` is a whole frame


@dataclass(frozen=True, slots=True)
class DecodingResult:
    """The tokens of one task, without the prompt and the end token.

    Attributes:
        tokens: Ids of text and timestamps.
        sum_logprob: Sum of the natural log-probabilities of the tokens, end tokens included.
        no_speech_prob: Probability of the no-speech token after `<|startoftranscript|>`.
        ended: The model chose the end token itself, before any limit.
        proposed: Drafted tokens that the main model verified. Drafts behind the first rejected one do not count.
        accepted: Those of them that the main model would have chosen itself.
        alignment: Times of all tokens; None unless `AlignmentLevel.TOKENS` was asked for.
        last_position: The encoder position (20 ms) that the last words attend to, from the first sample of the task;
            None where it was not asked for.
        num_passes: Number of end tokens in `sum_logprob`: above 1 where a chunk was decoded in several passes
            (chunk_decoding.py).
    """

    tokens: tuple[int, ...]
    sum_logprob: float
    no_speech_prob: float
    ended: bool
    proposed: int = 0
    accepted: int = 0
    alignment: TokenAlignment | None = None
    last_position: int | None = None
    num_passes: int = 1


class AlignmentLevel(StrEnum):
    """Part of a finished text that is aligned with the audio."""

    NONE = "none"
    END = "end"  # only where it ends
    TOKENS = "tokens"  # the end, and the time of every token


@dataclass(slots=True)
class DecodingStats:
    """Totals of a recognizer since it was created."""

    steps: int = 0  # of the main model over its rows, without the prefill of prompts
    drafts: int = 0  # tokens drafted for rows that had not ended
    proposed: int = 0  # drafts verified by the main model: in each step, up to the first rejected one
    accepted: int = 0  # drafts that the main model would have chosen itself
    tokens: int = 0  # of finished texts
    encoded_s: float = 0.0  # audio seconds that the encoder has processed; a chunk that is decoded again counts again
    row_tokens: int = 0  # tokens computed for occupied rows, those after the end of a text included

    def add(self, finished: Iterable[DecodingResult]) -> None:
        """Adds finished texts."""
        for result in finished:
            self.proposed += result.proposed
            self.accepted += result.accepted
            self.tokens += len(result.tokens)


def has_sampled(tasks: Iterable[DecodingTask]) -> bool:
    """Returns whether any task has a temperature above 0. Batches of greedy rows skip the sampling noise."""
    return any(task.temperature > 0 for task in tasks)
