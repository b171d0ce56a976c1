"""Glob patterns over paths with slashes: ``*``, ``?`` and ``[…]`` within one component, ``**`` for any number of them.

Names that begin with a dot match like any other. ``**`` has to be a whole component.
"""

import fnmatch
import re
from functools import lru_cache

MAGIC = "*?["
RECURSIVE = "**"
_SPECIAL = re.compile(r"(\*|\?|\[!?\]?[^\]]*\])")  # a wildcard, or a set


def has_magic(path: str) -> bool:
    """Returns True if a path contains wildcards."""
    return any(sign in path for sign in MAGIC)


def fixed_length(pattern: str) -> int:
    """Returns the number of characters before the first wildcard; the whole length if there is none."""
    return min((index for sign in MAGIC if (index := pattern.find(sign)) >= 0), default=len(pattern))


def components(pattern: str) -> list[str]:
    """Returns the components of a pattern. Raises ValueError for ``**`` beside other characters."""
    parts = pattern.split("/")
    if any(RECURSIVE in part and part != RECURSIVE for part in parts):
        raise ValueError("'**' can only be a whole component of a pattern, as in a/**/b")
    return parts


@lru_cache(maxsize=256)
def component_regex(part: str) -> re.Pattern[str]:
    """Returns the regular expression of one component other than ``**``."""
    return re.compile(fnmatch.translate(part))


def key_regex(pattern: str) -> re.Pattern[str]:
    """Returns the regular expression of a pattern for object keys, which may have empty components (``a//b``).

    ``*`` as a whole component matches an empty one too, but for the last, and ``**`` matches any of them.
    """
    *folders, last = components(pattern)
    regex = "".join("(?:.*/)?" if part == RECURSIVE else f"{_within(part)}/" for part in folders)
    return re.compile(f"(?s:{regex}{'.*' if last == RECURSIVE else _within(last)})\\Z")


def _within(part: str) -> str:
    """Returns the regular expression of one component; its wildcards match no slash."""
    return "".join(_piece(piece) for piece in _SPECIAL.split(part))


def _piece(piece: str) -> str:
    if piece == "*":
        return "[^/]*"
    if piece == "?":
        return "[^/]"
    if _SPECIAL.fullmatch(piece):
        return "(?!/)" + fnmatch.translate(piece).removeprefix("(?s:").removesuffix(")\\Z")
    return re.escape(piece)
