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
from typing import TypeVar

from distil_ray.chunking.overlap_merge import ChunkHypothesis, TextSpan, TimedToken, merge_overlapping
from distil_ray.languages import is_unsegmented
from distil_ray.types import SAMPLE_RATE, Segment, Word
from distil_ray.whisper.tokenizer import SECONDS_PER_TIMESTAMP, Tokens
from distil_ray.whisper.word_boundaries import separate_words, split_words

SAMPLES_PER_POSITION = round(SECONDS_PER_TIMESTAMP * SAMPLE_RATE)  # of the encoder

Timed = TypeVar("Timed", bound=Segment)


@dataclass(frozen=True, slots=True)
class MergedTranscript:
    """A recording's transcript; ``segments`` and ``words`` in seconds of the recording, None where not asked for."""

    text: str
    segments: list[Segment] | None
    words: list[Word] | None


def merge_chunks(
    chunks: Sequence[ChunkHypothesis],
    num_samples: int,
    language: str | None,
    tokens: Tokens | None,
    timestamps: bool,
    words: bool = False,
    overlaps: bool = False,
) -> MergedTranscript:
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
    stretches = merge_overlapping(chunks, tokens, timestamps, words)
    text = "".join(stretch.text for stretch in stretches).strip()
    if words:
        return MergedTranscript(text, *_segments_of_words(stretches, num_samples, language, tokens))
    return MergedTranscript(text, _segments(stretches, num_samples) if timestamps else None, None)


def _segments(stretches: Sequence[TextSpan], num_samples: int) -> list[Segment]:
    end_s = num_samples / SAMPLE_RATE
    closed = [
        Segment(stretch.start_s or 0.0, end_s if stretch.end_s is None else stretch.end_s, stretch.text.strip())
        for stretch in stretches
    ]
    return list(_in_order((span for span in closed if span.text), 0.0, end_s))


def _segments_of_words(
    stretches: Sequence[TextSpan], num_samples: int, language: str | None, tokens: Tokens
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


def _join(chunks: Sequence[ChunkHypothesis], language: str | None, timestamps: bool, words: bool) -> MergedTranscript:
    separator = "" if is_unsegmented(language) else " "
    text = separator.join(text for chunk in chunks if (text := chunk.text.strip()))
    segments = [span for chunk in chunks for span in _shifted(chunk.segments or (), chunk)] if timestamps else None
    if not words:
        return MergedTranscript(text, segments, None)
    joined: list[Word] = []
    for chunk in chunks:
        moved = list(_shifted(chunk.words or (), chunk))
        if joined and moved:
            moved[0] = replace(moved[0], text=separator + moved[0].text)
        joined += moved
    return MergedTranscript(text, segments, joined)


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
