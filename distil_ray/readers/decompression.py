"""Compressed archives as streams: gzip, bzip2, xz and zstd, told by their first bytes, whatever their name says.

What is unpacked is never held; the dictionaries of xz and zstd are bounded, so that a file cannot ask for gigabytes of
memory. How much may come out of a file at all is `unpacked_limit`'s: deflate makes 1,032 bytes of one at most, the
others far more, and beyond a first gigabyte none is believed more than deflate.
"""

import bz2
import gzip
import io
import lzma
from typing import IO, cast

import pyarrow as pa

XZ_MEMORY_BYTES = 256 << 20  # xz -9 needs 65 MB
READ_BYTES = 1 << 20
MIN_UNPACKED_LIMIT_BYTES = 1 << 30  # may come out of any file
MAX_RATIO = 1_032  # and this many times its size: deflate's
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def detect_compression(beginning: bytes) -> str | None:
    """What a file that begins so is compressed with."""
    return next((name for magic, name in _MAGIC.items() if beginning.startswith(magic)), None)


def max_unpacked_bytes(num_bytes: int) -> int:
    """How many bytes a file of `num_bytes` may unpack to before it is taken for a bomb."""
    return max(MIN_UNPACKED_LIMIT_BYTES, MAX_RATIO * num_bytes)


def open_decompressed(file: IO[bytes], name: str) -> IO[bytes]:
    """The unpacked stream of a file compressed with `name`. Damage is raised in the words of the library."""
    if name == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if name == "bzip2":
        return bz2.BZ2File(file)
    if name == "zstd":
        return cast(IO[bytes], pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
    return cast(IO[bytes], _Xz(file))


class _Xz(io.RawIOBase):
    """xz with a limit on the memory that the file asks for, which the standard library's file object cannot set."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = self._new()

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)

    def read(self, size: int = -1, /) -> bytes:
        while True:
            packed = b""
            if self._decompressor.eof:
                packed = self._decompressor.unused_data.lstrip(b"\0") or self._file.read(READ_BYTES).lstrip(b"\0")
                if not packed:
                    return b""
                self._decompressor = self._new()  # files may stand one after the other
            elif self._decompressor.needs_input and not (packed := self._file.read(READ_BYTES)):
                raise EOFError("it ends before its mark of the end")
            if found := self._decompressor.decompress(packed, size):
                return found
