"""Reads sizes and lengths from the headers of audio containers, without a decoder.

Decoders read a truncated file to its end and report no error. Containers reveal it: by sizes of chunks (WAV, RF64,
AIFF, W64, CAF, AU, AVI), a last Ogg page that is incomplete, an MP3's Xing header. A size that a program left open
because it wrote to a pipe (zero, or near 2 or 4 GiB) declares nothing, so a truncated WAV of over 2 GiB is not detected
here. A "chunk" in this module is a block of a RIFF-like container: an id, a size, and the content.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO

OPEN_SIZES = range(0x7FFF_0000, 0x1_0000_0000)  # sizes that programs write before they know the size
HEADER_TOLERANCE = 1024  # bytes by which a size may be too large: some writers count the header itself
MAX_OGG_PAGE = 65_307  # bytes
DS64_BYTES = 36  # RF64's chunk of 64-bit sizes, without a table
MAX_CHUNKS = 1000  # chunks read in search of the samples
PLAIN_CODES = {1, 3, 6, 7}  # WAV format codes: integers, floats, A-law, mu-law, all without compression
EXTENSIBLE = 0xFFFE  # WAV format code that refers to a sub-format further on


# Segment information with a duration in it, of 4 or 8 bytes.
_MATROSKA_LENGTH = re.compile(rb"\x15\x49\xa9\x66.{1,500}?\x44\x89[\x84\x88]", re.DOTALL)
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


@dataclass(frozen=True, slots=True)
class WavLayout:
    """Layout of a WAV without compression.

    Attributes:
        first_byte: Byte of the file at which the samples begin.
        rate: Frames per second.
        frame_bytes: Bytes of a frame, one sample of each channel.
    """

    first_byte: int
    rate: int
    frame_bytes: int


def read_wav_layout(head: bytes) -> WavLayout | None:
    """Returns the layout of a WAV that begins with these bytes.

    None if it is not a WAV, is compressed, or its samples begin further on.
    """
    if not head.startswith((b"RIFF", b"RF64")) or head[8:12] != b"WAVE":
        return None
    position, layout = 12, None
    while position + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, position)
        body = head[position + 8 : position + 8 + length]
        if name == b"data":
            return replace(layout, first_byte=position + 8) if layout is not None else None
        if name == b"fmt " and len(body) >= 16:
            code, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
            if code == EXTENSIBLE and len(body) >= 26:
                code = struct.unpack_from("<H", body, 24)[0]
            if code not in PLAIN_CODES or not channels * bits * rate:
                return None
            layout = WavLayout(0, rate, channels * -(-bits // 8))
        position += 8 + length + length % 2
    return None


def id3_bytes(head: bytes) -> int:
    """Returns the length of the ID3 tag at the beginning of a file; 0 without one."""
    if not head.startswith(b"ID3") or len(head) < 10:
        return 0
    a, b, c, d = head[6:10]
    return 10 + (a << 21 | b << 14 | c << 7 | d)


def has_exact_mp3_length(file: BinaryIO, size: int) -> bool:
    """Returns True if an MP3's first frame (Xing, Info or VBRI) has the length of all of its `size` bytes.

    False for several MP3s joined to one file, because the first header counts only its own frames.
    """
    file.seek(0)
    start = id3_bytes(file.read(10))
    file.seek(start)
    frame = file.read(2048)
    for word in (b"Xing", b"Info", b"VBRI"):
        if (at := frame.find(word)) >= 0 and len(frame) >= at + 16:
            flags: int = struct.unpack_from(">I", frame, at + 4)[0]
            offset = 10 if word == b"VBRI" else 8 + 4 * (flags & 1)
            counted: int = struct.unpack_from(">I", frame, at + offset)[0]
            return (word == b"VBRI" or flags & 2 != 0) and size - start <= counted + counted // 16
    return False


def has_written_duration(file: BinaryIO) -> bool:
    """Returns False if a container has a field for its duration and left it empty.

    Live recordings, and those written to a pipe, leave it empty. Libraries then estimate the duration from the bit
    rate, without notice. True for containers without such a field.
    """
    file.seek(0)
    head = file.read(1 << 16)
    if head.startswith(b"fLaC"):
        return len(head) < 26 or head[21] & 15 != 0 or any(head[22:26])
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return _MATROSKA_LENGTH.search(head) is not None
    if head.startswith(b"\x30\x26\xb2\x75"):
        at = head.find(_ASF_PROPERTIES)
        if at < 0 or len(head) < at + 92:
            return False
        length, _, preroll_ms, flags = struct.unpack_from("<QQQI", head, at + 64)
        return not flags & 1 and length > 10_000 * preroll_ms  # flag 1: a broadcast; the length includes the preroll
    return True


@dataclass(frozen=True, slots=True)
class _ChunkFormat:
    """Format of the chunks of one family of containers."""

    magic: bytes
    first: int  # byte at which the first chunk begins
    header: struct.Struct  # id, size
    samples: bytes  # id of the chunk that holds the samples
    preface: int = 0  # bytes of that chunk before the first sample
    size_includes_header: bool = False
    align: int = 2  # bytes
    size_bits: int = 32
    id_suffix: bytes = b""  # follows the four letters of every id

    def is_chunk(self, name: bytes, length: int, available: int) -> bool:
        """Returns True if an id and a size may be those of a chunk, with `available` bytes behind its header."""
        if self.size_includes_header:
            length -= self.header.size
        return (
            name[4:] in (self.id_suffix, b"")
            and all(32 <= byte < 127 for byte in name[:4])
            and 0 <= length <= available + 1
        )

    def step(self, length: int) -> int:
        """Returns the bytes from the beginning of a chunk to the next one."""
        step = length if self.size_includes_header else self.header.size + length
        return -(-step // self.align) * self.align


_W64_SUFFIX = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_CHUNK_FORMATS = (
    _ChunkFormat(b"RIFF", 12, struct.Struct("<4sI"), b"data"),
    _ChunkFormat(b"RF64", 12, struct.Struct("<4sI"), b"data", size_bits=64),
    _ChunkFormat(b"RIFX", 12, struct.Struct(">4sI"), b"data"),
    _ChunkFormat(b"FORM", 12, struct.Struct(">4sI"), b"SSND", preface=8),
    _ChunkFormat(b"caff", 8, struct.Struct(">4sq"), b"data", preface=4, align=1, size_bits=64),
    _ChunkFormat(
        b"riff",
        40,
        struct.Struct("<16sq"),
        b"data",
        size_includes_header=True,
        align=8,
        size_bits=64,
        id_suffix=_W64_SUFFIX,
    ),
)


@dataclass(frozen=True, slots=True)
class SampleRegion:
    """Location of the samples in a file, as its container declares it.

    Attributes:
        first: Byte at which the samples begin.
        length: Bytes of samples; None if the size was left open.
        layout: Format of the container's chunks; None for AU, which has none.
        chunks: Byte at which each chunk up to the samples begins, by its name.
    """

    first: int
    length: int | None
    layout: _ChunkFormat | None
    chunks: Mapping[bytes, int]

    @property
    def size_bits(self) -> int:
        """Bits of the field for the size. A larger size has wrapped around."""
        return self.layout.size_bits if self.layout is not None else 32

    def header_with(self, file: BinaryIO, length: int) -> bytes | None:
        """Returns the bytes before the samples, with all sizes set for `length` bytes of samples.

        None if the container cannot express that size.
        """
        file.seek(0)
        header = bytearray(file.read(self.first))
        if self.layout is None:
            struct.pack_into(">I", header, 8, min(length, 0xFFFF_FFFF))
            return bytes(header)
        magic, chunk = self.layout.magic, self.chunks[self.layout.samples]
        total = self.first + length
        if magic == b"caff":
            struct.pack_into(">q", header, chunk + 4, length + self.layout.preface)
        elif magic == b"riff":
            struct.pack_into("<q", header, 16, total)
            struct.pack_into("<q", header, chunk + 16, length + self.layout.header.size)
        elif magic == b"RF64" or (magic == b"RIFF" and total >= 1 << 32):
            sizes = b"ds64" + struct.pack("<IQQQI", 28, total + 28, length, 0, 0)
            kept = bytes(header[12:chunk])
            if b"ds64" in self.chunks:
                kept = kept.replace(bytes(header[self.chunks[b"ds64"] :][:DS64_BYTES]), b"")
            return b"RF64\xff\xff\xff\xffWAVE" + sizes + kept + b"data\xff\xff\xff\xff"
        elif total >= 1 << 32:
            return None
        else:
            order = "<" if magic == b"RIFF" else ">"
            struct.pack_into(order + "I", header, 4, total - 8)
            struct.pack_into(order + "I", header, chunk + 4, length + self.layout.preface)
            if b"COMM" in self.chunks:
                _set_frames(header, self.chunks[b"COMM"], length)
        return bytes(header)


def _set_frames(header: bytearray, chunk: int, length: int) -> None:
    """Sets the number of frames in AIFF's COMM chunk for `length` bytes of samples."""
    channels, _, bits = struct.unpack_from(">HIH", header, chunk + 8)
    coding = bytes(header[chunk + 26 : chunk + 30])
    frame_bytes = channels * (34 if coding == b"ima4" else 1 if coding in (b"ulaw", b"alaw") else -(-bits // 8))
    if frame_bytes:
        struct.pack_into(">I", header, chunk + 10, length // frame_bytes)


def find_sample_region(file: BinaryIO, size: int) -> SampleRegion | None:
    """Returns where the samples of a WAV, RF64, AIFF, CAF, W64 or AU of `size` bytes lie.

    None for other formats, and for files without samples.
    """
    file.seek(0)
    head = file.read(16)
    if head.startswith(b".snd") and len(head) >= 12:
        first, length = struct.unpack_from(">II", head, 4)
        return (
            SampleRegion(first, _size_unless_open(length, first, size, 32), None, {}) if 24 <= first <= size else None
        )
    layout = next((layout for layout in _CHUNK_FORMATS if head.startswith(layout.magic)), None)
    return _find_sample_chunk(file, size, layout) if layout is not None else None


def _find_sample_chunk(file: BinaryIO, size: int, layout: _ChunkFormat) -> SampleRegion | None:
    position = layout.first
    large = None  # RF64 has the size of its samples in a chunk of its own
    chunks: dict[bytes, int] = {}
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        header = file.read(layout.header.size)
        if len(header) < layout.header.size:
            return None
        name, length = layout.header.unpack(header)
        chunks.setdefault(name[:4], position)
        if name.startswith(layout.samples):
            if large is not None and length in (0, 0xFFFF_FFFF):
                length = large
            elif layout.size_includes_header:
                length -= layout.header.size
            first = position + layout.header.size + layout.preface
            opened = _size_unless_open(length - layout.preface, first, size, layout.size_bits)
            return SampleRegion(first, opened, layout, chunks) if first <= size else None
        if name == b"ds64":
            large = struct.unpack_from("<Q", file.read(16).ljust(16, b"\0"), 8)[0]
        step = layout.step(length)
        if step < layout.header.size:
            return None
        position += step
    return None


def _size_unless_open(length: int, first: int, size: int, bits: int) -> int | None:
    """Returns a size; None if it is a placeholder of a program that did not know the size. 0 may be meant."""
    if length <= 0 and length > -24:
        return 0
    is_open = length < 0 or (length >= 1 << 62 if bits == 64 else first + length > size and length in OPEN_SIZES)
    return None if is_open else length


def walk_chunks(file: BinaryIO, size: int, samples: SampleRegion, start: int) -> Iterator[int]:
    """Yields the bytes at which a chunk may begin: at or just behind `start`, then behind each chunk that is found."""
    layout = samples.layout
    if layout is None:
        yield start
        return
    aligned = start + (layout.first - start) % layout.align
    position = aligned if aligned == start or _chunk_step(file, size, layout, aligned) else start
    for _ in range(MAX_CHUNKS):
        yield position
        step = _chunk_step(file, size, layout, position)
        if not step:
            return
        position += step


def _chunk_step(file: BinaryIO, size: int, layout: _ChunkFormat, position: int) -> int:
    """Returns the bytes from the chunk at `position` to the next one; 0 if there is no chunk."""
    file.seek(position)
    header = file.read(layout.header.size)
    if len(header) < layout.header.size:
        return 0
    name, length = layout.header.unpack(header)
    return layout.step(length) if layout.is_chunk(name, length, size - position - layout.header.size) else 0


def count_missing_bytes(file: BinaryIO, size: int) -> int:
    """Returns how many bytes of samples the header declares beyond the end of a file of `size` bytes; 0 if unknown."""
    file.seek(0)
    head = file.read(12)
    if head.startswith(b"OggS"):
        return _missing_of_last_page(file, size)
    if head.startswith(b"RIFF") and head.endswith(b"AVI "):
        missing = _find_avi_end(file, size) - size
    elif (samples := find_sample_region(file, size)) is None or samples.length is None:
        return 0
    else:
        missing = samples.first + samples.length - size
    return missing if missing > HEADER_TOLERANCE else 0


def _find_avi_end(file: BinaryIO, size: int) -> int:
    """Returns the byte at which the last part of an AVI ends by its header; 0 if unknown. A part has about 1 GiB."""
    end = 0
    for _ in range(MAX_CHUNKS):
        file.seek(end)
        name, length, kind = struct.unpack("<4sI4s", file.read(12).ljust(12))
        if name != b"RIFF" or kind not in (b"AVI ", b"AVIX"):
            break
        known = _size_unless_open(length, end + 8, size, 32)
        if not known:
            return 0
        end += 8 + known + known % 2
    return end


def _missing_of_last_page(file: BinaryIO, size: int) -> int:
    """Returns how many bytes of the last Ogg page are missing. A page has the lengths of its segments in its header."""
    file.seek(max(0, size - MAX_OGG_PAGE))
    tail = file.read(MAX_OGG_PAGE)
    at = tail.rfind(b"OggS\0")
    page = tail[at:]
    if at < 0 or len(page) < 27:
        return 0
    segments = page[27 : 27 + page[26]]
    declared = 27 + page[26] + sum(segments)
    return max(0, declared - len(page))
