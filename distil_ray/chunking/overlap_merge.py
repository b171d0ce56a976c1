"""Merges overlapping chunks by their tokens.

Chunks share audio with their neighbors. The tokens of two neighbors are laid over each other where most of them agree,
and cut in the middle of the agreement, as transformers' pipeline does it. For the same tokens the text and times are
exactly those of its `_decode_asr`, and the cuts those of its `_find_longest_common_sequence`; tests compare them. Its
known faults are included: a single shared token doubles the word, and a phrase that was said twice at a chunk boundary
is there once.

`find_cut` counts the agreement of all alignments of a boundary at once in numpy, where transformers compares them one
after the other: a boundary of 400 tokens takes a quarter of a millisecond instead of 20 to 90.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distil_ray.types import SAMPLE_RATE, Segment, TokenAlignment, Word
from distil_ray.whisper.tokenizer import SECONDS_PER_TIMESTAMP, WINDOW_S, Tokens

SAMPLES_PER_POSITION = round(SECONDS_PER_TIMESTAMP * SAMPLE_RATE)  # of the encoder


class TimedToken(NamedTuple):
    """A token with its times in samples of the recording, as aligned and for words, all 0 where they are not known, and
    its probability."""

    token: int
    start: int
    end: int
    probability: float
    word_start: int
    word_end: int


@dataclass(frozen=True, slots=True)
class ChunkHypothesis:
    """The hypothesis of one chunk and the chunk's span. All integers are samples at 16 kHz.

    ``tokens`` are the ids after the prompt, timestamp tokens included. ``stride_left`` and ``stride_right`` count the
    samples shared with the neighbors. ``segments`` and ``words`` are relative to the chunk's first sample. ``language``
    is the code of the text's language; None counts as a language with spaces between words.
    """

    start: int
    num_samples: int
    stride_left: int
    stride_right: int
    text: str
    tokens: tuple[int, ...]
    segments: Sequence[Segment] | None = None
    words: Sequence[Word] | None = None
    alignment: TokenAlignment | None = None
    language: str | None = None

    def timed_token(self, index: int) -> TimedToken:
        """Returns the token at `index`. It begins where the one before it ends."""
        if self.alignment is None:
            return TimedToken(self.tokens[index], 0, 0, 0.0, 0, 0)
        start, end = (self.alignment.ends[index - 1] if index else 0), self.alignment.ends[index]
        return TimedToken(
            self.tokens[index],
            self.start + start * SAMPLES_PER_POSITION,
            self.start + end * SAMPLES_PER_POSITION,
            self.alignment.probabilities[index],
            self.start + self.alignment.word_starts[index],
            self.start + self.alignment.word_ends[index],
        )


class TextSpan(NamedTuple):
    """Text between two timestamp tokens. Times are seconds of the recording; None where no token has the time."""

    start_s: float | None
    end_s: float | None
    text: str
    tokens: Sequence[TimedToken]


def merge_overlapping(
    chunks: Sequence[ChunkHypothesis], tokens: Tokens, timestamps: bool, words: bool = False
) -> list[TextSpan]:
    """Returns the spans of text that transformers' `_decode_asr` gives for these tokens and strides, blanks included.

    Its full text is their texts joined without anything between them. Tokens must not begin with a prompt. With
    `words` the tokens' times take part in finding the cuts, as in transformers. The chunks are consecutive, and in one
    language; the first one need not be the first of its recording.
    """
    first_unshared = chunks[0].start + chunks[0].stride_left if chunks else 0
    merger = _OverlapMerger(tokens, timestamps, words, first_unshared / SAMPLE_RATE)
    for chunk in chunks:
        merger.add(chunk)
    return merger.finish()


class _OverlapMerger:
    """Walks through the tokens of all chunks and closes a span at every timestamp token that is in no stride.

    Tokens of a span that runs over several chunks wait in `_pending`, one list a chunk, until its end is known.
    """

    def __init__(self, tokens: Tokens, timestamps: bool, by_times: bool, offset_s: float) -> None:
        self._tokens = tokens
        self._timestamps = timestamps
        self._by_times = by_times
        self._done: list[TextSpan] = []
        self._pending: list[list[TimedToken]] = []
        self._start_s: float | None = None
        self._offset_s = (
            offset_s  # summed up chunk by chunk in floats, so that rounding falls as it does in transformers
        )
        self._skip_next = False  # the timestamp token before fell into a stride: its pair is skipped too
        self._language: int | None = None

    def add(self, chunk: ChunkHypothesis) -> None:
        length_s, left_s, right_s = (
            samples / SAMPLE_RATE for samples in (chunk.num_samples, chunk.stride_left, chunk.stride_right)
        )
        begin = self._tokens.timestamp_begin
        self._offset_s -= left_s
        first_kept = left_s / SECONDS_PER_TIMESTAMP + begin if left_s else begin
        first_skipped = self._first_in_right_stride(chunk.tokens, length_s - right_s) if right_s else None
        clock = _Clock(self._tokens)
        current: list[TimedToken] = []
        for index, token in enumerate(chunk.tokens):
            if self._tokens.is_timestamp(token):
                time_s = round(clock.read(chunk.tokens, index, self._offset_s), 2)
                if first_skipped is not None and token >= first_skipped:
                    self._skip_next = True
                elif self._skip_next or (self._pending and token < first_kept):
                    self._skip_next = False
                elif self._start_s is None:
                    self._start_s = time_s
                elif time_s != self._start_s:  # the same time twice is a beginning again, not an end
                    self._close([*self._pending, current], time_s)
                    current = []
            elif self._tokens.is_text(token):
                current.append(chunk.timed_token(index))
            elif self._changes_language(token):
                self._close([*self._pending, current], None)
                current = []
        self._offset_s += length_s - right_s
        if current:
            self._pending.append(current)
        elif not self._pending:
            self._start_s = None

    def finish(self) -> list[TextSpan]:
        if self._pending:
            self._close(self._pending, None)
        return self._done

    def _close(self, sequences: list[list[TimedToken]], end_s: float | None) -> None:
        ids = [[timed.token for timed in sequence] for sequence in sequences]
        times = [[(timed.start, timed.end) for timed in sequence] for sequence in sequences]
        cuts = find_cuts(ids, times if self._by_times else None)
        kept = [timed for sequence, cut in zip(sequences, cuts, strict=True) for timed in sequence[cut]]
        text = self._tokens.tokenizer.decode([timed.token for timed in kept], skip_special_tokens=False)
        self._done.append(TextSpan(self._start_s, end_s, text, kept))
        self._pending = []
        self._start_s = None

    def _first_in_right_stride(self, ids: Sequence[int], stride_start_s: float) -> int | None:
        """Returns the timestamp token from which on times belong to the next chunk: the last one always does."""
        found: int | None = None
        for token in reversed(ids):
            if self._tokens.is_timestamp(token):
                time_s = (token - self._tokens.timestamp_begin) * SECONDS_PER_TIMESTAMP
                if found is not None and time_s < stride_start_s:
                    break
                found = token
        return found

    def _changes_language(self, token: int) -> bool:
        """Returns True if a special token changes the language, which ends the span of a text without times."""
        if not self._tokens.sot < token < self._tokens.translate:
            return False
        before, self._language = self._language, token
        return before is not None and token != before and not self._timestamps


class _Clock:
    """Reads a chunk's timestamp tokens. Times that run backwards mean that the model began a further window."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._latest_s = 0.0
        self._before_latest_s = 0.0
        self._windows_s = 0.0  # length of the windows that have ended

    def read(self, ids: Sequence[int], index: int, offset_s: float) -> float:
        """Returns the seconds of the timestamp token at `index`, from the recording's first sample."""
        time_s = (ids[index] - self._tokens.timestamp_begin) * SECONDS_PER_TIMESTAMP
        if time_s < self._latest_s:
            # It ended with a single timestamp token.
            if index >= 2 and not all(map(self._tokens.is_timestamp, ids[index - 2 : index])):
                self._windows_s += WINDOW_S
            else:
                self._latest_s = self._before_latest_s
                self._windows_s += self._before_latest_s
        self._before_latest_s, self._latest_s = self._latest_s, time_s
        return time_s + offset_s + self._windows_s


