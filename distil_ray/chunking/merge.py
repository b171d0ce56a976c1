"""The hypotheses of one recording's chunks become its transcript.

`quiet` and `vad` chunks share no audio: their texts are joined and their times shifted. `overlap` chunks share audio
with their neighbors: their tokens are laid over each other where most of them agree and cut in the middle of the
agreement, as transformers' pipeline does it. For the same tokens the text and times are exactly those of its
`_decode_asr`, which the tests hold it to; its known faults come along (a single shared token doubles the word, a phrase
said twice at a seam is halved). Where a seam is cut stands in seams.py.

Each token brings its times along, where there are any, and words are made of the tokens that stayed: a word's times
are those of the chunk whose tokens were kept. Seams are found by the times of the alignment, as in transformers; the
times that are given out are those that recognition/words.py made of them. Nothing here knows audio, files or models.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple, TypeVar

from distil_ray.chunking.overlap_cuts import find_cuts
from distil_ray.languages import is_unsegmented
from distil_ray.types import SAMPLE_RATE, Segment, TokenAlignment, Word
from distil_ray.whisper.tokenizer import SECONDS_PER_TIMESTAMP, WINDOW_S, Tokens
from distil_ray.whisper.word_boundaries import separate_words, split_words

SAMPLES_PER_POSITION = round(SECONDS_PER_TIMESTAMP * SAMPLE_RATE)  # of the encoder

Timed = TypeVar("Timed", bound=Segment)


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
    """What was heard in one chunk, and where the chunk lies: all integers are samples at 16 kHz.

    ``tokens`` are the ids after the prompt, time tokens among them. ``stride_left`` and ``stride_right`` count the
    samples shared with the neighbors. ``segments`` and ``words`` are relative to the chunk's first sample.
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

    def timed_token(self, index: int) -> TimedToken:
        """The token at `index`: it begins where the one before it ends."""
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


@dataclass(frozen=True, slots=True)
class Merged:
    """A recording's transcript; ``segments`` and ``words`` in seconds of the recording, None where not asked for."""

    text: str
    segments: list[Segment] | None
    words: list[Word] | None


class Stretch(NamedTuple):
    """Text between two time tokens, seconds from the recording's first sample; None where no token told the time."""

    start_s: float | None
    end_s: float | None
    text: str
    tokens: Sequence[TimedToken]


def merge(
    chunks: Sequence[ChunkHypothesis],
    num_samples: int,
    language: str | None,
    tokens: Tokens | None,
    timestamps: bool,
    words: bool = False,
    overlaps: bool = False,
) -> Merged:
    """The transcript of a recording of `num_samples`, from its chunks in the order of their starts.

    `overlaps`: neighboring chunks share audio (`Chunker.overlaps`) and are merged by their tokens, for which `tokens`
    are needed; otherwise texts are joined, and `language`, in which they are written, decides whether a blank stands
    between them. Segments come with `timestamps`,
    and words with `words`: joined without anything between them, their texts are the text, none is shorter than 20 ms
    (where there is room), and each segment begins with its first and ends with its last. Raises ValueError for
    missing tokens. Times are clamped to the recording and never run backwards.
    """
    if not overlaps:
        return _join(chunks, language, timestamps, words)
    if tokens is None:
        raise ValueError("chunks with strides are merged by their tokens: the checkpoint's tokenizer is needed")
    stretches = decode_overlapping(chunks, tokens, timestamps, words)
    text = "".join(stretch.text for stretch in stretches).strip()
    if words:
        return Merged(text, *_segments_of_words(stretches, num_samples, language, tokens))
    return Merged(text, _segments(stretches, num_samples) if timestamps else None, None)


