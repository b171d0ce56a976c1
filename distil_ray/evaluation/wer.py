"""Word and character error rates of transcripts, and confidence intervals of pooled rates.

Every score carries the name and the version of its normalizer (`normalizers.py`), because rates of different versions
cannot be compared. The unit is the word, or the character in unsegmented languages. Substitutions, deletions and
insertions come from jiwer's alignment. The rate of many recordings is the sum of edits over the sum of words, not the
mean of rates; its interval comes from resampling recordings or speakers. This module knows no files.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distil_ray.config import ScoringConfig
from distil_ray.evaluation.normalizers import choose_common_normalizer, name_with_versions, normalize
from distil_ray.languages import is_unsegmented

DRAWS_AT_ONCE = 2_000_000  # draws of the bootstrap held in memory: 24 MB of numbers and values
DRAWS_PER_COUNT = 8  # a multinomial count takes about as long as this many single draws
LETTERS_PER_WORD = 8  # about, blank included; converts word edits into an estimate of character edits


@dataclass(frozen=True, slots=True)
class Score:
    """Normalized texts and edit counts of one transcript, named as the columns of the output.

    `num_ref_words`, `substitutions`, `deletions` and `insertions` count words, or characters in unsegmented languages.
    The characters of `cer` include single blanks between words, as jiwer counts them. Counts are None without a
    reference. A rate is None where the reference is empty; its insertions still count in a pooled rate.
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


EditKind = Literal["equal", "substitute", "delete", "insert"]


@dataclass(frozen=True, slots=True)
class AlignedSpan:
    """Consecutive words (or characters) of an alignment with the same kind of edit.

    `reference` is empty for an insertion, `hypothesis` for a deletion; otherwise both have the same number of words.
    """

    kind: EditKind
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]


class Scorer:
    """Scores transcripts one at a time. Normalizers are loaded on first use and kept."""

    def __init__(self, config: ScoringConfig) -> None:
        self._choice = config.normalizer

    def score(self, text: str, reference: str | None, language: str | Sequence[str] | None) -> Score:
        """Compares a transcript with its reference.

        Does not raise for any text: where the English normalizer fails (on a number of thousands of digits), both
        texts are normalized by ``whisper_basic``, and the score names it.

        Args:
            text: The transcript.
            reference: The reference; None if there is none. An empty reference means that nothing is said.
            language: Code of the language of both texts, ``en`` or ``en-GB``; several codes where they have passages in
                several; None if unknown.
        """
        languages = [language] if isinstance(language, str | None) else language
        name = choose_common_normalizer(self._choice, languages)
        try:
            hypothesis, truth = _normalize_both(name, text, reference)
        except (ArithmeticError, AssertionError, ValueError):
            name = "whisper_basic"
            hypothesis, truth = _normalize_both(name, text, reference)
        if truth is None:
            return Score(hypothesis, None, None, None, None, None, None, None, None, None, name_with_versions(name))
        spaceless = any(map(is_unsegmented, languages))
        ref_units, hyp_units = split_units(truth, spaceless), split_units(hypothesis, spaceless)
        substitutions, deletions, insertions = _align(ref_units, hyp_units)
        edits = substitutions + deletions + insertions
        num_ref_chars, char_edits = (
            (len(ref_units), edits) if spaceless else _count_characters(" ".join(ref_units), " ".join(hyp_units), edits)
        )
        return Score(
            text_normalized=hypothesis,
            reference_normalized=truth,
            num_ref_words=len(ref_units),
            substitutions=substitutions,
            deletions=deletions,
            insertions=insertions,
            wer=pooled_rate(edits, len(ref_units)),
            num_ref_chars=num_ref_chars,
            char_edits=char_edits,
            cer=pooled_rate(char_edits, num_ref_chars),
            normalizer=name_with_versions(name),
        )


def pooled_rate(edits: int, num_units: int) -> float | None:
    """Returns edits per unit of the references, as a fraction; None where the references are empty."""
    return edits / num_units if num_units else None


def is_character_score(reference: str, hypothesis: str, num_ref_words: int, num_hyp_words: int) -> bool:
    """Returns True if a stored score of two normalized texts counted characters rather than words.

    The reference alone does not decide it where it has a blank after each character, or is one character. Where both
    units match the counts, every word is a character and the result makes no difference.

    Args:
        reference: Normalized reference.
        hypothesis: Normalized transcript.
        num_ref_words: Units of the reference in the score.
        num_hyp_words: Units of the transcript in the score.
    """
    fits_words, fits_characters = (
        (len(split_units(reference, spaceless)), len(split_units(hypothesis, spaceless)))
        == (num_ref_words, num_hyp_words)
        for spaceless in (False, True)
    )
    return fits_characters and not fits_words