Times = Sequence[tuple[int, int]]  # start and end of each token of a sequence, in samples of the recording


def find_cut(left: Sequence[int], right: Sequence[int], times: tuple[Times, Times] | None = None) -> tuple[int, int]:
    """Returns how many tokens of `left` to keep and of `right` to drop, so that shared audio has its text once.

    Every alignment of the two is scored by (equal tokens / length of the shift) plus a little for longer shifts;
    at least two tokens must be equal, the first of the best ones wins, and the cut is in the middle of the overlap.
    Without any such alignment everything is kept. Where the `times` of both are known, equal tokens count only if the
    left one is not the later, so that words that were said twice are not taken for shared audio. Each may hold a
    chunk's tokens (448 at most, far below 32,767, the maximum of an int16 count).
    """
    num_left, num_right = len(left), len(right)
    if not num_left or not num_right:
        return num_left, 0
    num_equal = _count_equal(left, right, times)
    shifts = np.flatnonzero(num_equal > 1) + 1
    if not shifts.size:
        return num_left, 0
    shift = int(shifts[np.argmax(num_equal[shifts - 1] / shifts + shifts / 10000.0)])
    left_start, left_stop = max(0, num_left - shift), min(num_left, num_left + num_right - shift)
    right_start, right_stop = max(0, shift - num_left), min(num_right, shift)
    return (left_start + left_stop) // 2, (right_start + right_stop) // 2


