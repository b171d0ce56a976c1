"""The words of a hypothesis, each with its times and how sure it was, from the times of its tokens.

Which tokens make a word stands in whisper/words.py, when they were spoken comes from alignment.py; here the two meet.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from distil_ray.recognition.flags import ODD_WORDS, has_odd_words
from distil_ray.recognition.recognizer import Alignment, Hypothesis, Word
from distil_ray.whisper.features import SAMPLE_RATE, SAMPLES_PER_POSITION
from distil_ray.whisper.tokens import Tokens
from distil_ray.whisper.words import split_words


def with_words(hypothesis: Hypothesis, alignment: Alignment | None, language: str, tokens: Tokens) -> Hypothesis:
    """The hypothesis with its words, as written in `language`, and a flag if they are odd.

    Unchanged without an alignment; where its text was emptied (silence), it has no words.
    """
    if alignment is None:
        return hypothesis
    if not hypothesis.tokens:
        return replace(hypothesis, words=(), alignment=Alignment((), ()))
    groups = split_words(hypothesis.tokens, language, tokens)
    words = tuple(_word(group.places, group.text, alignment) for group in groups)
    flags = (*hypothesis.flags, ODD_WORDS) if has_odd_words(words) else hypothesis.flags
    return replace(hypothesis, words=words, alignment=alignment, flags=flags)


def _word(places: Sequence[int], text: str, alignment: Alignment) -> Word:
    start = alignment.ends[places[0] - 1] if places[0] else 0
    return Word(
        start_s=_seconds(start),
        end_s=_seconds(alignment.ends[places[-1]]),
        text=text,
        probability=_mean(alignment.probabilities[place] for place in places),
    )


def _seconds(positions: int) -> float:
    return positions * SAMPLES_PER_POSITION / SAMPLE_RATE


def _mean(values: Iterable[float]) -> float:
    numbers = tuple(values)
    return sum(numbers) / len(numbers)
