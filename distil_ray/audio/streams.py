"""Finds all audio of a file whose header does not show it: further streams behind the first, and sizes that are wrong.

A decoder reads the first stream of a file as far as its header says, and takes that for complete. But files are joined
(links of Ogg, FLAC behind FLAC, WAV behind WAV), and sizes may be left open by a program that wrote to a pipe, be those
of an earlier moment of a recording that was interrupted, or have only 32 bits for over 4 GiB. `find_sections` splits a
file into sections that a decoder each can read, with the header that it needs. An ordinary file is one section: itself.
"""

import io
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from distil_ray.audio import ogg
from distil_ray.audio.headers import HEADER_TOLERANCE, SampleRegion, find_sample_region, id3_bytes, walk_chunks


class ByteView(io.RawIOBase):
    """A part of a file that reads like a file of its own, with other bytes before it.

    It reads `prefix`, then the bytes from `start` to `end` (exclusive) of `file`, and holds nothing. libsndfile and
    libav take it like any other seekable file. `file` stays open and belongs to the caller. Every read seeks in it:
    several views of one file may be read in turn, not at the same time.
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
            num_read = self._file.readinto(target[count:wanted])  # type: ignore[attr-defined]
            count += num_read or 0
        self._position += count
        return count


def byte_view(file: BinaryIO, start: int, end: int, prefix: bytes = b"") -> BinaryIO:
    """Returns a `ByteView`, typed as the decoders' input."""
    return cast(BinaryIO, ByteView(file, start, end, prefix))


READ_BYTES = 1 << 20
MAX_PADDING_BYTES = 1 << 20  # zeros behind the samples that count as padding
SIZE_WRAP = 1 << 32
MAX_SECTIONS = 10_000  # of a file; the rest is left to the last one
MAX_BOXES = 100_000  # read at the top level of an MP4; a fragmented one has two every few seconds
MAX_PREFIX_BYTES = 64 << 20  # largest header that is rewritten with other sizes

FLAC_BLOCKS = (
    0,
    192,
    576,
    1152,
    2304,
    4608,
    0,
    0,
    *(1 << code for code in range(8, 16)),
)  # samples, by the code in a frame's header

MOVIE_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # with which an MP4 or QuickTime file may begin
RIFF_TYPE = 8  # bytes before the type of a RIFF file
Signature = tuple[re.Pattern[bytes], bytes]

