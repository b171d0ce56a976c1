"""Transcripts against references: word and character error rates that say how they were counted.

A WER without its normalizer's version cannot be compared: name and version stand beside every score (normalizers.py).
The unit is the word, or the character where the language writes no spaces; S, D and I come from jiwer's alignment.
Rates of many recordings are sums of edits over sums of words, never means of rates, and their intervals come from
resampling recordings, or speakers. Nothing here knows files or how a text came to be.
"""

import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distil_ray.chunking.merge import is_spaceless
from distil_ray.config import ScoringConfig
from distil_ray.evaluation.normalizers import choose_normalizer, normalize, versioned

DRAWS_AT_ONCE = 2_000_000  # draws of the bootstrap held in memory: 24 MB of numbers and values
DRAWS_A_COUNT = 8  # a multinomial count takes about as long as this many single draws
LETTERS_A_WORD = 8  # roughly, blank included: turns word edits into a guess of character edits


@dataclass(frozen=True, slots=True)
class Score:
    """A transcript's texts and counts, by the column names of the output.

    ``num_ref_words`` and S, D, I count words, or characters where the language writes no spaces. Characters of ``cer``
    include single blanks between words, as jiwer counts them. Counts are None without a reference; a rate is None
    where the reference has nothing to divide by, though its insertions count in a pooled rate.
    """

    text_normalized: str
    reference_normalized: str | None
    num_ref_words: int | None
    substitutions: int | None
    deletions: int | None
    insertions: int | None
    wer: float | None
    num_ref_chars: int | None
    char_edits: int | None
    cer: float | None
    normalizer: str


Kind = Literal["equal", "substitute", "delete", "insert"]


@dataclass(frozen=True, slots=True)
class Aligned:
    """Neighboring words (or characters) of one alignment that share their fate.

    ``reference`` is empty for an insertion and ``heard`` for a deletion; else both have the same number of words.
    """

    kind: Kind
    reference: tuple[str, ...]
    heard: tuple[str, ...]


class Scorer:
    """Scores recordings one at a time; normalizers are loaded when they are first needed and kept."""

    def __init__(self, config: ScoringConfig) -> None:
        self._choice = config.normalizer

    def score(self, text: str, reference: str | None, language: str | None) -> Score:
        """Counts of a transcript against its reference, in the language that both are written in.

        `reference` None means that there is none; an empty one says that silence is right. Never raises for what a
        text holds: where an English normalizer breaks off (over a number of thousands of digits), ``whisper_basic``
        takes both texts, and its name stands in the score.
        """
        name = choose_normalizer(self._choice, language)
        try:
            heard, truth = _normalize_both(name, text, reference)
        except (ArithmeticError, AssertionError, ValueError):
            name = "whisper_basic"
            heard, truth = _normalize_both(name, text, reference)
        if truth is None:
            return Score(heard, None, None, None, None, None, None, None, None, None, versioned(name))
        spaceless = is_spaceless(language)
        ref_units, hyp_units = units(truth, spaceless), units(heard, spaceless)
        substitutions, deletions, insertions = _align(ref_units, hyp_units)
        edits = substitutions + deletions + insertions
        num_ref_chars, char_edits = (
            (len(ref_units), edits) if spaceless else _count_characters(" ".join(ref_units), " ".join(hyp_units), edits)
        )
        return Score(
            text_normalized=heard,
            reference_normalized=truth,
            num_ref_words=len(ref_units),
            substitutions=substitutions,
            deletions=deletions,
            insertions=insertions,
            wer=pooled_rate(edits, len(ref_units)),
            num_ref_chars=num_ref_chars,
            char_edits=char_edits,
            cer=pooled_rate(char_edits, num_ref_chars),
            normalizer=versioned(name),
        )


def pooled_rate(edits: int, units: int) -> float | None:
    """Edits over the units of the references, as a fraction; None where the references are empty."""
    return edits / units if units else None


def counted_characters(reference: str, heard: str, num_ref_words: int, num_heard_words: int) -> bool:
    """Whether a score of two normalized texts has counted characters, told by its counts of both.

    A reference alone does not tell where it has a blank after each character, or is one character. Where words and
    characters fit both texts, every word is a character, and it is all the same.
    """
    fits_words, fits_characters = (
        (len(units(reference, spaceless)), len(units(heard, spaceless))) == (num_ref_words, num_heard_words)
        for spaceless in (False, True)
    )
    return fits_characters and not fits_words