def align(reference: str, hypothesis: str, spaceless: bool) -> list[AlignedSpan]:
    """Returns the alignment of two normalized texts, in order; by characters if `spaceless`."""
    ref_units, hyp_units = split_units(reference, spaceless), split_units(hypothesis, spaceless)
    if not ref_units or not hyp_units:
        both = (AlignedSpan("delete", tuple(ref_units), ()), AlignedSpan("insert", (), tuple(hyp_units)))
        return [span for span in both if span.reference or span.hypothesis]
    return [
        AlignedSpan(
            chunk.type,
            tuple(ref_units[chunk.ref_start_idx : chunk.ref_end_idx]),
            tuple(hyp_units[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in _process(ref_units, hyp_units).alignments[0]
    ]


def bootstrap_interval(
    errors: NDArray[np.int64], words: NDArray[np.int64], groups: NDArray[np.int64] | None, samples: int, seed: int
) -> tuple[float, float] | None:
    """Returns the 95 % interval of a pooled WER, as fractions, by the bootstrap of Bisani and Ney (ICASSP 2004).

    A unit is a recording or, with `groups`, all recordings of a speaker, because what one person says is not
    independent. Each sample draws as many units as there are, with replacement; the interval lies between the 2.5th
    and the 97.5th percentile of the samples' WERs (sum of edits over sum of words). Samples without a word are left
    out. With differences of the edits of two transcripts as `errors` this is the paired bootstrap.

    Sampling is exact. Recordings with the same edits and words are drawn together by multinomial counts where there
    are many of them. A million recordings and 1,000 samples take about a second.

    Args:
        errors: Edits of each recording, shape (num_recordings,).
        words: Reference words of each recording, shape (num_recordings,).
        groups: Number of each recording's speaker, negative where unknown, shape (num_recordings,); None: by recording.
        samples: Number of bootstrap samples.
        seed: The same seed gives the same interval.

    Returns:
        (low, high); None for fewer than two units or without words.
    """
    if groups is not None:
        errors, words = _pool(errors, words, groups)
    if len(words) < 2 or not words.sum():
        return None
    order = np.lexsort((words, errors))  # makes the interval independent of the order of recordings
    drawn_errors, drawn_words = _draw(errors[order], words[order], samples, np.random.default_rng(seed))
    rates = drawn_errors[drawn_words > 0] / drawn_words[drawn_words > 0]
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)


def _draw(
    errors: NDArray[np.int64], words: NDArray[np.int64], samples: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the sums of errors and of words in each bootstrap sample; shapes (samples,)."""
    num = len(words)
    distinct, counts = np.unique((errors.astype(np.int64) << 32) + words, return_counts=True)
    pairs = np.stack([distinct >> 32, distinct & 0xFFFF_FFFF], axis=1)
    together = len(distinct) * DRAWS_PER_COUNT < num
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
    """Returns sums by group. Each recording of an unknown group is a group of its own."""
    known = groups >= 0
    _, numbers = np.unique(groups[known], return_inverse=True)
    pooled = [
        np.concatenate([np.bincount(numbers, weights=counts[known]).astype(np.int64), counts[~known]])
        for counts in (errors, words)
    ]
    return pooled[0], pooled[1]


def _normalize_both(name: str, text: str, reference: str | None) -> tuple[str, str | None]:
    return normalize(name, text), None if reference is None else normalize(name, reference)


def split_units(text: str, spaceless: bool) -> list[str]:
    """Returns the words of a text; if `spaceless`, its characters without blanks, with their combining marks."""
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
    """Returns (substitutions, deletions, insertions) of the shortest alignment."""
    if not reference or not hypothesis:
        return 0, len(reference), len(hypothesis)
    output = _process(reference, hypothesis)
    return output.substitutions, output.deletions, output.insertions


def _process(reference: list[str], hypothesis: list[str]) -> Any:
    """Returns jiwer's WordOutput. Neither list may be empty."""
    import jiwer

    return jiwer.process_words(" ".join(reference), " ".join(hypothesis))


def _count_characters(reference: str, hypothesis: str, word_edits: int) -> tuple[int, int]:
    """Returns (characters of the reference, edits), as jiwer counts them.

    Calls rapidfuzz, which jiwer uses, because only rapidfuzz takes an estimate of the result (`score_hint`). The
    estimate does not change the result and makes a transcript of ten hours eight times faster.
    """
    from rapidfuzz.distance import Levenshtein

    return len(reference), Levenshtein.distance(reference, hypothesis, score_hint=LETTERS_PER_WORD * (word_edits + 1))
