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
from distil_ray.types import SAMPLE_RATE, Segment, TokenAlignment, Word
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
    tokens: Tokens | None,
    timestamps: bool,
    words: bool = False,
    overlaps: bool = False,
) -> MergedTranscript:
    """Merges the chunks of a recording.

    Times are clamped to the recording and never decrease. The texts of words, joined without a separator, are the text;
    no word is shorter than 20 ms where there is space, and each segment begins with its first word and ends with its
    last. Texts are joined with a space, unless both are in languages that write none. Texts in different languages are
    not merged by tokens.

    Args:
        chunks: In the order of their starts.
        num_samples: Length of the recording.
        tokens: The checkpoint's tokenizer; needed for overlapping chunks.
        timestamps: Return segments.
        words: Return words.
        overlaps: Neighboring chunks share audio (`Chunker.overlaps`) and are merged by tokens.

    Raises:
        ValueError: The chunks overlap and `tokens` is None.
    """
    if not overlaps:
        return _join(((chunk.language, _place(chunk, timestamps, words)) for chunk in chunks), timestamps, words)
    if tokens is None:
        raise ValueError("chunks with strides are merged by their tokens: the checkpoint's tokenizer is needed")
    runs = [list(run) for _, run in groupby(chunks, key=lambda chunk: chunk.language)]
    ends = (num_samples if run is runs[-1] else _unshared_end(run[-1]) for run in runs)
    merged = (
        (run[0].language, _merge_run(run, end, tokens, timestamps, words)) for run, end in zip(runs, ends, strict=True)
    )
    return _join(merged, timestamps, words)


def _merge_run(
    chunks: Sequence[ChunkHypothesis], end: int, tokens: Tokens, timestamps: bool, words: bool
) -> MergedTranscript:
    """Merges overlapping chunks in one language. `end`: the sample at which their transcript ends at the latest."""
    start, language = chunks[0].start + chunks[0].stride_left, chunks[0].language
    if timestamps:
        chunks = [_with_first_timestamp(chunk, tokens) for chunk in chunks]
    spans = merge_overlapping(chunks, tokens, timestamps, words)
    text = "".join(span.text for span in spans).strip()
    if words:
        return MergedTranscript(text, *_segments_of_words(spans, start, end, language, tokens))
    return MergedTranscript(text, _segments(spans, start, end) if timestamps else None, None)


def _with_first_timestamp(chunk: ChunkHypothesis, tokens: Tokens) -> ChunkHypothesis:
    """Returns the chunk with the timestamp that begins its text.

    It is missing behind `decoding.prefix`; the first timestamp, which ends a segment, would then be taken to begin one.
    """
    is_timestamp = [tokens.is_timestamp(token) for token in chunk.tokens]
    if not any(is_timestamp) or is_timestamp[0]:
        return chunk
    aligned = chunk.alignment
    if aligned is not None:
        aligned = TokenAlignment(
            (0, *aligned.ends), (1.0, *aligned.probabilities), (0, *aligned.word_starts), (0, *aligned.word_ends)
        )
    return replace(chunk, tokens=(tokens.timestamp_begin, *chunk.tokens), alignment=aligned)


def _unshared_end(chunk: ChunkHypothesis) -> int:
    return chunk.start + chunk.num_samples - chunk.stride_right


def _segments(spans: Sequence[TextSpan], start: int, end: int) -> list[Segment]:
    start_s, end_s = start / SAMPLE_RATE, end / SAMPLE_RATE
    closed = [
        Segment(
            start_s if span.start_s is None else span.start_s,
            end_s if span.end_s is None else span.end_s,
            span.text.strip(),
        )
        for span in spans
    ]
    return list(_in_order((span for span in closed if span.text), start_s, end_s))


def _segments_of_words(
    spans: Sequence[TextSpan], run_start: int, run_end: int, language: str | None, tokens: Tokens
) -> tuple[list[Segment], list[Word]]:
    """Returns the words of all spans, and a segment per span. A timestamp token between two spans separates them."""
    between = TimedToken(tokens.timestamp_begin, 0, 0, 0.0, 0, 0)
    kept = [timed for span in spans for timed in (*span.tokens, between)]
    owners = [number for number, span in enumerate(spans) for _ in (*span.tokens, between)]
    groups = split_words([timed.token for timed in kept], language, tokens)
    aligned = [(kept[group.indices[0]].word_start, kept[group.indices[-1]].word_end) for group in groups]
    words, numbers = [], []
    for group, (start, end) in zip(groups, separate_words(aligned, run_start, run_end), strict=True):
        probability = sum(kept[index].probability for index in group.indices) / len(group.indices)
        words.append(Word(start / SAMPLE_RATE, end / SAMPLE_RATE, group.text, probability))
        numbers.append(owners[(group.spoken or group.indices)[0]])
    segments = []
    for _, pairs in groupby(zip(numbers, words, strict=True), key=lambda pair: pair[0]):
        own = [word for _, word in pairs]
        segments.append(Segment(own[0].start_s, own[-1].end_s, "".join(word.text for word in own).strip()))
    return segments, words


def _place(chunk: ChunkHypothesis, timestamps: bool, words: bool) -> MergedTranscript:
    """Returns the text of a chunk with times of the recording."""
    return MergedTranscript(
        chunk.text.strip(),
        list(_shifted(chunk.segments or (), chunk)) if timestamps else None,
        list(_shifted(chunk.words or (), chunk)) if words else None,
    )


def _join(parts: Iterable[tuple[str | None, MergedTranscript]], timestamps: bool, words: bool) -> MergedTranscript:
    """Joins consecutive transcripts, each with its language."""
    text, language_before = "", None
    segments: list[Segment] = []
    joined: list[Word] = []
    for language, part in parts:
        segments += part.segments or ()
        if not part.text:
            continue
        is_spaceless = is_unsegmented(language) and is_unsegmented(language_before)
        separator = "" if is_spaceless or not text else " "
        text += separator + part.text
        first, *others = part.words or (None,)
        if first is not None:
            joined += [replace(first, text=separator + first.text) if joined else first, *others]
        language_before = language
    return MergedTranscript(text, segments if timestamps else None, joined if words else None)


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
