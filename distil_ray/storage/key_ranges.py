"""Divides the keys of a large listing, which come in order, into ranges that can be listed at the same time.

Two shapes of names allow it. Keys in many folders are divided between folders. Keys with a hash in their names, such as
the files of transcripts, are divided by its first digits, as hashes are distributed evenly. Everything is derived from
keys that have been listed already. The module knows no store.
"""

import posixpath
import re
from collections.abc import Sequence
from itertools import groupby

RANGE_KEYS = 4000  # keys of a range, about
MIN_FOLDER_KEYS = 20  # mean keys of a folder; to list smaller folders' names takes too many requests of its own
HASH_DIGITS = 4  # by which keys with a hash are divided
_HASH = re.compile(r"(?P<stem>.*?)(?P<digits>[0-9a-f]{8,})[-.\w]*")


def common_folder(first: str, last: str) -> str:
    """Returns the longest ``folder/`` that contains two keys, and so all keys between them."""
    return posixpath.commonprefix([first, last]).rpartition("/")[0] + "/" if "/" in first else ""


def folders_in_range(keys: Sequence[str], folder: str) -> int | None:
    """Returns how many folders directly below `folder` make up a range, by the keys of a page.

    None if the keys lie in `folder` itself, or in folders that are too small.
    """
    below = [name for name, slash, _ in (key.removeprefix(folder).partition("/") for key in keys) if slash]
    num_folders = sum(1 for _ in groupby(below))
    if len(below) < len(keys) // 2 or len(keys) < MIN_FOLDER_KEYS * num_folders:
        return None
    return max(1, RANGE_KEYS * num_folders // len(keys))


def hash_boundaries(first: str, last: str, num_keys: int) -> list[str]:
    """Returns beginnings of keys that divide the keys after `last` evenly, in order; none if they have no hash.

    Args:
        first: The first key of the folder.
        last: The last one that has been listed.
        num_keys: The number of keys from `first` to `last`.
    """
    matches = _HASH.fullmatch(first), _HASH.fullmatch(last)
    if matches[0] is None or matches[1] is None or matches[0]["stem"] != matches[1]["stem"]:
        return []
    begin, end = (int(match["digits"][:HASH_DIGITS], 16) for match in matches if match is not None)
    # Numbers with leading zeros look like hashes, but do not begin near zero and reach far within a few pages.
    if end < 16**HASH_DIGITS // 1000 or begin > end // 16:
        return []
    step = max(1, RANGE_KEYS * end // num_keys)
    return [f"{matches[0]['stem']}{value:0{HASH_DIGITS}x}" for value in range(end + step, 16**HASH_DIGITS, step)]