def align(reference: str, heard: str, spaceless: bool) -> list[Aligned]:
    """The alignment behind a score, in order, of two normalized texts; `spaceless`: of their characters."""
    ref_units, hyp_units = units(reference, spaceless), units(heard, spaceless)
    if not ref_units or not hyp_units:
        both = (Aligned("delete", tuple(ref_units), ()), Aligned("insert", (), tuple(hyp_units)))
        return [one for one in both if one.reference or one.heard]
    return [
        Aligned(
            chunk.type,
            tuple(ref_units[chunk.ref_start_idx : chunk.ref_end_idx]),
            tuple(hyp_units[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in _process(ref_units, hyp_units).alignments[0]
    ]


def bootstrap_interval(
    errors: NDArray[np.int64], words: NDArray[np.int64], groups: NDArray[np.int64] | None, samples: int, seed: int
) -> tuple[float, float] | None:
    """The 95 % interval of a pooled WER, by the bootstrap of Bisani and Ney (ICASSP 2004), as fractions.

    `errors` and `words`: edits and reference words of each recording, shape (num_recordings,). As many units as there
    are get drawn with replacement, `samples` times; the interval lies between the 2.5th and the 97.5th percentile of
    the WERs (sum of edits over sum of words; a draw without a single word is left out). A unit is a recording or,
    with `groups` (shape (num_recordings,): a number for each speaker, negative where unknown), all recordings of a
    speaker: what one person says is not independent. None for fewer than two units or without words. The same seed
    gives the same interval. With differences of edits of two transcripts as `errors` it is the paired bootstrap.

    Every draw is exact: equal recordings (the same edits and words) are drawn together by their multinomial counts
    where there are many of them, else each by its number. A million recordings drawn 1000 times take about a second.
    """
    if groups is not None:
        errors, words = _pool(errors, words, groups)
    if len(words) < 2 or not words.sum():
        return None
    order = np.lexsort((words, errors))  # the same interval whatever order the recordings come in
    drawn_errors, drawn_words = _draw(errors[order], words[order], samples, np.random.default_rng(seed))
    rates = drawn_errors[drawn_words > 0] / drawn_words[drawn_words > 0]
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)


def _draw(
    errors: NDArray[np.int64], words: NDArray[np.int64], samples: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums of errors and of words over as many recordings as there are, drawn with replacement; shapes (samples,)."""
    num = len(words)
    distinct, counts = np.unique((errors.astype(np.int64) << 32) + words, return_counts=True)
    pairs = np.stack([distinct >> 32, distinct & 0xFFFF_FFFF], axis=1)
    together = len(distinct) * DRAWS_A_COUNT < num
    at_once = max(1, DRAWS_AT_ONCE // (len(distinct) if together else num))
    sums = []
    for done in range(0, samples, at_once):
        rows = min(at_once, samples - done)
        if together:
            sums.append(rng.multinomial(num, counts / num, size=rows) @ pairs)
        else:
            drawn = rng.integers(num, size=(rows, num), dtype=np.uint32)
            sums.append(np.stack([errors[drawn].sum(axis=1), words[drawn].sum(axis=1)], axis=1))
    gathered = np.concatenate(sums)
    return gathered[:, 0], gathered[:, 1]


def _pool(
    errors: NDArray[np.int64], words: NDArray[np.int64], groups: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums by group; every recording of an unknown group stays by itself."""
    known = groups >= 0
    _, numbers = np.unique(groups[known], return_inverse=True)
    pooled = [
        np.concatenate([np.bincount(numbers, weights=counts[known]).astype(np.int64), counts[~known]])
        for counts in (errors, words)
    ]
    return pooled[0], pooled[1]


def _normalize_both(name: str, text: str, reference: str | None) -> tuple[str, str | None]:
    return normalize(name, text), None if reference is None else normalize(name, reference)


def units(text: str, spaceless: bool) -> list[str]:
    """Words; or characters without blanks, each with the marks that combine with it."""
    if not spaceless:
        return text.split()
    units: list[str] = []
    for character in "".join(text.split()):
        if units and unicodedata.category(character).startswith("M"):
            units[-1] += character
        else:
            units.append(character)
    return units


def _align(reference: list[str], hypothesis: list[str]) -> tuple[int, int, int]:
    """(substitutions, deletions, insertions) of the shortest alignment."""
    if not reference or not hypothesis:
        return 0, len(reference), len(hypothesis)
    output = _process(reference, hypothesis)
    return output.substitutions, output.deletions, output.insertions


def _process(reference: list[str], hypothesis: list[str]) -> Any:
    """jiwer's WordOutput; neither list may be empty."""
    import jiwer

    return jiwer.process_words(" ".join(reference), " ".join(hypothesis))


def _count_characters(reference: str, hypothesis: str, word_edits: int) -> tuple[int, int]:
    """(characters of the reference, edits to the hypothesis).

    What jiwer would count, by the library that jiwer counts with: only there can a good guess of the result be given,
    which makes it eight times faster on a transcript of ten hours, and changes nothing.
    """
    from rapidfuzz.distance import Levenshtein

    return len(reference), Levenshtein.distance(reference, hypothesis, score_hint=LETTERS_A_WORD * (word_edits + 1))