# The beginning of a stream, for formats whose files may have another stream at any byte: a pattern that random bytes
# hardly match, and the rarest bytes in it.
_FLAC = (re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"), b"fLaC")
_ASF = (re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"), b"\x30\x26\xb2\x75")
_MATROSKA = (re.compile(rb"\x1a\x45\xdf\xa3(?=.{1,64}\x42\x82.{1,8}(?:webm|matroska))", re.DOTALL), b"\x1a\x45\xdf\xa3")
_AMR = (re.compile(rb"#!AMR(?:-WB)?\n"), b"#!AMR")
_TTA = (re.compile(rb"TTA1[\x01-\x03]\x00"), b"TTA1")
_APE = (re.compile(rb"MAC .\x0f\x00\x00", re.DOTALL), b"MAC ")
_FLV = (re.compile(rb"FLV\x01[\x01\x04\x05]\x00\x00\x00\x09\x00\x00\x00\x00"), b"FLV\x01")
_AVI = (re.compile(rb"RIFF....AVI ", re.DOTALL), b"AVI ")
_RIFF = (re.compile(rb"(?:RIFF|RF64)....WAVE", re.DOTALL), b"WAVE")
_OGG = (re.compile(rb"OggS\x00\x02\x00{8}"), b"OggS\x00\x02")
_SIGNATURE_BYTES = 96  # the longest signature
_SEARCHED = {
    b"\x30\x26\xb2\x75": (_ASF,),
    b"\x1a\x45\xdf\xa3": (_MATROSKA,),
    b"#!AM": (_AMR,),
    b"TTA1": (_TTA,),
    b"MAC ": (_APE,),
    b"FLV\x01": (_FLV,),
    b"RIFF": (_AVI,),
}

# Tags that may follow the samples of a file.
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")


@dataclass(frozen=True, slots=True)
class StreamSection:
    """A section of a file that one decoder reads as one stream.

    Attributes:
        data: Seekable file that begins and ends with the section.
        size: Its size in bytes.
        start_s: Time at which the section begins in its stream, in seconds; None: it begins a stream, directly behind
            the section before.
        end_s: Time at which it ends, if that is more exact.
        needs_pyav: libsndfile would lose some of it.
        damage: What is wrong with the file before or in this section; empty if nothing is.
    """

    data: BinaryIO
    size: int
    start_s: float | None = None
    end_s: float | None = None
    needs_pyav: bool = False
    damage: str = ""


def find_sections(file: BinaryIO, size: int) -> list[StreamSection]:
    """Returns the sections of a file of `size` bytes, in order: at least one."""
    sections: list[StreamSection] = []
    start = 0
    while len(sections) < MAX_SECTIONS:
        data = file if start == 0 else byte_view(file, start, size)
        found, end = _first_stream(data, size - start)
        sections.extend(found)
        if end is None:
            break
        start += end
    return sections


def _first_stream(file: BinaryIO, size: int) -> tuple[list[StreamSection], int | None]:
    """Returns the sections of the first stream, and the byte at which the next one begins; None if there is none."""
    file.seek(0)
    head = file.read(64) or b""
    if head.startswith(ogg.MAGIC):
        return _ogg_sections(file, size)
    if (samples := find_sample_region(file, size)) is not None:
        return _chunk_container_sections(file, size, samples)
    tag_bytes = id3_bytes(head)
    if tag_bytes:
        file.seek(tag_bytes)
        head = file.read(64) or b""
    if head[4:8] in MOVIE_BOXES:
        end = _second_movie(file, size)
    elif head.startswith(b"fLaC"):
        end = _stream_behind_flac(file, size, tag_bytes + 1, head)
    else:
        end = _search(file, size, tag_bytes + 1, _SEARCHED.get(head[:4], ()))
    data = file if end is None else byte_view(file, 0, end)
    stream_bytes = size if end is None else end
    return [StreamSection(data, stream_bytes, needs_pyav=_is_flac_of_unknown_length(data, stream_bytes, head))], end


def _ogg_sections(file: BinaryIO, size: int) -> tuple[list[StreamSection], int | None]:
    found, end = ogg.find_sections(file, size)
    end_of_stream = _stream_behind(file, end, size)
    if len(found) <= 1 and end_of_stream is None:
        single = found[0] if found else ogg.OggSection(0, size)
        return [
            StreamSection(file, size, needs_pyav=single.rate == 0 or bool(single.damage), damage=single.damage)
        ], None
    sections = []
    for section in found:
        is_last = section is found[-1] and end_of_stream is None
        until = size if is_last else section.end  # includes the beginning of an incomplete page
        data = byte_view(file, section.start, until, section.header)
        section_bytes = len(section.header) + until - section.start
        sections.append(
            StreamSection(data, section_bytes, section.start_s, section.end_s, section.rate == 0, section.damage)
        )
    return sections, end_of_stream


def _stream_behind(file: BinaryIO, start: int, size: int) -> int | None:
    """Returns the byte of another container's stream at `start`, or behind some zeros; None if there is none."""
    if not 0 < start < size:
        return None
    file.seek(start)
    found = file.read(HEADER_TOLERANCE) or b""
    zeros = len(found) - len(found.lstrip(b"\0"))
    return start + zeros if _begins_stream(found[zeros:]) else None


def _begins_stream(head: bytes) -> bool:
    """Returns True if a stream with a header begins with these bytes."""
    return (
        any(pattern.match(head) for pattern, _ in (_FLAC, _ASF, _MATROSKA, _AMR, _RIFF, _OGG))
        or (head.startswith(b"FORM") and head[8:11] == b"AIF")
        or head.startswith((b"caff\x00\x01", b"riff\x2e\x91\xcf\x11", b".snd\x00\x00", b"NIST_1A\n"))
        or head[4:8] == b"ftyp"
    )


def _search(file: BinaryIO, size: int, start: int, signatures: tuple[Signature, ...]) -> int | None:
    """Returns the first byte from `start` on at which a signature is found."""
    if not signatures:
        return None
    position, kept = start, b""
    file.seek(start)
    while position < size and (read := file.read(READ_BYTES)):
        window, base = kept + read, position - len(kept)
        position += len(read)
        found = [_find(window, pattern, needle) for pattern, needle in signatures]
        if hits := [at for at in found if at is not None]:
            return base + min(hits)
        kept = window[-_SIGNATURE_BYTES:]
    return None


def _find(window: bytes, pattern: re.Pattern[bytes], needle: bytes) -> int | None:
    """Returns the position of a signature. Finding its rarest bytes first is many times faster than the pattern."""
    at = 0
    while (at := window.find(needle, at)) >= 0:
        begin = max(0, at - RIFF_TYPE) if needle in (b"WAVE", b"AVI ") else at
        if (match := pattern.search(window, begin, at + _SIGNATURE_BYTES)) and match.start() <= at:
            return match.start()
        at += 1
    return None


def _second_movie(file: BinaryIO, size: int) -> int | None:
    """Returns the byte of the second of several joined MP4s: another `ftyp` box at the top level."""
    position = 0
    for _ in range(MAX_BOXES):
        file.seek(position)
        header = file.read(16) or b""
        if len(header) < 8:
            return None
        length, name = struct.unpack_from(">I4s", header)
        if name == b"ftyp" and position > 0:
            return position
        if length == 1 and len(header) == 16:
            length = struct.unpack_from(">Q", header, 8)[0]
        if length < 8:
            return None
        position += length
    return None


def _stream_behind_flac(file: BinaryIO, size: int, start: int, head: bytes) -> int | None:
    """Returns the byte of another stream behind a FLAC: another FLAC, or, behind its last frame, any other format."""
    total, tail, ends = _flac_tail(file, size, head)
    others = max(start, size - tail) if total in ends else start
    found = _search(file, size, start, (_FLAC,)), _search(file, size, others, (_OGG, _RIFF))
    return min((at for at in found if at is not None), default=None)


def _is_flac_of_unknown_length(file: BinaryIO, size: int, head: bytes) -> bool:
    """Returns True if a FLAC's header has no length, or a frame lies behind that length."""
    if not head.startswith(b"fLaC"):
        return False
    total, _, ends = _flac_tail(file, size, head)
    return total == 0 or any(end > total for end in ends)


def _flac_tail(file: BinaryIO, size: int, head: bytes) -> tuple[int, int, list[int]]:
    """Reads the last bytes of a FLAC.

    Returns:
        The number of samples by the header, the number of bytes that were read, and the ends of the frames in them, in
        samples.
    """
    info = head[8:42]
    total = int.from_bytes(info[13:18], "big") & 0xF_FFFF_FFFF
    largest = int.from_bytes(info[7:10], "big") or 1 << 16
    tail_bytes = min(size, 2 * largest + 8192)  # the last frame, and a tag behind it
    file.seek(size - tail_bytes)
    return total, tail_bytes, list(_frame_ends(file.read(tail_bytes) or b"", info))


def _frame_ends(tail: bytes, info: bytes) -> Iterator[int]:
    """Yields the ends, in samples, of the frames whose headers are found in a FLAC's last bytes (RFC 9639, 9.1)."""
    fixed = int.from_bytes(info[0:2], "big")
    for match in re.finditer(rb"\xff[\xf8\xf9]", tail):
        at = match.start()
        header = tail[at : at + 16]
        number, used = _coded_number(header[4:])
        size_code = header[2] >> 4 if len(header) > 2 else 0
        samples = FLAC_BLOCKS[size_code]
        extra = {6: 1, 7: 2}.get(size_code, 0)
        rate_extra = {12: 1, 13: 2, 14: 2}.get(header[2] & 15 if len(header) > 2 else 0, 0)
        end = 4 + used + extra + rate_extra
        if size_code == 0 or not used or len(header) <= end or _crc8(header[:end]) != header[end]:
            continue
        if extra:
            samples = int.from_bytes(header[4 + used : 4 + used + extra], "big") + 1
        yield (number if header[1] & 1 else number * fixed) + samples


def _coded_number(encoded: bytes) -> tuple[int, int]:
    """Returns a number in FLAC's extended UTF-8 and the bytes that it takes; 0 bytes if there is no number."""
    if not encoded:
        return 0, 0
    first = encoded[0]
    if first < 0x80:
        return first, 1
    length = 8 - (first ^ 0xFF).bit_length()
    if not 2 <= length <= 7 or len(encoded) < length or any(byte >> 6 != 2 for byte in encoded[1:length]):
        return 0, 0
    number = first & ((1 << (7 - length)) - 1)
    for byte in encoded[1:length]:
        number = number << 6 | byte & 0x3F
    return number, length


def _crc8(header: bytes) -> int:
    """Returns the CRC-8 of a FLAC frame header (polynomial 0x07)."""
    value = 0
    for byte in header:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ 0x07) & 0xFF if value & 0x80 else value << 1
    return value


def _chunk_container_sections(
    file: BinaryIO, size: int, samples: SampleRegion
) -> tuple[list[StreamSection], int | None]:
    """Returns the section of a WAV-like container with its samples, and with corrected sizes if they are wrong."""
    declared = samples.length
    if declared is None or samples.first + declared > size:
        end, following, damage = size, None, ""
    else:
        end, following, damage = _find_true_end(file, size, samples, samples.first + declared)
    is_declared = declared is not None and (end == samples.first + declared or samples.first + declared > size)
    if is_declared or samples.first > MAX_PREFIX_BYTES:
        data, data_bytes = (file, size) if following is None else (byte_view(file, 0, following), following)
        return [StreamSection(data, data_bytes, damage=damage)], following
    prefix = samples.header_with(file, end - samples.first)
    if prefix is None:
        return [StreamSection(file, size, damage=damage)], following
    return [
        StreamSection(byte_view(file, samples.first, end, prefix), len(prefix) + end - samples.first, damage=damage)
    ], following


def _find_true_end(file: BinaryIO, size: int, samples: SampleRegion, declared: int) -> tuple[int, int | None, str]:
    """Finds where the samples end, by what lies behind the byte at which they end by the header (`declared`).

    Returns:
        The byte at which they end, the byte at which another stream begins (None if none does), and what is wrong.
    """
    if declared + HEADER_TOLERANCE >= size:
        return declared, None, ""
    kind, at = _classify_tail(file, size, samples, declared)
    if kind == "nothing":
        return declared, None, ""
    if kind == "stream":
        return declared, at, ""
    if kind == "unknown":
        return declared, None, f"{size - at:,} bytes behind its last chunk were not read"
    if samples.size_bits == 32 and (wraps := (size - declared) // SIZE_WRAP):
        wrapped = declared + wraps * SIZE_WRAP
        if _classify_tail(file, size, samples, wrapped)[0] == "nothing":
            return wrapped, None, ""
    return size, None, ""


def _classify_tail(file: BinaryIO, size: int, samples: SampleRegion, start: int) -> tuple[str, int]:
    """Classifies what lies behind byte `start`, and returns the byte at which it lies.

    The class is ``nothing`` (known chunks, tags, zeros), ``stream``, ``samples``, or, behind chunks, ``unknown``.
    """
    walked = 0
    for position in walk_chunks(file, size, samples, start):
        file.seek(position)
        head = file.read(64) or b""
        if _begins_stream(head):
            return "stream", position
        if size - position <= HEADER_TOLERANCE or head.startswith(_TAGS) or _is_padding(file, position, size):
            return "nothing", position
        walked += 1
        last = position
    return ("samples", start) if walked == 1 else ("unknown", last)


def _is_padding(file: BinaryIO, start: int, size: int) -> bool:
    """Returns True if only zeros follow, and no more of them than programs use as padding."""
    if size - start > MAX_PADDING_BYTES:
        return False
    file.seek(start)
    return not any(file.read(MAX_PADDING_BYTES) or b"")
