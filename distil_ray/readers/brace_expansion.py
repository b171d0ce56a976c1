"""Expands braces in locations: ``shard-{000000..000127}.tar`` and ``{train,test}/a.wav`` become lists of names.

As in a shell: a range of whole numbers, zero-padded if one of its ends is, or a list with commas. Several braces are
multiplied. Anything else in braces is taken literally. Nothing is looked up here: `listing` finds names with braces
that exist literally, and expanded names that do not exist.
"""

import re
from collections.abc import Iterator
from itertools import product

from distil_ray.errors import InputError
from distil_ray.storage.uris import parent

MAX_NAMES = 100_000  # that one pattern may stand for
_GROUP = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}|\{([^{}/]*,[^{}/]*)\}")  # a range, or a list


def expand_braces(pattern: str, start: int = 0) -> list[str]:
    """Returns all names that a pattern stands for, in order; the pattern itself if it has no braces.

    Args:
        pattern: A location.
        start: Number of characters at its beginning whose braces are literal.

    Raises:
        InputError: The pattern stands for more than `MAX_NAMES` names.
    """
    pieces: list[list[str]] = []
    end, number = 0, 1
    for group in _GROUP.finditer(pattern, start):
        choices = _choices(pattern, group)
        number *= len(choices)
        if number > MAX_NAMES:
            raise _too_many(pattern)
        pieces += [[pattern[end : group.start()]], choices]
        end = group.end()
    return ["".join(chosen) for chosen in product(*pieces, [pattern[end:]])]


def has_braces(uri: str) -> bool:
    """Returns whether a name stands for several."""
    return _GROUP.search(uri) is not None


def folder_before_braces(pattern: str, start: int = 0) -> str | None:
    """Returns the folder of all names of a pattern: what is before its first brace. None without braces."""
    group = _GROUP.search(pattern, start)
    return None if group is None else parent(pattern[: group.start()])


def _choices(pattern: str, group: re.Match[str]) -> list[str]:
    if group[3] is not None:
        return group[3].split(",")
    first, last = group[1], group[2]
    if abs(int(last) - int(first)) >= MAX_NAMES:
        raise _too_many(pattern)
    padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return [str(number).zfill(width) for number in _integer_range(int(first), int(last))]


def _integer_range(first: int, last: int) -> Iterator[int]:
    step = 1 if last >= first else -1
    yield from range(first, last + step, step)


def _too_many(pattern: str) -> InputError:
    return InputError(f"input.uri={pattern}: its braces stand for more than {MAX_NAMES:,} names")
