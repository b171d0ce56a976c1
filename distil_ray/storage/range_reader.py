"""Random access to stored files: reads only the byte ranges that are asked for, with a little readahead.

The readers of archives and tables skip most of a file: the audio between the headers of a tar, the audio column of a
table. After a long seek only a little is fetched. After a seek that is shorter than what a store transfers in the time
of one request, reading continues with full readahead. A reader that knows what it will read says so (`expect`), and
gets each of these ranges with one request.
"""

import io
import mmap
import os
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

MAX_GAP_BYTES = 2 << 20  # a longer gap is skipped by a new request: 30 ms of latency at 60 MB/s
MIN_FETCH_BYTES = 64 << 10  # fetched after a longer gap
READAHEAD_BYTES = 8 << 20  # fetched while reads follow one another closely
COPIED_BYTES = 64 << 20  # fetched of an expected range that is copied to the local disk

ByteRange = tuple[int, int]  # first byte, one past the last
CopyRange = Callable[[int, int, IO[bytes]], None]


class RangeReader(io.RawIOBase):
    """A seekable remote file that is read by range requests.

    It holds one range of the file: in memory at most `READAHEAD_BYTES`, or the size of a larger single read; on the
    local disk at most `COPIED_BYTES`.

    Args:
        size: Size of the file in bytes.
        read_range: Returns the bytes of a range, given its start and its size.
        copy_range: Writes a range to a file, given its start, its size and the file. It need not hold the range in
            memory.
        held: Bytes of the file that are already known.
        held_start: Position of the first of them.
    """

    def __init__(
        self,
        size: int,
        read_range: Callable[[int, int], bytes],
        copy_range: CopyRange | None = None,
        held: bytes = b"",
        held_start: int = 0,
    ) -> None:
        self._size, self._read_range, self._copy_range = size, read_range, copy_range
        self._position = self._read_to = 0
        self._buffer: bytes | mmap.mmap = held
        self._buffer_start = held_start
        self._expected: Sequence[ByteRange] = ()
        self._folder: Path | None = None

    def expect(self, ranges: Sequence[ByteRange], folder: Path | None = None) -> None:
        """Says which ranges are about to be read: each is fetched with one request.

        Of a range of more than `COPIED_BYTES` with a folder, or `READAHEAD_BYTES` without, so much is fetched at once.

        Args:
            ranges: In the order of the file, without overlaps.
            folder: Existing folder for a copy of the range that is being read, a file without a name; None: the range
                is held in memory.
        """
        self._expected, self._folder = ranges, folder

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
        """Fetches the bytes from the position to at least `end`."""
        start = self._position
        self._buffer = b""  # freed before the next range is fetched
        expected = self._expected_range(start, end)
        if expected is None:
            is_near = 0 <= start - self._read_to <= MAX_GAP_BYTES and self._read_to > 0
            stop = min(max(end, start + (READAHEAD_BYTES if is_near else MIN_FETCH_BYTES)), self._size)
        else:
            most = READAHEAD_BYTES if self._folder is None else COPIED_BYTES
            start = start if expected[1] - expected[0] > most else expected[0]
            stop = min(max(end, start + most), expected[1])
        self._buffer_start = start
        if expected is None or self._folder is None or self._copy_range is None:
            self._buffer = self._read_range(start, stop - start)
            return
        with tempfile.TemporaryFile(dir=self._folder) as copy:
            self._copy_range(start, stop - start, copy)
            copy.flush()
            self._buffer = mmap.mmap(copy.fileno(), stop - start, access=mmap.ACCESS_READ)

    def _expected_range(self, start: int, end: int) -> ByteRange | None:
        """Returns the expected range that contains these bytes; None if there is none."""
        index = bisect_right(self._expected, (start, self._size)) - 1
        if index < 0 or end > self._expected[index][1]:
            return None
        return self._expected[index]
