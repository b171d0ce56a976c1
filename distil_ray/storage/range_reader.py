"""Random access to stored files: reads only the byte ranges that are asked for, with a little readahead.

The readers of archives and tables skip most of a file: the audio between the headers of a tar, the audio column of a
table. After a long seek only a little is fetched. After a seek that is shorter than what a store transfers in the time
of one request, reading continues with full readahead.
"""

import io
import os
from collections.abc import Callable
from typing import Any

MAX_GAP_BYTES = 2 << 20  # a longer gap is skipped by a new request: 30 ms of latency at 60 MB/s
MIN_FETCH_BYTES = 64 << 10  # fetched after a longer gap
READAHEAD_BYTES = 8 << 20  # fetched while reads follow one another closely
EXPECTED_READAHEAD_BYTES = 32 << 20  # fetched of a range that is known to be read in order


class RangeReader(io.RawIOBase):
    """A seekable remote file that is read by range requests.

    It buffers one range of the file: at most `READAHEAD_BYTES`, `EXPECTED_READAHEAD_BYTES` within the range that is
    expected, or the size of a larger single read.

    Args:
        size: Size of the file in bytes.
        read_range: Returns the bytes of a range, given its start and its size.
        beginning: The first bytes of the file, where they are known.
    """

    def __init__(self, size: int, read_range: Callable[[int, int], bytes], beginning: bytes = b"") -> None:
        self._size, self._read_range = size, read_range
        self._position = self._read_to = 0
        self._buffer_start, self._buffer = 0, beginning
        self._expected = (0, 0)

    def expect(self, start: int, end: int) -> None:
        """Says that the bytes from `start` to `end` are about to be read in order: they get long readahead at once."""
        self._expected = start, end

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
        if not self._buffer_start <= self._position <= end <= self._buffer_start + len(self._buffer):
            self._fetch(end)
        begin = self._position - self._buffer_start
        found = self._buffer[begin : begin + end - self._position]
        self._position = self._read_to = self._position + len(found)
        return found

    def readinto(self, buffer: Any, /) -> int:
        """Reads into the caller's memory, as libsndfile does."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def _fetch(self, end: int) -> None:
        is_near = 0 <= self._position - self._read_to <= MAX_GAP_BYTES and self._read_to > 0
        readahead, last = READAHEAD_BYTES if is_near else MIN_FETCH_BYTES, self._size
        if self._expected[0] <= self._position < end <= self._expected[1]:
            readahead, last = EXPECTED_READAHEAD_BYTES, self._expected[1]
        size = min(max(end - self._position, readahead), last - self._position)
        self._buffer = b""  # freed before the next range is fetched
        self._buffer_start, self._buffer = self._position, self._read_range(self._position, size)
