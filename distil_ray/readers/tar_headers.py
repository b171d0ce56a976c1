"""The way through a tar archive, header by header, good members and damage told apart.

The standard library takes a damaged header in the middle for the archive's end and says nothing; here it is said, and
the way is found again at the next header. POSIX and GNU forms are read, long names of both kinds among them. What a
member's name says is a name and nothing else: no file is ever made of it. Links, devices and sparse files are passed
over. Nothing here knows of audio.
"""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from distil_ray.errors import DistilRayError, ErrorKind

BLOCK_BYTES = 512
MAX_HEADER_BYTES = 1 << 20  # of a long name or a list of attributes
SKIP_BYTES = 1 << 20  # read at once from what cannot be sought in
_ZEROS = bytes(BLOCK_BYTES)
_WITHOUT_CONTENT = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_ATTRIBUTES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


@dataclass(frozen=True, slots=True)
class TarMember:
    """A plain file: its content is `size` bytes from `start` of the archive, unpacked."""

    name: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Why something of the archive cannot be had. `start`: the byte of the archive, unpacked, where that begins."""

    kind: ErrorKind
    start: int
    words: str


@dataclass(frozen=True, slots=True)
class SkippedMember:
    """A member that is no plain file, by its kind."""

    kind: str


class ArchiveStream:
    """An archive's bytes in order: a seekable file of known size, or a stream whose size shows at its end.

    A stream that cannot be unpacked ends there, and `fault` says why; errors of storage are raised. `limit` is the
    number of bytes after which a stream is not believed any more.
    """

    def __init__(self, file: IO[bytes], size: int | None, limit: int | None = None) -> None:
        self._file, self._size, self._limit = file, size, limit
        self.position = 0
        self.fault: str | None = None

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""
        pieces: list[bytes] = []
        missing = size
        while missing and (piece := self._next(missing)):
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def skip(self, size: int) -> int:
        """Passes over `size` bytes, fewer only at the end; says how many."""
        if self._size is None:
            before = self.position
            while (missing := size - self.position + before) and self._next(min(missing, SKIP_BYTES)):
                pass
            return self.position - before
        size = max(min(size, self._size - self.position), 0)
        self.position += size
        self._file.seek(self.position)
        return size

    def _next(self, size: int) -> bytes:
        if self.fault is not None:
            return b""
        if self._limit is not None and self.position > self._limit:
            self.fault = f"unpacks to more than {self._limit:,} bytes, which no speech does"
            return b""
        try:
            piece = self._file.read(size)
        except DistilRayError:
            raise
        except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the content's
                raise
            self.fault = f"cannot be unpacked ({' '.join(str(error).split())[:200] or type(error).__name__})"
            return b""
        self.position += len(piece)
        return piece


def iter_archive(source: ArchiveStream) -> Iterator[TarMember | SkippedMember | Damage]:
    """Everything in the archive, in order. The content of a member may be read from `source` before the next is asked
    for; whoever does so sees for himself whether it came whole."""
    way = _HeaderScanner(source)
    while (found := way.next()) is not None:
        yield found
        if isinstance(found, TarMember):
            end = found.start + found.size
            source.skip(end - source.position)
            if source.position < end:
                came = f"has {source.position - found.start:,} of {found.size:,} bytes"
                yield way.end(f"ends inside of {found.name!a}, which {came}")
                return
            source.skip(-found.size % BLOCK_BYTES)


class _HeaderScanner:
    """Where the walk is: what the last headers have said, and how the archive has gone so far."""

    def __init__(self, source: ArchiveStream) -> None:
        self._source = source
        self._ended = False  # the mark of the end was seen, and nothing after it
        self._is_lost = False  # looking for the next header
        self._is_over = False
        self._name: str | None = None  # from a header of its own, for the member after it
        self._attributes: dict[str, str] = {}

    def end(self, words: str) -> Damage:
        """The archive's end, too early."""
        fault = self._source.fault
        return Damage(ErrorKind.CORRUPT if fault else ErrorKind.TRUNCATED, self._source.position, fault or words)

    def next(self) -> TarMember | SkippedMember | Damage | None:
        """What comes next; None at the end."""
        while not self._is_over:
            start = self._source.position
            block = self._source.read(BLOCK_BYTES)
            if len(block) < BLOCK_BYTES:
                self._is_over = True
                return self._last(block)
            if block == _ZEROS and self._name is None and not self._attributes:
                self._ended = True
                continue
            header = _parse(block)
            if header is None or (self._is_lost and b"ustar" not in block[257:262]):
                # Also behind zeros: they may be a header that was wiped out, and this what belonged to it.
                if not self._is_lost:
                    return self._lose(start, "has no tar header where one is due" if start else "is no tar archive")
                continue
            self._ended = self._is_lost = False
            if (found := self._member(header, block)) is not None:
                return found
        return None

    def _lose(self, start: int, words: str) -> Damage:
        """From here on the way is looked for."""
        self._is_lost = True
        self._name, self._attributes = None, {}
        return Damage(ErrorKind.CORRUPT, start, words)

    def _last(self, rest: bytes) -> Damage | None:
        if self._source.fault is None and self._source.position == len(rest):
            return Damage(ErrorKind.EMPTY_FILE if not rest else ErrorKind.CORRUPT, 0, "is no tar archive")
        if self._source.fault is None and (self._ended or self._is_lost):
            return None
        return self.end("ends without the mark of a tar archive's end")

    def _member(self, header: tarfile.TarInfo, block: bytes) -> TarMember | SkippedMember | Damage | None:
        """What a header says; None for one that only says something of the next."""
        if header.type in _LONG_NAMES or header.type in _ATTRIBUTES or header.type == tarfile.XGLTYPE:
            return self._remember(header)
        name = self._attributes.get("path", self._name or header.name)
        try:
            size = int(self._attributes.get("size", header.size))
        except ValueError:
            size = -1
        is_sparse = header.type == tarfile.GNUTYPE_SPARSE or any(
            key.startswith("GNU.sparse") for key in self._attributes
        )
        self._name, self._attributes = None, {}
        if size < 0:
            return self._lose(self._source.position - BLOCK_BYTES, "has a member of negative size")
        if header.type in _WITHOUT_CONTENT:
            return SkippedMember("link" if header.type in (tarfile.LNKTYPE, tarfile.SYMTYPE) else "device")
        if header.type == tarfile.DIRTYPE:
            return None
        if header.type == tarfile.GNUTYPE_SPARSE:
            self._skip_sparse_map(block)
        if not is_sparse and header.type in tarfile.REGULAR_TYPES:
            return TarMember(name, self._source.position, size)
        self._source.skip(size + -size % BLOCK_BYTES)
        return SkippedMember("sparse file" if is_sparse else "member of unknown type")

    def _remember(self, header: tarfile.TarInfo) -> Damage | None:
        if not 0 <= header.size <= MAX_HEADER_BYTES:
            return self._lose(self._source.position - BLOCK_BYTES, "has a header of absurd size")
        content = self._source.read(header.size)
        self._source.skip(-header.size % BLOCK_BYTES)
        if header.type == tarfile.GNUTYPE_LONGNAME:
            self._name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif header.type in _ATTRIBUTES:
            self._attributes = _attributes(content)
        return None

    def _skip_sparse_map(self, block: bytes) -> None:
        """GNU's old form of sparse files: more of the map in blocks of its own."""
        is_extended = block[482] == 1
        while is_extended and len(more := self._source.read(BLOCK_BYTES)) == BLOCK_BYTES:
            is_extended = more[504] == 1


def _parse(block: bytes) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):  # ValueError: numbers in a map of holes
        return None


def _attributes(content: bytes) -> dict[str, str]:
    """POSIX's extended header: records ``LENGTH KEY=VALUE\\n``; what does not keep to that ends it."""
    found: dict[str, str] = {}
    position = 0
    while (space := content.find(b" ", position, position + 20)) > 0:
        digits = content[position:space]
        end = position + int(digits) if digits.isdigit() else 0
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        if not equals or not space < end <= len(content):
            break
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        position = end
    return found
