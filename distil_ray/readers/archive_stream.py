"""Byte streams of archives: plain files, and files compressed with gzip, bzip2, xz or zstd.

Compression is detected by the first bytes of a file, not by its name. Decompressed data is never held in memory as a
whole, and the memory for dictionaries is limited, so that a small file cannot ask for gigabytes.

The number of bytes that a file may unpack to is limited as well (`max_unpacked_bytes`). Deflate expands by a factor of
1,032 at most; the other formats can expand far more, but past the first GiB no file may exceed deflate's factor.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

import pyarrow as pa

from distil_ray.errors import DistilRayError
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage

XZ_MEMORY_BYTES = 256 << 20  # xz -9 needs 65 MB
READ_BYTES = 1 << 20
SKIP_BYTES = 1 << 20  # read at once while skipping in a stream without seek
MIN_UNPACKED_LIMIT_BYTES = 1 << 30  # allowed for a file of any size
MAX_RATIO = 1_032  # of unpacked to compressed bytes: deflate's maximum
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_MAGIC_BYTES = 8  # at least the longest key of `_MAGIC`


class ArchiveStream:
    """The bytes of an archive, read front to back.

    Args:
        file: The file, already decompressed.
        size: Size in bytes of a file that can be sought in; None for a stream, whose size shows at its end.
        limit: Number of bytes after which a stream is taken for a decompression bomb; None for no limit.

    Attributes:
        position: Offset in bytes of the next read.
        fault: Why the stream cannot be decompressed beyond `position`, as a predicate ("cannot be unpacked (...)");
            None while it can. Reading ends there. Errors of the storage are raised instead.
    """

    def __init__(self, file: IO[bytes], size: int | None, limit: int | None = None) -> None:
        self._file, self._size, self._limit = file, size, limit
        self.position = 0
        self.fault: str | None = None

    @property
    def is_seekable(self) -> bool:
        return self._size is not None

    def read(self, size: int) -> bytes:
        """Returns `size` bytes, fewer only at the end."""
        pieces: list[bytes] = []
        missing = size
        while missing and (piece := self._read_some(missing)):
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def skip(self, size: int) -> int:
        """Skips `size` bytes, fewer only at the end, and returns how many were skipped."""
        if self._size is None:
            before = self.position
            while (missing := size - self.position + before) and self._read_some(min(missing, SKIP_BYTES)):
                pass
            return self.position - before
        size = max(min(size, self._size - self.position), 0)
        self.position += size
        self._file.seek(self.position)
        return size

    def _read_some(self, size: int) -> bytes:
        if self.fault is not None:
            return b""
        if self._limit is not None and self.position > self._limit:
            self.fault = f"unpacks to more than {self._limit:,} bytes, more than an archive of speech can"
            return b""
        try:
            piece = self._file.read(size)
        except DistilRayError:
            raise
        except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # an error of the disk, not of the content
                raise
            self.fault = f"cannot be unpacked ({' '.join(str(error).split())[:200] or type(error).__name__})"
            return b""
        self.position += len(piece)
        return piece


@contextmanager
def open_archive(entry: Entry, storage: Storage) -> Iterator[ArchiveStream]:
    """Opens a stored archive; it can be sought in if it is not compressed."""
    with storage.open_for_seeking(entry) as file:
        compression = detect_compression(file.read(_MAGIC_BYTES))
        file.seek(0)
        if compression is None:
            yield ArchiveStream(file, entry.size)
        else:
            yield ArchiveStream(open_decompressed(file, compression), None, max_unpacked_bytes(entry.size or 0))


def detect_compression(head: bytes) -> str | None:
    """Returns the compression of a file by its first 8 bytes: "gzip", "bzip2", "xz", "zstd"; None for none of these."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def max_unpacked_bytes(num_bytes: int) -> int:
    """Returns how many bytes a compressed file of `num_bytes` may unpack to before it is taken for a bomb."""
    return max(MIN_UNPACKED_LIMIT_BYTES, MAX_RATIO * num_bytes)


def open_decompressed(file: IO[bytes], compression: str) -> IO[bytes]:
    """Returns the decompressed stream of a file.

    Damage is raised by `read` as the exception of the library: EOFError, OSError without errno, ValueError, zlib.error
    or lzma.LZMAError.
    """
    if compression == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if compression == "bzip2":
        return bz2.BZ2File(file)
    if compression == "zstd":
        return cast(IO[bytes], pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
    return cast(IO[bytes], _XzFile(file))


class _XzFile(io.RawIOBase):
    """Decompresses xz with a memory limit, which `lzma.LZMAFile` cannot set."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = self._new_decompressor()

    @staticmethod
    def _new_decompressor() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)

    def read(self, size: int = -1, /) -> bytes:
        while True:
            packed = b""
            if self._decompressor.eof:
                packed = self._decompressor.unused_data.lstrip(b"\0") or self._file.read(READ_BYTES).lstrip(b"\0")
                if not packed:
                    return b""
                self._decompressor = self._new_decompressor()  # xz files may be concatenated
            elif self._decompressor.needs_input and not (packed := self._file.read(READ_BYTES)):
                raise EOFError("it ends before its end-of-stream marker")
            if found := self._decompressor.decompress(packed, size):
                return found
