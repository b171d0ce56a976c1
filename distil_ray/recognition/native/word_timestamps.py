"""The words of a hypothesis with their times and probabilities, from the times of its tokens and the audio.

whisper/word_boundaries.py says which tokens form a word, alignment.py when they were spoken, and speech_activity.py
where there are pauses. A word lasts from its first spoken token to its last, as in openai's Whisper. Moving words out
of pauses, and giving each at least one position of 20 ms, is this project's own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, groupby

from distil_ray.recognition.base import PCM16
from distil_ray.recognition.hallucinations import find_hallucinations, spoken_segments
from distil_ray.recognition.native.speech_activity import find_pauses
from distil_ray.recognition.quality_flags import ANOMALOUS_WORDS, HALLUCINATION_DROPPED, has_anomalous_words
from distil_ray.types import SAMPLE_RATE, Hypothesis, Segment, TokenAlignment, Word
from distil_ray.whisper.features import SAMPLES_PER_POSITION
from distil_ray.whisper.tokenizer import Tokens
from distil_ray.whisper.word_boundaries import Interval, TokenGroup, fit_to_pauses, separate_words, split_words


def add_words(
    hypothesis: Hypothesis,
    alignment: TokenAlignment | None,
    language: str,
    tokens: Tokens,
    pcm: PCM16,
    num_samples: int | None = None,
) -> Hypothesis:
    """Returns the hypothesis with its words, and a flag if they are anomalous.

    Each segment is made to begin with its first word and to end with its last. The alignment keeps the ends of its
    tokens.

    Args:
        hypothesis: Without words.
        alignment: Of its tokens, and of tokens that were cut off behind them. None: the hypothesis is returned
            unchanged.
        language: That the text is written in.
        tokens: Of the checkpoint.
        pcm: The chunk, int16, shape (num_samples,).
        num_samples: Words lie in the first samples of the chunk, so many of them. None: in all of it.

    Returns:
        The hypothesis; it has neither words nor segments if its text was emptied (silence, or hallucinations).
    """
    if alignment is None:
        return hypothesis
    if not hypothesis.tokens:
        return replace(hypothesis, words=(), segments=(), alignment=TokenAlignment((), ()))
    num_tokens = len(hypothesis.tokens)
    alignment = TokenAlignment(alignment.ends[:num_tokens], alignment.probabilities[:num_tokens])
    groups = split_words(hypothesis.tokens, language, tokens)
    intervals = _word_intervals(groups, alignment, pcm, len(pcm) if num_samples is None else num_samples)
    words = tuple(_word(group, interval, alignment) for group, interval in zip(groups, intervals, strict=True))
    return replace(
        hypothesis,
        words=words,
        segments=_segments(groups, words, hypothesis.tokens, tokens),
        alignment=_with_word_times(alignment, groups, intervals),
        quality_flags=(*hypothesis.quality_flags, ANOMALOUS_WORDS)
        if has_anomalous_words(words)
        else hypothesis.quality_flags,
    )


def drop_hallucinations(
    hypothesis: Hypothesis, language: str, tokens: Tokens, pcm: PCM16, threshold_s: float
) -> Hypothesis:
    """Returns the hypothesis of a chunk without its hallucinations (hallucinations.py), and a flag if it had any.

    The scores remain those of the whole text.

    Args:
        hypothesis: With words.
        language: That the text is written in.
        tokens: Of the checkpoint.
        pcm: The chunk, int16, shape (num_samples,).
        threshold_s: `decoding.hallucination_silence_threshold_s`.
    """
    if not hypothesis.words or not hypothesis.segments or hypothesis.alignment is None:
        return hypothesis
    segments = spoken_segments(hypothesis.segments, hypothesis.words)
    dropped = find_hallucinations(segments, len(pcm) / SAMPLE_RATE, threshold_s)
    if not dropped:
        return hypothesis
    runs = _timestamp_runs(hypothesis.tokens, tokens)
    numbered = groupby(zip(runs, hypothesis.tokens, strict=True), key=lambda pair: pair[0])
    # Spaces alone are no segment.
    written = [run for run, pairs in numbered if tokens.decode([token for _, token in pairs])]
    assert len(written) == len(segments), "a segment is the text between two timestamps"
    dropped_runs = {written[index] for index in dropped}
    kept = [
        index
        for index, token in enumerate(hypothesis.tokens)
        if not tokens.is_text(token) or runs[index] not in dropped_runs
    ]
    ids = tuple(hypothesis.tokens[index] for index in kept)
    alignment = TokenAlignment(
        tuple(hypothesis.alignment.ends[index] for index in kept),
        tuple(hypothesis.alignment.probabilities[index] for index in kept),
    )
    flags = (*(flag for flag in hypothesis.quality_flags if flag != ANOMALOUS_WORDS), HALLUCINATION_DROPPED)
    rest = replace(hypothesis, tokens=ids, text=tokens.decode(ids), quality_flags=flags)
    return add_words(rest, alignment, language, tokens, pcm)


def _timestamp_runs(ids: Sequence[int], tokens: Tokens) -> list[int]:
    """Returns for each id the number of timestamps so far, its own included."""
    return list(accumulate(map(tokens.is_timestamp, ids)))


def _word_intervals(
    groups: Sequence[TokenGroup], alignment: TokenAlignment, pcm: PCM16, num_samples: int
) -> list[Interval]:
    """Returns the samples of each word, in the first `num_samples` of the chunk.

    Punctuation that is not attached to a word gets the shortest interval, behind the word before it.
    """
    spoken = [index for index, group in enumerate(groups) if group.spoken]
    aligned = _remove_overlaps([_aligned_interval(groups[index], alignment, len(pcm)) for index in spoken])
    fitted = dict(zip(spoken, fit_to_pauses(aligned, find_pauses(pcm), len(pcm)), strict=True))
    found: list[Interval] = []
    for index in range(len(groups)):
        end = found[-1][1] if found else 0
        found.append(fitted.get(index, (end, end)))
    return separate_words(found, 0, num_samples)


def _aligned_interval(group: TokenGroup, alignment: TokenAlignment, num_samples: int) -> Interval:
    """Returns the samples of a word according to the alignment."""
    first, last = group.spoken[0], group.spoken[-1]
    start = alignment.ends[first - 1] if first else 0
    return (
        min(start * SAMPLES_PER_POSITION, num_samples),
        min(alignment.ends[last] * SAMPLES_PER_POSITION, num_samples),
    )


def _remove_overlaps(intervals: Sequence[Interval]) -> list[Interval]:
    """Returns the intervals, cut where a later one begins.

    One pass of the decoder gives none that overlap. Where the remainder of a chunk was decoded by itself, its first
    word may begin before the one before it ends, which the alignment may have stretched over the whole remainder.
    """
    found: list[Interval] = []
    latest = intervals[-1][1] if intervals else 0
    for start, end in reversed(intervals):
        found.append((min(start, latest), min(end, latest)))
        latest = min(start, latest)
    return found[::-1]


def _word(group: TokenGroup, interval: Interval, alignment: TokenAlignment) -> Word:
    return Word(
        start_s=interval[0] / SAMPLE_RATE,
        end_s=interval[1] / SAMPLE_RATE,
        text=group.text,
        probability=_mean(alignment.probabilities[index] for index in group.indices),
    )


def _segments(
    groups: Sequence[TokenGroup], words: Sequence[Word], ids: Sequence[int], tokens: Tokens
) -> tuple[Segment, ...]:
    """Returns the texts between timestamp tokens, each from its first word to its last.

    Spaces alone between two timestamps, which a word may begin with, are no segment.
    """
    runs = _timestamp_runs(ids, tokens)
    firsts = (next(index for index in group.spoken or group.indices if tokens.decode([ids[index]])) for group in groups)
    numbered = [(runs[first], word) for first, word in zip(firsts, words, strict=True)]
    segments = []
    for _, pairs in groupby(numbered, key=lambda pair: pair[0]):
        mine = [word for _, word in pairs]
        text = "".join(word.text for word in mine).strip()
        segments.append(Segment(mine[0].start_s, mine[-1].end_s, text))
    return tuple(segments)


def _with_word_times(
    alignment: TokenAlignment, groups: Sequence[TokenGroup], intervals: Sequence[Interval]
) -> TokenAlignment:
    """Returns the alignment with the samples of its words.

    Each token lies within its word; tokens outside of words keep their times.
    """
    ends = [end * SAMPLES_PER_POSITION for end in alignment.ends]
    starts = [0, *ends[:-1]]
    for group, (start, end) in zip(groups, intervals, strict=True):
        for index in group.indices:
            starts[index] = min(max(starts[index], start), end)
            ends[index] = min(max(ends[index], start), end)
        starts[group.indices[0]], ends[group.indices[-1]] = start, end
    return replace(alignment, word_starts=tuple(starts), word_ends=tuple(ends))


def _mean(values: Iterable[float]) -> float:
    numbers = tuple(values)
    return sum(numbers) / len(numbers)