def decode_overlapping(
    chunks: Sequence[ChunkHypothesis], tokens: Tokens, timestamps: bool, words: bool = False
) -> list[Stretch]:
    """The stretches of text that transformers' `_decode_asr` gives for these tokens and strides, blanks included.

    Its full text is their texts joined without anything between them. Tokens must not begin with a prompt. With
    `words` the tokens' times have a say in where seams are, as in transformers.
    """
    stitcher = _Stitcher(tokens, timestamps, words)
    for chunk in chunks:
        stitcher.add(chunk)
    return stitcher.finish()


class _Stitcher:
    """Walks through the tokens of all chunks and closes a stretch at every time token that is in no stride.

    Tokens of a stretch that runs over several chunks wait in `_pending`, one list a chunk, until its end is known.
    """

    def __init__(self, tokens: Tokens, timestamps: bool, by_times: bool) -> None:
        self._tokens = tokens
        self._timestamps = timestamps
        self._by_times = by_times
        self._done: list[Stretch] = []
        self._pending: list[list[TimedToken]] = []
        self._start_s: float | None = None
        self._offset_s = 0.0  # summed up chunk by chunk in floats, so that rounding falls as it does in transformers
        self._skip_next = False  # the time token before fell into a stride: its pair is skipped too
        self._language: int | None = None

    def add(self, chunk: ChunkHypothesis) -> None:
        length_s, left_s, right_s = (
            samples / SAMPLE_RATE for samples in (chunk.num_samples, chunk.stride_left, chunk.stride_right)
        )
        begin = self._tokens.timestamp_begin
        self._offset_s -= left_s
        first_kept = left_s / SECONDS_PER_TIMESTAMP + begin if left_s else begin
        first_skipped = self._first_in_right_stride(chunk.tokens, length_s - right_s) if right_s else None
        clock = _Clock(begin)
        current: list[TimedToken] = []
        for index, token in enumerate(chunk.tokens):
            if token >= begin:
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
            elif token < self._tokens.eot:
                current.append(chunk.timed_token(index))
            elif self._changes_language(token):
                self._close([*self._pending, current], None)
                current = []
        self._offset_s += length_s - right_s
        if current:
            self._pending.append(current)
        elif not self._pending:
            self._start_s = None

    def finish(self) -> list[Stretch]:
        if self._pending:
            self._close(self._pending, None)
        return self._done

    def _close(self, sequences: list[list[TimedToken]], end_s: float | None) -> None:
        ids = [[timed.token for timed in sequence] for sequence in sequences]
        times = [[(timed.start, timed.end) for timed in sequence] for sequence in sequences]
        cuts = find_cuts(ids, times if self._by_times else None)
        kept = [timed for sequence, cut in zip(sequences, cuts, strict=True) for timed in sequence[cut]]
        text = self._tokens.tokenizer.decode([timed.token for timed in kept], skip_special_tokens=False)
        self._done.append(Stretch(self._start_s, end_s, text, kept))
        self._pending = []
        self._start_s = None

    def _first_in_right_stride(self, ids: Sequence[int], stride_start_s: float) -> int | None:
        """The time token from which on times belong to the next chunk: the last one always does."""
        found: int | None = None
        for token in reversed(ids):
            if token >= self._tokens.timestamp_begin:
                time_s = (token - self._tokens.timestamp_begin) * SECONDS_PER_TIMESTAMP
                if found is not None and time_s < stride_start_s:
                    break
                found = token
        return found

    def _changes_language(self, token: int) -> bool:
        """Whether a special token names another language than the one before; it then ends a text without times."""
        if not self._tokens.sot < token < self._tokens.translate:
            return False
        before, self._language = self._language, token
        return before is not None and token != before and not self._timestamps


