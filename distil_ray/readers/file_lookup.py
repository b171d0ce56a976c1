"""Size and version of many files that a list names: by listings of the store where these take fewer requests.

A look at a file is a request for it alone, so that a list of ten million files in a bucket would take hours before the
first task. A listing returns a thousand files at once, in the order of their names, but also those that nobody asked
for. The files of a window of the list are therefore sorted, and listings leap from one that is not answered yet to the
next. They pay where the list names much of what is there. Where it does not, looks at single files remain, and a
listing is tried again later.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from os.path import commonprefix

from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError

MIN_ANSWERED = 64  # files that a listing has to answer for: it takes as much CPU time as about so many looks
MAX_POOR = 2  # listings of a window that answer for fewer
MAX_PAUSE = 64  # windows without a listing, at most


class FileLookup:
    """Looks at files of one list, window by window."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._pause = 0  # windows to pass over
        self._next_pause = 1

    def find(self, uris: Collection[str]) -> dict[str, Entry]:
        """Returns files by URI. One that is absent is not there, or was not looked for: only a look at it will tell.

        `uris`: normalized, of any stores; those without listings by name are passed over.
        """
        if self._pause:
            self._pause -= 1
            return {}
        found: dict[str, Entry] = {}
        try:
            for names in _by_bucket(uris):
                if len(names) >= MIN_ANSWERED and self._storage.lists_by_name(names[0]):
                    self._list(names, found)
        except StorageError:  # listings may be forbidden; looks at the files report what else is wrong
            self._rest()
        return found

    def _list(self, names: Sequence[str], found: dict[str, Entry]) -> None:
        """Adds those of `names`, sorted and of one bucket, that listings find."""
        common = commonprefix([names[0], names[-1]])  # noqa: RUF071, of characters: the last component is cut off
        wanted, folder = set(names), common[: common.rindex("/")]
        at = num_poor = 0
        while len(names) - at >= MIN_ANSWERED:
            page = self._storage.list_from(folder, names[at])
            found.update((entry.uri, entry) for entry in page.entries if entry.uri in wanted)
            if page.is_last:
                break
            answered = bisect_right(names, _order(page.entries[-1].uri), lo=at, key=_order) if page.entries else at
            num_poor += answered - at < MIN_ANSWERED
            if num_poor == MAX_POOR:
                self._rest()
                return
            at = answered
        self._next_pause = 1

    def _rest(self) -> None:
        self._pause, self._next_pause = self._next_pause, min(2 * self._next_pause, MAX_PAUSE)


def _order(uri: str) -> bytes:
    """Returns the key by which stores sort."""
    return uri.encode()


def _may_be_listed(uri: str) -> bool:
    """Returns whether a store may list this name: not that of a bucket itself, nor one with lone surrogates."""
    return uri.count("/") > 2 and not any("\ud800" <= letter <= "\udfff" for letter in uri)


def _by_bucket(uris: Collection[str]) -> Iterator[list[str]]:
    """Yields the different URIs of each bucket, sorted as stores do."""
    for _, names in groupby(sorted(set(filter(_may_be_listed, uris)), key=_order), key=lambda uri: uri.split("/")[:3]):
        yield list(names)
