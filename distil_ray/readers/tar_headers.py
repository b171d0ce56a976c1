"""Reads a tar archive header by header, and distinguishes good members from damaged ones.

The standard library takes a damaged header in the middle of an archive for its end, without an error. Here damage is
reported, and reading goes on at the next valid header. POSIX and GNU formats are read, with long names of both kinds.
A member's name is only a name: no file of that name is ever written. Links, devices and sparse files are skipped.
This module does not know about audio.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from distil_ray.errors import ErrorKind
from distil_ray.readers.archive_stream import ArchiveStream

BLOCK_BYTES = 512
MAX_HEADER_BYTES = 1 << 20  # of a long name or an extended header
_ZEROS = bytes(BLOCK_BYTES)
_TYPES_WITHOUT_CONTENT = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_LONG_NAME_TYPES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_EXTENDED_HEADER_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


@dataclass(frozen=True, slots=True)
class TarMember:
    """A regular file in an archive: `size` bytes from byte `start` of the decompressed archive."""

    name: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of an archive that cannot be read.

    Attributes:
        kind: Kind of the error that its recordings get.
        start: Byte of the decompressed archive where the damage begins.
        message: A predicate whose subject is the archive: "ends inside of 'a.wav', ...".
    """

    kind: ErrorKind
    start: int
    message: str


@dataclass(frozen=True, slots=True)
class SkippedMember:
    """A member that is not a regular file. `kind`: "link", "device", "sparse file" or "member of unknown type"."""

    kind: str


def iter_archive(stream: ArchiveStream) -> Iterator[TarMember | SkippedMember | Damage]:
    """Yields everything in an archive, in order.

    The caller may read the content of a member from `stream` before it asks for the next item, and then checks the
    number of bytes itself. A member that is cut off is followed by its `Damage`.
    """
    scanner = _HeaderScanner(stream)
    while (found := scanner.next()) is not None:
        yield found
        if isinstance(found, TarMember):
            end = found.start + found.size
            stream.skip(end - stream.position)
            if stream.position < end:
                num_bytes = f"{stream.position - found.start:,} of {found.size:,} bytes"
                yield scanner.damage_at_end(f"ends inside of {found.name!a}, after {num_bytes}")
                return
            stream.skip(-found.size % BLOCK_BYTES)


class _HeaderScanner:
    """Parses headers one after the other; keeps what the previous headers said about the next member."""

    def __init__(self, stream: ArchiveStream) -> None:
        self._stream = stream
        self._has_end_marker = False  # the last block read was an end-of-archive marker
        self._is_resyncing = False  # after damage: looking for the next valid header
        self._is_done = False
        self._long_name: str | None = None  # from a GNU header, for the member after it
        self._attributes: dict[str, str] = {}  # from a POSIX extended header, for the member after it

    def damage_at_end(self, message: str) -> Damage:
        """Returns the damage of an archive that ends too early; a decompression error takes precedence."""
        fault = self._stream.fault
        return Damage(ErrorKind.CORRUPT if fault else ErrorKind.TRUNCATED, self._stream.position, fault or message)

    def next(self) -> TarMember | SkippedMember | Damage | None:
        """Returns the next item, None at the end. The stream then stands at the content of a `TarMember`."""
        while not self._is_done:
            start = self._stream.position
            block = self._stream.read(BLOCK_BYTES)
            if len(block) < BLOCK_BYTES:
                self._is_done = True
                return self._finish(block)
            if block == _ZEROS and self._long_name is None and not self._attributes:
                self._has_end_marker = True
                continue
            header = _parse_header(block)
            if header is None or (self._is_resyncing and b"ustar" not in block[257:262]):
                # Also after zeros: they may be a header that was wiped out, and this block its content.
                if not self._is_resyncing:
                    message = "has no tar header where one is expected" if start else "is not a tar archive"
                    return self._start_resync(start, message)
                continue
            self._has_end_marker = self._is_resyncing = False
            if (found := self._parse_member(header, block)) is not None:
                return found
        return None

    def _start_resync(self, start: int, message: str) -> Damage:
        self._is_resyncing = True
        self._long_name, self._attributes = None, {}
        return Damage(ErrorKind.CORRUPT, start, message)

    def _finish(self, rest: bytes) -> Damage | None:
        """Returns the damage, if any, of an archive of which only `rest`, less than a block, was left."""
        if self._stream.fault is None and self._stream.position == len(rest):
            return Damage(ErrorKind.EMPTY_FILE if not rest else ErrorKind.CORRUPT, 0, "is not a tar archive")
        if self._stream.fault is None and (self._has_end_marker or self._is_resyncing):
            return None
        return self.damage_at_end("ends without the end-of-archive marker")

    def _parse_member(self, header: tarfile.TarInfo, block: bytes) -> TarMember | SkippedMember | Damage | None:
        """Returns the item that a header stands for; None for a header that only describes the next member."""
        if header.type in _LONG_NAME_TYPES or header.type in _EXTENDED_HEADER_TYPES or header.type == tarfile.XGLTYPE:
            return self._read_extended_header(header)
        name = self._attributes.get("path", self._long_name or header.name)
        try:
            size = int(self._attributes.get("size", header.size))
        except ValueError:
            size = -1
        is_sparse = header.type == tarfile.GNUTYPE_SPARSE or any(
            key.startswith("GNU.sparse") for key in self._attributes
        )
        self._long_name, self._attributes = None, {}
        if size < 0:
            return self._start_resync(self._stream.position - BLOCK_BYTES, "has a member of negative size")
        if header.type in _TYPES_WITHOUT_CONTENT:
            return SkippedMember("link" if header.type in (tarfile.LNKTYPE, tarfile.SYMTYPE) else "device")
        if header.type == tarfile.DIRTYPE:
            return None
        if header.type == tarfile.GNUTYPE_SPARSE:
            self._skip_sparse_map(block)
        if not is_sparse and header.type in tarfile.REGULAR_TYPES:
            return TarMember(name, self._stream.position, size)
        self._stream.skip(size + -size % BLOCK_BYTES)
        return SkippedMember("sparse file" if is_sparse else "member of unknown type")

    def _read_extended_header(self, header: tarfile.TarInfo) -> Damage | None:
        if not 0 <= header.size <= MAX_HEADER_BYTES:
            message = f"has an extended header of {header.size:,} bytes, and the limit is {MAX_HEADER_BYTES:,}"
            return self._start_resync(self._stream.position - BLOCK_BYTES, message)
        content = self._stream.read(header.size)
        self._stream.skip(-header.size % BLOCK_BYTES)
        if header.type == tarfile.GNUTYPE_LONGNAME:
            self._long_name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif header.type in _EXTENDED_HEADER_TYPES:
            self._attributes = _parse_attributes(content)
        return None

    def _skip_sparse_map(self, block: bytes) -> None:
        """Skips the blocks that continue the map of a sparse file in GNU's old format."""
        is_extended = block[482] == 1
        while is_extended and len(more := self._stream.read(BLOCK_BYTES)) == BLOCK_BYTES:
            is_extended = more[504] == 1


def _parse_header(block: bytes) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):  # ValueError: numbers in a sparse map
        return None


def _parse_attributes(content: bytes) -> dict[str, str]:
    """Parses a POSIX extended header: records ``LENGTH KEY=VALUE\\n``, up to the first that is malformed."""
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