class _Clock:
    """Reads a chunk's time tokens. Times that run backwards mean that the model began a further window."""

    def __init__(self, timestamp_begin: int) -> None:
        self._begin = timestamp_begin
        self._latest_s = 0.0
        self._before_latest_s = 0.0
        self._windows_s = 0.0  # length of the windows that have ended

    def read(self, ids: Sequence[int], index: int, offset_s: float) -> float:
        """Seconds of the time token at `index`, from the recording's first sample."""
        time_s = (ids[index] - self._begin) * SECONDS_PER_TIMESTAMP
        if time_s < self._latest_s:
            if index >= 2 and min(ids[index - 1], ids[index - 2]) < self._begin:  # it ended with a single time token
                self._windows_s += WINDOW_S
            else:
                self._latest_s = self._before_latest_s
                self._windows_s += self._before_latest_s
        self._before_latest_s, self._latest_s = self._latest_s, time_s
        return time_s + offset_s + self._windows_s


def _segments(stretches: Sequence[Stretch], num_samples: int) -> list[Segment]:
    end_s = num_samples / SAMPLE_RATE
    closed = [
        Segment(stretch.start_s or 0.0, end_s if stretch.end_s is None else stretch.end_s, stretch.text.strip())
        for stretch in stretches
    ]
    return list(_in_order((span for span in closed if span.text), 0.0, end_s))


def _segments_of_words(
    stretches: Sequence[Stretch], num_samples: int, language: str | None, tokens: Tokens
) -> tuple[list[Segment], list[Word]]:
    """The words of all stretches, and a segment of those of each; a time token between two keeps them apart."""
    between = TimedToken(tokens.timestamp_begin, 0, 0, 0.0, 0, 0)
    kept = [timed for stretch in stretches for timed in (*stretch.tokens, between)]
    owners = [number for number, stretch in enumerate(stretches) for _ in (*stretch.tokens, between)]
    groups = split_words([timed.token for timed in kept], language, tokens)
    aligned = [(kept[group.indices[0]].word_start, kept[group.indices[-1]].word_end) for group in groups]
    words, numbers = [], []
    for group, (start, end) in zip(groups, separate_words(aligned, 0, num_samples), strict=True):
        probability = sum(kept[place].probability for place in group.indices) / len(group.indices)
        words.append(Word(start / SAMPLE_RATE, end / SAMPLE_RATE, group.text, probability))
        numbers.append(owners[(group.spoken or group.indices)[0]])
    segments = []
    for _, pairs in groupby(zip(numbers, words, strict=True), key=lambda pair: pair[0]):
        own = [word for _, word in pairs]
        segments.append(Segment(own[0].start_s, own[-1].end_s, "".join(word.text for word in own).strip()))
    return segments, words


def _join(chunks: Sequence[ChunkHypothesis], language: str | None, timestamps: bool, words: bool) -> Merged:
    separator = "" if is_unsegmented(language) else " "
    text = separator.join(text for chunk in chunks if (text := chunk.text.strip()))
    segments = [span for chunk in chunks for span in _shifted(chunk.segments or (), chunk)] if timestamps else None
    if not words:
        return Merged(text, segments, None)
    joined: list[Word] = []
    for chunk in chunks:
        moved = list(_shifted(chunk.words or (), chunk))
        if joined and moved:
            moved[0] = replace(moved[0], text=separator + moved[0].text)
        joined += moved
    return Merged(text, segments, joined)


def _shifted(spans: Iterable[Timed], chunk: ChunkHypothesis) -> Iterable[Timed]:
    """Times of a chunk on the recording's time line. What the model heard in the padding ends with the chunk."""

    def on_line(time_s: float) -> float:
        return (chunk.start + round(time_s * SAMPLE_RATE)) / SAMPLE_RATE

    moved = (replace(span, start_s=on_line(span.start_s), end_s=on_line(span.end_s)) for span in spans)
    return _in_order(moved, on_line(0.0), (chunk.start + chunk.num_samples) / SAMPLE_RATE)


def _in_order(spans: Iterable[Timed], from_s: float, until_s: float) -> Iterable[Timed]:
    """Spans clamped to [from_s, until_s], none beginning before the one before it has ended."""
    for span in spans:
        start_s = min(max(span.start_s, from_s), until_s)
        from_s = min(max(span.end_s, start_s), until_s)
        yield replace(span, start_s=start_s, end_s=from_s)
