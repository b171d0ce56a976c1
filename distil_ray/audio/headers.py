"""What a file's own bytes say, read without a decoder: what it is when it is no audio, and how much it promises.

Decoders read a file that was cut short to its end and call that complete. Containers tell better: sizes of chunks (WAV,
RF64, AIFF, W64, CAF, AU), an Ogg page that is not all there, an MP3's Xing header. A size that a pipe left open (zero,
or near 2 or 4 GiB) promises nothing, so a WAV over 2 GiB that lost its end is not noticed here.
"""

import struct
from dataclasses import dataclass, replace
from typing import BinaryIO

HEAD_BYTES = 4096
OPEN_SIZES = range(0x7FFF_0000, 0x1_0000_0000)  # what programs write that do not know the size yet
HEADER_TOLERANCE = 1024  # bytes that a size may promise too much: some writers count the header itself
MAX_OGG_PAGE = 65_307  # bytes
MAX_CHUNKS = 1000  # chunks looked at before the samples
TS_PACKET = 188  # bytes, the first of which is a G, in an MPEG transport stream
PLAIN_CODES = {1, 3, 6, 7}  # of a WAV: integers, floats, A-law, mu-law, each sample by itself
EXTENSIBLE = 0xFFFE  # its code stands further on

_TEXTS = (
    (b"version https://git-lfs.github.com/spec", "a Git LFS pointer; the file itself was not fetched"),
    (b"#EXTM3U", "a playlist"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML document"),
    (b"{", "JSON or the like"),
)
_BINARIES = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"PAR1", "a Parquet file"),
    (b"\x93NUMPY", "a NumPy array"),
)
_AUDIO = (
    b"RIFF",
    b"RF64",
    b"RIFX",
    b"FORM",
    b"caff",
    b"riff",
    b".snd",
    b"fLaC",
    b"OggS",
    b"NIST_1A",
    b"wvpk",
    b"#!AMR",
    b"TTA1",
    b"MAC ",  # Monkey's Audio
    b"\x0b\x77",  # AC-3
    b"FLV\x01",
    b"\x00\x00\x01\xba",  # MPEG program stream
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: WMA, WMV
)


def describe(head: bytes) -> str:
    """What a file that no decoder accepts looks like from its first bytes, for people."""
    if (text := describe_text(head)) is not None:
        return text
    for magic, words in _BINARIES:
        if head.startswith(magic):
            return words
    if not any(head):
        return "nothing but zero bytes"
    return f"bytes of no known audio format (they begin with {head[:8].hex(' ')})"


def describe_text(head: bytes) -> str | None:
    """What kind of text a file holds; None if it is not text. Playlists are text: no decoder gets to follow them."""
    if not head or any(byte < 9 or 13 < byte < 32 for byte in head):
        return None
    try:
        head[: max(len(head) - 3, 1)].decode("utf-8")  # the last letter may be cut
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return None
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((words for magic, words in _TEXTS if start.startswith(magic.lower())), "plain text")


def is_mpeg(head: bytes) -> bool:
    """Whether a file starts as an MP3 (or ADTS) stream does: with an ID3 tag or a frame's sync bits."""
    return head.startswith(b"ID3") or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)


def is_audio(head: bytes) -> bool:
    """Whether a file starts like a container or stream of audio, readable or not."""
    return (
        is_mpeg(head)
        or head.startswith(_AUDIO)
        or head[4:8] in (b"ftyp", b"moov", b"mdat")
        or head[:1] == head[TS_PACKET : TS_PACKET + 1] == b"G"
    )


@dataclass(frozen=True, slots=True)
class PcmLayout:
    """Where samples lie that are not compressed: from `first_byte` of the file, `rate` frames of `frame_bytes` a
    second."""

    first_byte: int
    rate: int
    frame_bytes: int


def pcm_layout(head: bytes) -> PcmLayout | None:
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
            layout = PcmLayout(0, rate, channels * -(-bits // 8))
        position += 8 + length + length % 2
    return None


def counts_frames(file: BinaryIO, size: int) -> bool:
    """Whether an MP3's first frame (Xing, Info or VBRI) tells the length of all of its `size` bytes.

    Not of several MP3s joined to one file: the first one's header counts only its own.
    """
    file.seek(0)
    head = file.read(10)
    start = 0
    if head.startswith(b"ID3") and len(head) == 10:
        a, b, c, d = head[6:]
        start = 10 + (a << 21 | b << 14 | c << 7 | d)
    file.seek(start)
    frame = file.read(2048)
    for word in (b"Xing", b"Info", b"VBRI"):
        if (at := frame.find(word)) >= 0 and len(frame) >= at + 16:
            flags: int = struct.unpack_from(">I", frame, at + 4)[0]
            offset = 10 if word == b"VBRI" else 8 + 4 * (flags & 1)
            counted: int = struct.unpack_from(">I", frame, at + offset)[0]
            return (word == b"VBRI" or flags & 2 != 0) and size - start <= counted + counted // 16
    return False


def missing_bytes(file: BinaryIO, size: int) -> int:
    """How many bytes of samples a header promises beyond the end of a file of `size` bytes; 0 if none or unknown."""
    file.seek(0)
    head = file.read(16)
    if head.startswith(b"OggS"):
        return _missing_of_last_page(file, size)
    if head.startswith(b".snd") and len(head) >= 12:
        offset, promised = struct.unpack_from(">II", head, 4)
        return _beyond(offset, promised, size)
    for layout in _LAYOUTS:
        if head.startswith(layout.magic):
            return _missing_of_chunks(file, size, layout)
    return 0


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a family of containers writes its chunks: an id and a size before each."""

    magic: bytes
    first: int  # byte at which the first chunk starts
    header: struct.Struct  # id, size
    samples: bytes  # id of the chunk that holds the samples
    size_includes_header: bool = False
    align: int = 2  # bytes


_LAYOUTS = (
    _Layout(b"RIFF", 12, struct.Struct("<4sI"), b"data"),
    _Layout(b"RF64", 12, struct.Struct("<4sI"), b"data"),
    _Layout(b"RIFX", 12, struct.Struct(">4sI"), b"data"),
    _Layout(b"FORM", 12, struct.Struct(">4sI"), b"SSND"),
    _Layout(b"caff", 8, struct.Struct(">4sq"), b"data", align=1),
    _Layout(b"riff", 40, struct.Struct("<16sq"), b"data", size_includes_header=True, align=8),
)


def _missing_of_chunks(file: BinaryIO, size: int, layout: _Layout) -> int:
    position = layout.first
    large = None  # RF64 keeps the size of its samples in a chunk of its own
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        header = file.read(layout.header.size)
        if len(header) < layout.header.size:
            return 0
        name, length = layout.header.unpack(header)
        if name.startswith(layout.samples):
            body = position + (0 if layout.size_includes_header else layout.header.size)
            return _beyond(body, large if large is not None and length == 0xFFFF_FFFF else length, size)
        if name == b"ds64":
            large = struct.unpack_from("<Q", file.read(16).ljust(16, b"\0"), 8)[0]
        step = length if layout.size_includes_header else layout.header.size + length
        if step < layout.header.size:
            return 0
        position += -(-step // layout.align) * layout.align
    return 0


def _beyond(start: int, length: int, size: int) -> int:
    missing = start + length - size
    return missing if length > 0 and length not in OPEN_SIZES and missing > HEADER_TOLERANCE else 0


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
