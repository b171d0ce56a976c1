"""Reads the pages of an Ogg file: where its streams begin and end, and where pages or packets are missing.

Decoders read the first link of a chained file and stop, and they join what lies before and behind a gap. The granule
positions of the pages reveal both. Opus packets state their duration, so that a gap is found to the packet. Of Vorbis
only the longest possible packet is known, so that a gap is found where granule positions advance by more than the
packets can hold. Nothing is decoded. The checksum of every page is compared, at a few milliseconds per megabyte.
"""

import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAGIC = b"OggS\0"
PAGE = struct.Struct("<4xBBqIIIB")  # version, flags, granule position, serial and sequence number, checksum, segments
CONTINUED, FIRST, LAST = 1, 2, 4  # flags of a page
MAX_PAGE = 65_307  # bytes
READ_BYTES = 1 << 20
MAX_HEADER_BYTES = 64 << 20  # largest headers: comments may hold an image
GAP_S = 0.1  # seconds by which granule positions may run ahead of the packets
OPUS_RATE = 48_000  # Hz of Opus' granule positions, whatever the rate of the input was
# Duration of an Opus frame, by the configuration in a packet's first byte (RFC 6716, table 2).
OPUS_FRAMES_MS = (10, 20, 40, 60) * 3 + (10, 20) * 2 + (2.5, 5, 10, 20) * 4
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


@dataclass(frozen=True, slots=True)
class OggSection:
    """Pages that a decoder can read as one stream: the bytes of `header`, then those of the file from `start` to `end`.

    Attributes:
        start: First byte.
        end: Byte behind the last.
        header: Header pages that the decoder needs before them.
        start_s: Time in its link at which the audio begins, in seconds; None if it begins the link.
        end_s: Time at which it ends; given where that is exact and `start_s` is not.
        rate: Samples per second of the granule positions; 0 where these are not understood (codecs other than Opus and
            Vorbis, or several streams side by side).
        damage: What is wrong before or in the section; empty if nothing is.
    """

    start: int
    end: int
    header: bytes = b""
    start_s: float | None = None
    end_s: float | None = None
    rate: int = 0
    damage: str = ""


@dataclass(slots=True)
class _Page:
    offset: int
    flags: int
    granule: int
    serial: int
    sequence: int
    table: bytes  # lengths of the page's segments
    body: bytes
    end: int
    skipped: int  # bytes before the page that belong to no page


def find_sections(file: BinaryIO, size: int) -> tuple[list[OggSection], int]:
    """Returns the sections of an Ogg file of `size` bytes, in order, and the byte behind its last page."""
    links: list[_Link] = []
    end = 0
    for page in _pages(file, size):
        if page.flags & FIRST and (not links or links[-1].has_begun):
            links.append(_Link(page.offset))
        if links:
            links[-1].add(page)
        end = page.end
    sections: list[OggSection] = []
    for link, end_of_link in zip(links, [*(link.start for link in links), end][1:], strict=True):
        sections.extend(link.sections(file, end_of_link))
    return sections, end


def _pages(file: BinaryIO, size: int) -> Iterator[_Page]:
    """Yields all complete pages whose checksum is right."""
    buffer, base, at, skipped = b"", 0, 0, 0
    file.seek(0)
    while True:
        if len(buffer) - at < MAX_PAGE and base + len(buffer) < size:
            base, buffer, at = base + at, buffer[at:] + _read(file, READ_BYTES), 0
        if len(buffer) - at < PAGE.size:
            return
        page = _page(buffer, at, base)
        if page is not None:
            page.skipped, skipped = skipped, 0
            at += page.end - page.offset
            yield page
            continue
        found = buffer.find(MAGIC, at + 1)
        step = (found if found >= 0 else max(at + 1, len(buffer) - len(MAGIC) + 1)) - at
        at, skipped = at + step, skipped + step


def _read(file: BinaryIO, count: int) -> bytes:
    return file.read(count) or b""


def _page(buffer: bytes, at: int, base: int) -> _Page | None:
    """Returns the page at byte `at` of the buffer; None if there is no page, or its checksum is wrong."""
    if not buffer.startswith(MAGIC, at):
        return None
    _, flags, granule, serial, sequence, checksum, segments = PAGE.unpack_from(buffer, at)
    begin = at + PAGE.size + segments
    table = buffer[at + PAGE.size : begin]
    end = begin + sum(table)
    if len(table) < segments or end > len(buffer):
        return None
    zeroed = buffer[at : at + 22] + bytes(4) + buffer[at + 26 : end]
    if _checksum(zeroed) != checksum:
        return None
    return _Page(base + at, flags, granule, serial, sequence, table, buffer[begin:end], base + end, 0)


def _checksum(page: bytes) -> int:
    """Returns Ogg's CRC: zlib's polynomial with the bits of every byte reversed, initial value 0, not inverted."""
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int.from_bytes(value.to_bytes(4, "little").translate(_REVERSED), "big")


