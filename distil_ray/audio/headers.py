"""What a file's own bytes say, read without a decoder: what it is when it is no audio, and how much it promises.

Decoders read a file that was cut short to its end and call that complete. Containers tell better: sizes of chunks (WAV,
RF64, AIFF, W64, CAF, AU), an Ogg page that is not all there, an MP3's Xing header. A size that a pipe left open (zero,
or near 2 or 4 GiB) promises nothing, so a WAV over 2 GiB that lost its end is not noticed here.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO

OPEN_SIZES = range(0x7FFF_0000, 0x1_0000_0000)  # what programs write that do not know the size yet
HEADER_TOLERANCE = 1024  # bytes that a size may promise too much: some writers count the header itself
MAX_OGG_PAGE = 65_307  # bytes
DS64_BYTES = 36  # RF64's chunk of sizes, without a table
MAX_CHUNKS = 1000  # chunks looked at before the samples
PLAIN_CODES = {1, 3, 6, 7}  # of a WAV: integers, floats, A-law, mu-law, each sample by itself
EXTENSIBLE = 0xFFFE  # its code stands further on


# Segment information with a duration in it, of 4 or 8 bytes.
_MATROSKA_LENGTH = re.compile(rb"\x15\x49\xa9\x66.{1,500}?\x44\x89[\x84\x88]", re.DOTALL)
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


@dataclass(frozen=True, slots=True)
class WavLayout:
    """Where samples lie that are not compressed: from `first_byte` of the file, `rate` frames of `frame_bytes` a
    second."""

    first_byte: int
    rate: int
    frame_bytes: int


def read_wav_layout(head: bytes) -> WavLayout | None:
    """The layout of a WAV that begins with these bytes; None if it is none, is compressed, or has more before the
    samples."""
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
    """The length of the ID3 tag that a file begins with; 0 without one."""
    if not head.startswith(b"ID3") or len(head) < 10:
        return 0
    a, b, c, d = head[6:10]
    return 10 + (a << 21 | b << 14 | c << 7 | d)


def has_exact_mp3_length(file: BinaryIO, size: int) -> bool:
    """Whether an MP3's first frame (Xing, Info or VBRI) tells the length of all of its `size` bytes.

    Not of several MP3s joined to one file: the first one's header counts only its own.
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
    """Whether a container that has a place for its length filled it in: a live recording, or one to a pipe, cannot.

    Libraries then estimate it by the bit rate, without saying so. True of containers without such a place.
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
        return not flags & 1 and length > 10_000 * preroll_ms  # a broadcast; preroll is counted in
    return True


@dataclass(frozen=True, slots=True)
class _ChunkFormat:
    """How a family of containers writes its chunks: an id and a size before each."""

    magic: bytes
    first: int  # byte at which the first chunk starts
    header: struct.Struct  # id, size
    samples: bytes  # id of the chunk that holds the samples
    preface: int = 0  # bytes of that chunk before the first sample
    size_includes_header: bool = False
    align: int = 2  # bytes
    size_bits: int = 32
    id_suffix: bytes = b""  # of every id, behind its four letters

    def is_chunk(self, name: bytes, length: int, room: int) -> bool:
        """Whether an id and a size may be those of a chunk with `room` bytes behind its header."""
        if self.size_includes_header:
            length -= self.header.size
        return (
            name[4:] in (self.id_suffix, b"") and all(32 <= byte < 127 for byte in name[:4]) and 0 <= length <= room + 1
        )

    def step(self, length: int) -> int:
        """Bytes from one chunk to the next."""
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
    """Where a container says that its samples lie: `length` bytes from byte `first` on; None if the size was left open.

    `chunks`: byte at which the chunks of each name before the samples start, the samples' own included.
    """

    first: int
    length: int | None
    layout: _ChunkFormat | None  # None: AU, which has no chunks
    chunks: Mapping[bytes, int]

    @property
    def size_bits(self) -> int:
        """Of the size's field: a larger size has wrapped."""
        return self.layout.size_bits if self.layout is not None else 32

    def header_with(self, file: BinaryIO, length: int) -> bytes | None:
        """The file's bytes before the samples, with the sizes of `length` bytes of them; None if it cannot have
        them."""
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
    """AIFF's number of frames, in its chunk of common facts, for `length` bytes of samples."""
    channels, _, bits = struct.unpack_from(">HIH", header, chunk + 8)
    coding = bytes(header[chunk + 26 : chunk + 30])
    frame_bytes = channels * (34 if coding == b"ima4" else 1 if coding in (b"ulaw", b"alaw") else -(-bits // 8))
    if frame_bytes:
        struct.pack_into(">I", header, chunk + 10, length // frame_bytes)


def find_sample_region(file: BinaryIO, size: int) -> SampleRegion | None:
    """Where the samples of a WAV, RF64, AIFF, CAF, W64 or AU of `size` bytes lie; None of another file, or without
    them."""
    file.seek(0)
    head = file.read(16)
    if head.startswith(b".snd") and len(head) >= 12:
        first, length = struct.unpack_from(">II", head, 4)
        return SampleRegion(first, _unless_open(length, first, size, 32), None, {}) if 24 <= first <= size else None
    layout = next((layout for layout in _CHUNK_FORMATS if head.startswith(layout.magic)), None)
    return _find_sample_chunk(file, size, layout) if layout is not None else None


def _find_sample_chunk(file: BinaryIO, size: int, layout: _ChunkFormat) -> SampleRegion | None:
    position = layout.first
    large = None  # RF64 keeps the size of its samples in a chunk of its own
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
            opened = _unless_open(length - layout.preface, first, size, layout.size_bits)
            return SampleRegion(first, opened, layout, chunks) if first <= size else None
        if name == b"ds64":
            large = struct.unpack_from("<Q", file.read(16).ljust(16, b"\0"), 8)[0]
        step = layout.step(length)
        if step < layout.header.size:
            return None
        position += step
    return None


def _unless_open(length: int, first: int, size: int, bits: int) -> int | None:
    """A size, unless it is one that programs write which do not know it; 0 may be meant."""
    if length <= 0 and length > -24:
        return 0
    is_open = length < 0 or (length >= 1 << 62 if bits == 64 else first + length > size and length in OPEN_SIZES)
    return None if is_open else length


def walk_chunks(file: BinaryIO, size: int, samples: SampleRegion, start: int) -> Iterator[int]:
    """Where a chunk may begin behind byte `start`: there, and behind each chunk as long as there are some."""
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
    """Bytes to the chunk behind the one at `position`; 0 if there is none."""
    file.seek(position)
    header = file.read(layout.header.size)
    if len(header) < layout.header.size:
        return 0
    name, length = layout.header.unpack(header)
    return layout.step(length) if layout.is_chunk(name, length, size - position - layout.header.size) else 0


def count_missing_bytes(file: BinaryIO, size: int) -> int:
    """How many bytes of samples a header promises beyond the end of a file of `size` bytes; 0 if none or unknown."""
    file.seek(0)
    if file.read(4) == b"OggS":
        return _missing_of_last_page(file, size)
    samples = find_sample_region(file, size)
    if samples is None or samples.length is None:
        return 0
    missing = samples.first + samples.length - size
    return missing if missing > HEADER_TOLERANCE else 0


def _missing_of_last_page(file: BinaryIO, size: int) -> int:
    """Of the last Ogg page of a file: a page names the lengths of its segments before they come."""
    file.seek(max(0, size - MAX_OGG_PAGE))
    tail = file.read(MAX_OGG_PAGE)
    at = tail.rfind(b"OggS\0")
    page = tail[at:]
    if at < 0 or len(page) < 27:
        return 0
    segments = page[27 : 27 + page[26]]
    promised = 27 + page[26] + sum(segments)
    return max(0, promised - len(page))
