"""Merges the hypotheses of one recording's chunks into its transcript.

Chunks without overlap: their texts are joined and their times are shifted. Chunks with overlap are merged by their
tokens (overlap_merge.py).

Each token keeps its times, where there are any, and words are made of the tokens that are kept: the times of a word are
those of the chunk whose tokens were kept. Cuts are found by the times of the alignment, as in transformers; the times
of words are the `word_starts` and `word_ends` of `TokenAlignment`. The module knows neither audio nor files nor models.
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
    """A recording's transcript. Times are seconds of the recording. What was not requested is None."""

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
    """Merges the chunks of a recording.

    Times are clamped to the recording and never decrease. The texts of words, joined without a separator, are the text;
    no word is shorter than 20 ms where there is space, and each segment begins with its first word and ends with its
    last.

    Args:
        chunks: In the order of their starts.
        num_samples: Length of the recording.
        language: Language of the text; decides whether chunks' texts are joined with a space.
        tokens: The checkpoint's tokenizer; needed for overlapping chunks.
        timestamps: Return segments.
        words: Return words.
        overlaps: Neighboring chunks share audio (`Chunker.overlaps`) and are merged by tokens.

    Raises:
        ValueError: The chunks overlap and `tokens` is None.
    """
    if not overlaps:
        return _join(chunks, language, timestamps, words)
    if tokens is None:
        raise ValueError("chunks with strides are merged by their tokens: the checkpoint's tokenizer is needed")
    spans = merge_overlapping(chunks, tokens, timestamps, words)
    text = "".join(span.text for span in spans).strip()
    if words:
        return MergedTranscript(text, *_segments_of_words(spans, num_samples, language, tokens))
    return MergedTranscript(text, _segments(spans, num_samples) if timestamps else None, None)


def _segments(spans: Sequence[TextSpan], num_samples: int) -> list[Segment]:
    end_s = num_samples / SAMPLE_RATE
    closed = [
        Segment(span.start_s or 0.0, end_s if span.end_s is None else span.end_s, span.text.strip()) for span in spans
    ]
    return list(_in_order((span for span in closed if span.text), 0.0, end_s))


def _segments_of_words(
    spans: Sequence[TextSpan], num_samples: int, language: str | None, tokens: Tokens
) -> tuple[list[Segment], list[Word]]:
    """Returns the words of all spans, and a segment per span. A timestamp token between two spans separates them."""
    between = TimedToken(tokens.timestamp_begin, 0, 0, 0.0, 0, 0)
    kept = [timed for span in spans for timed in (*span.tokens, between)]
    owners = [number for number, span in enumerate(spans) for _ in (*span.tokens, between)]
    groups = split_words([timed.token for timed in kept], language, tokens)
    aligned = [(kept[group.indices[0]].word_start, kept[group.indices[-1]].word_end) for group in groups]
    words, numbers = [], []
    for group, (start, end) in zip(groups, separate_words(aligned, 0, num_samples), strict=True):
        probability = sum(kept[index].probability for index in group.indices) / len(group.indices)
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
    """Returns segments with times of the recording. Text in the padding ends with the chunk."""

    def on_line(time_s: float) -> float:
        return (chunk.start + round(time_s * SAMPLE_RATE)) / SAMPLE_RATE

    moved = (replace(span, start_s=on_line(span.start_s), end_s=on_line(span.end_s)) for span in spans)
    return _in_order(moved, on_line(0.0), (chunk.start + chunk.num_samples) / SAMPLE_RATE)


def _in_order(spans: Iterable[Timed], from_s: float, until_s: float) -> Iterable[Timed]:
    """Returns segments clamped to [from_s, until_s], none beginning before the one before it has ended."""
    for span in spans:
        start_s = min(max(span.start_s, from_s), until_s)
        from_s = min(max(span.end_s, start_s), until_s)
        yield replace(span, start_s=start_s, end_s=from_s)