def _count_equal(left: Sequence[int], right: Sequence[int], times: tuple[Times, Times] | None) -> NDArray[np.int16]:
    """Returns the number of equal tokens of each alignment.

    Item n - 1 lays the first n tokens of `right` at most over the end of `left`.

    Pairs of one alignment lie on one diagonal of the table of all pairs. Read with rows shorter by one than they were
    written, the table has its diagonals as columns: one sum over rows counts them all, whatever the tokens are.
    """
    num_left, num_right = len(left), len(right)
    width = num_left + num_right
    table = np.zeros((num_left, width), np.int16)
    table[:, :num_right] = np.equal.outer(np.asarray(left[::-1], np.int32), np.asarray(right, np.int32))
    if times is not None:
        table[:, :num_right] &= _not_later(times[0][::-1], times[1])
    diagonals = table.reshape(-1)[: num_left * (width - 1)].reshape(num_left, width - 1)
    counts: NDArray[np.int16] = np.add.reduce(diagonals, axis=0, dtype=np.int16)
    return counts


def _not_later(left: Times, right: Times) -> NDArray[np.bool_]:
    """Returns, of shape (left, right), where a token of `left` begins first, or with the other and ends no later."""
    first, second = (np.asarray(times, np.int64).reshape(-1, 2) for times in (left, right))
    begins = np.less.outer(first[:, 0], second[:, 0])
    ends = np.equal.outer(first[:, 0], second[:, 0]) & np.less_equal.outer(first[:, 1], second[:, 1])
    return begins | ends


def find_cuts(sequences: Sequence[Sequence[int]], times: Sequence[Times] | None = None) -> list[slice]:
    """Returns the slice of each token sequence of neighboring chunks that is kept."""
    cuts = []
    begin = 0
    for i in range(len(sequences) - 1):
        both = None if times is None else (times[i][begin:], times[i + 1])
        kept, dropped = find_cut(sequences[i][begin:], sequences[i + 1], both)
        cuts.append(slice(begin, begin + kept))
        begin = dropped
    cuts.append(slice(begin, len(sequences[-1])))
    return cuts
