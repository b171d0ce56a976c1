"""What is known of an utterance as a label: how it agrees with a reference, and signs of doubt that need none.

Pure functions of texts and numbers. Those that a transcript has already (log-probability, compression ratio, no-speech
probability) are taken from there.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any

from rapidfuzz.distance import Levenshtein

from distil_ray.evaluation.normalizers import SEPARATOR
from distil_ray.evaluation.wer import split_units
from distil_ray.pseudo_labels.dataset_schema import Row

EDGE_LETTERS = 20  # at each end of a text
GRAM = 5
SPACELESS_GRAM = 10  # signs, which are about five words: five are one or two, and come again in ordinary speech
JOINERS = "\u200c\u200d"  # shape the letters beside them, within a word


def repeated_grams(text: str, spaceless: bool) -> int:
    """Runs of five words (of ten signs, where no spaces are written) that came before in the text, without case and
    punctuation. The paper of Distil-Whisper counts hallucinations by them."""
    letters = (sign if is_of_word(sign) else " " for sign in text.casefold() if sign not in JOINERS)
    found, size = split_units("".join(letters), spaceless), SPACELESS_GRAM if spaceless else GRAM
    grams = [tuple(found[start : start + size]) for start in range(len(found) - size + 1)]
    return len(grams) - len(set(grams))


def is_of_word(sign: str) -> bool:
    """Whether a sign is a letter, a digit, or what combines with one: vowels of many scripts are no letters."""
    return sign.isalnum() or unicodedata.category(sign).startswith("M")


def edge_cer(heard: str, said: str) -> float | None:
    """Character error rate of the first and of the last letters, whichever is higher; None where nothing was said.

    Both texts normalized. The edge of what was said is compared with the stretch of like length of what was heard.
    """
    if not said:
        return None
    size = min(EDGE_LETTERS, len(said))
    edges = ((said[:size], heard[:size]), (said[-size:], heard[-size:]))
    return min(1.0, max(Levenshtein.distance(*pair) for pair in edges) / size)


def pooled(rows: Sequence[Row]) -> Row:
    """The metrics of an example out of its utterances': rates from sums, of the others the worst."""
    words, edits = (_sum(row[name] for row in rows) for name in ("num_ref_words", "edits"))
    if any(row["num_ref_words"] is None for row in rows):
        words = edits = None
    worst = {
        "edge_cer": max,
        "disagreement": max,
        "avg_logprob": min,
        "compression_ratio": max,
        "repeated_5grams": max,
        "no_speech_prob": max,
        "unheard_s": max,
        "acceptance_rate": min,
    }
    duration_s = sum(row["duration_s"] for row in rows)
    letters = sum(row["chars_per_s"] * row["duration_s"] for row in rows)
    return {
        "duration_s": duration_s,
        "num_ref_words": words,
        "edits": edits,
        "normalizer": SEPARATOR.join(sorted(set(_known(rows, "normalizer")))) or None,
        "wer": edits / words if words and edits is not None else None,
        "chars_per_s": letters / duration_s,
        "quality_flags": sorted({flag for row in rows for flag in row["quality_flags"]}),
        **{name: choose(known) if (known := _known(rows, name)) else None for name, choose in worst.items()},
    }


def _known(rows: Sequence[Row], name: str) -> list[Any]:
    return [row[name] for row in rows if row[name] is not None]


def _sum(values: Any) -> int | None:
    return sum(value or 0 for value in values)
