"""A part of a file as a file of its own, with other bytes before it if need be.

A decoder is given one stream of a file that holds several, or a stream with the header that it needs. The view reads
through to the file and holds nothing; libsndfile and libav take it like any other seekable file.
"""

import io
import os
from typing import Any, BinaryIO, cast


class ByteView(io.RawIOBase):
    """`prefix`, then the bytes from `start` to `end` (exclusive) of `file`, which stays open and belongs to the caller.

    Every read seeks in `file`: two views of one file may be read in turn, not at the same time.
    """

    def __init__(self, file: BinaryIO, start: int, end: int, prefix: bytes = b"") -> None:
        self._file = file
        self._start = start
        self._prefix = prefix
        self._size = len(prefix) + end - start
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        target = memoryview(buffer).cast("B")
        wanted = min(len(target), max(0, self._size - self._position))
        count = 0
        if self._position < len(self._prefix):
            taken = self._prefix[self._position : self._position + wanted]
            count = len(taken)
            target[:count] = taken
        if count < wanted:
            self._file.seek(self._start + self._position + count - len(self._prefix))
            came = self._file.readinto(target[count:wanted])  # type: ignore[attr-defined]
            count += came or 0
        self._position += count
        return count


def view(file: BinaryIO, start: int, end: int, prefix: bytes = b"") -> BinaryIO:
    """A `ByteView`, typed as what decoders are given."""
    return cast(BinaryIO, ByteView(file, start, end, prefix))
