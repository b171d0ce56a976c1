"""A recording's reference, cut where its transcript was cut.

Words of the whole transcript are aligned with words of the reference (characters where the language writes no spaces),
without case and punctuation, by the fewest edits; every word of the reference then belongs to the chunk whose words
stand beside it. A word that the transcript lacks belongs to the chunk of the word before it. So each chunk of a long
recording has a reference, and an error rate, of its own. Which chunk an error at a seam is counted for is a choice.
"""

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from distil_ray.evaluation.typography import unify_typography
from distil_ray.evaluation.wer import split_units
from distil_ray.pseudo_labels.metrics import is_of_word


def split_reference(reference: str, texts: Sequence[str], spaceless: bool) -> list[str]:
    """The part of the reference that belongs to each chunk's text, in order; joined again they are all of its words."""
    if len(texts) == 1:
        return [reference]
    heard = [(word, chunk) for chunk, text in enumerate(texts) for word in split_units(text, spaceless)]
    said = split_units(reference, spaceless)
    opcodes = Levenshtein.opcodes([_plain(word) for word, _ in heard], [_plain(word) for word in said])
    owners = [0] * len(said)
    for block in opcodes:
        for place in range(block.dest_start, block.dest_end):
            beside = min(block.src_start + place - block.dest_start, block.src_end - 1)
            owners[place] = heard[max(beside, 0)][1] if heard else 0
    parts: list[list[str]] = [[] for _ in texts]
    for word, owner in zip(said, owners, strict=True):
        parts[owner].append(word)
    return [("" if spaceless else " ").join(part) for part in parts]


def _plain(word: str) -> str:
    return "".join(letter for letter in unify_typography(word).casefold() if is_of_word(letter)) or word
