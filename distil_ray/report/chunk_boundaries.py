"""Problems at chunk boundaries: doubled words, overlapping chunks without agreement, and lost words.

Without overlap, the same words on both sides of a boundary may be an error, although speakers do repeat themselves.
With overlap, `overlap_merge` cuts where the tokens of both chunks agree; chunks without a common token are joined
without a cut. With a reference, words that are missing exactly at a boundary are found too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from distil_ray.chunking.overlap_merge import find_cut
from distil_ray.evaluation.wer import AlignedSpan
from distil_ray.languages import is_unsegmented
from distil_ray.types import SAMPLE_RATE

DOUBLED, UNMATCHED, LOST = "doubled", "unmatched", "lost"

MAX_DOUBLED = 6  # words compared on both sides
WORDS_SHOWN = 8  # of each side
LETTERS_SHOWN = 24  # of each side, in unsegmented languages

_Chunk = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BoundaryProblem:
    """A problem at a chunk boundary.

    Attributes:
        index: Index of the chunk before the boundary.
        kind: `DOUBLED`, `UNMATCHED` or `LOST`.
        words: The doubled or lost words.
        left: Text before the boundary.
        right: Text after the boundary.
        weight: Number of words; problems are listed in descending order of it.
    """

    index: int
    kind: str
    words: str
    left: str
    right: str
    weight: float


def find_boundary_problems(
    chunks: Sequence[_Chunk], overlaps: bool, languages: Sequence[str | None]
) -> Iterator[BoundaryProblem]:
    """Yields the problems found without a reference.

    Args:
        chunks: With ``text``, and ``tokens`` where they overlap.
        overlaps: Neighboring chunks share audio.
        languages: Code of each chunk's language. Boundaries between two languages are left out: no words are shared.
    """
    for index, (language, following) in enumerate(pairwise(languages)):
        if language != following:
            continue
        spaceless = is_unsegmented(language)
        left, right = (_split(chunks[number]["text"] or "", spaceless) for number in (index, index + 1))
        if not left or not right:
            continue
        if overlaps:
            if _is_unmatched(chunks[index]["tokens"] or (), chunks[index + 1]["tokens"] or ()):
                yield _problem(index, UNMATCHED, (), left, right, spaceless)
        elif words := _doubled(left, right, shortest=3 if spaceless else 1):
            yield _problem(index, DOUBLED, words, left, right, spaceless)


def iter_lost_words(aligned: Sequence[AlignedSpan], sizes: Sequence[int]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields (index of the left chunk, reference words) for deletions exactly at a chunk boundary.

    `sizes`: number of hypothesis words of each chunk; the sum is the length of the hypothesis.
    """
    borders = {sum(sizes[: index + 1]): index for index in range(len(sizes) - 1) if sizes[index] and sizes[index + 1]}
    position = 0  # in the hypothesis
    for one in aligned:
        if one.kind == "delete" and position in borders:
            yield borders[position], one.reference
        position += len(one.hypothesis)


def texts_around_boundary(left: str, right: str, spaceless: bool) -> tuple[str, str]:
    """Returns the end of the left text and the start of the right text, shortened for display."""
    return _ends(_split(left, spaceless), _split(right, spaceless), spaceless)


def chunk_times(chunk: _Chunk) -> tuple[int, int]:
    """Returns the first sample and the number of samples of a chunk of the output."""
    start = round(chunk["start_s"] * SAMPLE_RATE)
    return start, round(chunk["end_s"] * SAMPLE_RATE) - start


def _split(text: str, spaceless: bool) -> list[str]:
    return list("".join(text.split())) if spaceless else text.split()


def _doubled(left: Sequence[str], right: Sequence[str], shortest: int) -> Sequence[str]:
    """Returns the longest sequence of words that ends the left side and begins the right side."""
    ends, begins = [_folded(word) for word in left], [_folded(word) for word in right]
    for length in range(min(MAX_DOUBLED, len(left), len(right)), shortest - 1, -1):
        if ends[-length:] == begins[:length] and all(ends[-length:]):
            return left[-length:]
    return ()


def _is_unmatched(left: Sequence[int], right: Sequence[int]) -> bool:
    return bool(left and right) and find_cut(left, right) == (len(left), 0)


def _folded(word: str) -> str:
    return "".join(letter for letter in word.casefold() if letter.isalnum())


def _problem(
    index: int, kind: str, words: Sequence[str], left: Sequence[str], right: Sequence[str], spaceless: bool
) -> BoundaryProblem:
    space = "" if spaceless else " "
    shown = space.join(words)
    return BoundaryProblem(index, kind, shown, *_ends(left, right, spaceless), weight=float(len(words) or 1))


def _ends(left: Sequence[str], right: Sequence[str], spaceless: bool) -> tuple[str, str]:
    size, space = (LETTERS_SHOWN, "") if spaceless else (WORDS_SHOWN, " ")
    return (
        ("… " if len(left) > size else "") + space.join(left[-size:]),
        space.join(right[:size]) + (" …" if len(right) > size else ""),
    )