class _Link:
    """One link of a chained file: the streams that begin together. Takes their pages in order."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.has_begun = False  # a page has come that does not begin a stream
        self._serials: set[int] = set()
        self._clock: _Clock | None = None
        self._damage = ""
        self._header_packets = 0  # header packets that are still to come
        self._first_audio: int | None = None  # byte at which the header pages end
        self._gaps: list[_Gap] = []

    def add(self, page: _Page) -> None:
        """Takes the next page of the file."""
        if page.flags & FIRST:
            self._serials.add(page.serial)
            self._clock = _clock_for(page.body) if len(self._serials) == 1 else None
            self._header_packets = self._clock.header_packets - 1 if self._clock is not None else 0
            return
        self.has_begun = True
        if page.skipped:
            self._damage = self._damage or f"{page.skipped:,} bytes before byte {page.offset:,} are no page of it"
        if self._clock is None or page.serial not in self._serials:
            return
        if self._header_packets > 0:
            self._header_packets -= sum(length < 255 for length in page.table)
            return
        if self._first_audio is None:
            self._first_audio = page.offset
        gap = self._clock.add(page)
        if gap is not None:
            self._gaps.append(gap)

    def sections(self, file: BinaryIO, end: int) -> Iterator[OggSection]:
        """Yields the sections of the link, which ends at byte `end`: one, and another behind each gap."""
        if self._clock is None:
            yield OggSection(self.start, end, damage=self._damage)
            return
        clock = self._clock
        rate = 0 if clock.is_irregular else clock.rate
        header = b""
        if self._gaps and self._first_audio is not None and self._first_audio - self.start <= MAX_HEADER_BYTES:
            file.seek(self.start)
            header = _read(file, self._first_audio - self.start)
        gaps = self._gaps if header else []
        yield OggSection(self.start, gaps[0].start if gaps else end, rate=rate, damage=self._damage)
        for gap, following in zip(gaps, [*gaps, None][1:], strict=True):
            ends_s = clock.seconds if following is None else following.begin_s
            damage = f"the {gap.end_s - gap.begin_s:.2f} s before {gap.end_s:.2f} s are not in it"
            yield OggSection(
                gap.start,
                end if following is None else following.start,
                header,
                gap.end_s,
                None if clock.is_exact else ends_s,
                rate,
                damage,
            )


@dataclass(frozen=True, slots=True)
class _Gap:
    """Packets are missing from `begin_s` to `end_s` of a link, in seconds, before the page at byte `start`."""

    start: int
    begin_s: float
    end_s: float


class _Clock(ABC):
    """Compares the granule positions of one stream with the duration of its packets, in samples at `rate`.

    Attributes:
        run_start: Byte at which the pages begin that the last granule position covers.
        is_irregular: Granule positions run back.
        is_exact: The packets' own duration is known, not only its upper limit.
    """

    is_exact = False

    def __init__(self, rate: int, header_packets: int) -> None:
        self.rate = rate
        self.header_packets = header_packets
        self.run_start = 0
        self.is_irregular = False
        self._num_pending = 0  # samples of packets that have ended since the last granule position
        self._origin = 0
        self._last: int | None = None  # granule position
        self._begins_run = True

    @property
    def seconds(self) -> float:
        """Seconds of the link up to the last granule position."""
        return ((self._last or 0) - self._origin) / self.rate

    def add(self, page: _Page) -> "_Gap | None":
        """Returns the gap before the run of pages that ends with this one, if there is one."""
        if self._begins_run:
            self.run_start, self._num_pending, self._begins_run = page.offset, 0, False
        self._num_pending += self._packet_samples(page)
        if page.granule < 0:  # no packet ends here
            return None
        self._begins_run = True
        held, last, self._last = self._num_pending, self._last, page.granule
        if last is None:
            self._origin = 0 if page.flags & LAST else max(0, page.granule - held)  # a broadcast may begin anywhere
            return None
        if page.granule < last:
            self.is_irregular = True
            self._origin += page.granule - held - last
            return None
        missing = page.granule - last - held
        if missing <= GAP_S * self.rate:
            return None
        return _Gap(self.run_start, (last - self._origin) / self.rate, (page.granule - held - self._origin) / self.rate)

    @abstractmethod
    def _packet_samples(self, page: _Page) -> int:
        """Returns the samples of the packets that end on a page, or an upper limit."""


class _OpusClock(_Clock):
    """Durations are read from the packets (RFC 6716)."""

    is_exact = True

    def __init__(self) -> None:
        super().__init__(OPUS_RATE, header_packets=2)
        self._open = 0  # samples of a packet that began on an earlier page

    def _packet_samples(self, page: _Page) -> int:
        total, at, is_start = 0, 0, True
        samples = self._open if page.flags & CONTINUED else 0
        is_start = not page.flags & CONTINUED
        for length in page.table:
            if is_start:
                samples = _opus_samples(page.body[at : at + 2]) if length else 0
            at += length
            is_start = length < 255
            if is_start:
                total += samples
        self._open = 0 if is_start else samples
        return total


class _VorbisClock(_Clock):
    """Every packet may be as long as half of the long block."""

    def __init__(self, rate: int, long_block: int) -> None:
        super().__init__(rate, header_packets=3)
        self._packet = long_block // 2  # samples of the longest packet

    def _packet_samples(self, page: _Page) -> int:
        return self._packet * sum(length < 255 for length in page.table)


def _clock_for(packet: bytes) -> _Clock | None:
    """Returns the clock of a stream that begins with this packet; None for codecs other than Opus and Vorbis."""
    if packet.startswith(b"OpusHead") and len(packet) >= 19:
        return _OpusClock()
    if packet.startswith(b"\x01vorbis") and len(packet) >= 29:
        rate, blocks = struct.unpack_from("<I", packet, 12)[0], packet[28]
        return _VorbisClock(rate, 1 << (blocks >> 4)) if rate else None
    return None


def _opus_samples(beginning: bytes) -> int:
    """Returns the duration of an Opus packet by its first two bytes, in samples at 48 kHz (RFC 6716, section 3)."""
    frame = round(OPUS_FRAMES_MS[beginning[0] >> 3] * OPUS_RATE / 1000)
    code = beginning[0] & 3
    if code < 3:
        return frame * (1 if code == 0 else 2)
    return frame * (beginning[1] & 63) if len(beginning) > 1 else 0
