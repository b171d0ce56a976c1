"""A stored file as a seekable one that fetches no more than is asked for, and a little ahead.

Storage's own `open` reads tens of megabytes ahead, which is right for whoever reads all of a file. Here most of a file
is passed over: the audio between an archive's headers, the audio column of a table. Where the reader leaps far, only a
little is fetched; where its leaps are shorter than what a store sends in the time of a request, all is.
"""

import io
import os
from typing import IO, Any, cast

from distil_ray.storage.storage import Entry, Storage, is_remote

MAX_GAP_BYTES = 2 << 20  # a request's 30 ms at 60 MB/s: to pass over more than this is worth a request of its own
MIN_FETCH_BYTES = 64 << 10  # fetched after a leap
READAHEAD_BYTES = 8 << 20  # fetched while the reader goes on from place to place nearby


def open_for_seeking(entry: Entry, storage: Storage) -> IO[bytes]:
    """A file to seek and read in. On local disks it is the file itself."""
    if not is_remote(entry.uri) or entry.size is None:
        return storage.open(entry.uri)
    return cast(IO[bytes], RangeReader(entry.uri, entry.size, storage))


class RangeReader(io.RawIOBase):
    """Holds one piece of the file, `AHEAD_BYTES` at most or what was asked for at once."""

    def __init__(self, uri: str, size: int, storage: Storage) -> None:
        self._uri, self._size, self._storage = uri, size, storage
        self._position = self._read_to = 0
        self._start, self._held = 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        end = self._size if size < 0 else min(self._position + size, self._size)
        if end <= self._position:
            return b""
        if not self._start <= self._position <= end <= self._start + len(self._held):
            self._fetch(end)
        begin = self._position - self._start
        found = self._held[begin : begin + end - self._position]
        self._position = self._read_to = self._position + len(found)
        return found

    def readinto(self, buffer: Any, /) -> int:
        """For readers that bring their own memory, such as libsndfile's."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def _fetch(self, end: int) -> None:
        near = 0 <= self._position - self._read_to <= MAX_GAP_BYTES and self._read_to > 0
        ahead = READAHEAD_BYTES if near else MIN_FETCH_BYTES
        size = min(max(end - self._position, ahead), self._size - self._position)
        self._held = b""  # before the next piece is there
        self._start, self._held = self._position, self._storage.read_range(self._uri, self._position, size)
