"""FLAC files by hand: days of silence in a few bytes, as no encoder writes them by accident."""

import struct

BLOCK = 65_535  # samples of a frame, the most that a header can say
RATE = 4000  # Hz


def flac_of_silence(seconds: int, *, is_told: bool = True) -> bytes:
    """A FLAC file at 4 kHz whose every frame is one constant: 14 bytes for sixteen seconds.

    `is_told`: whether the header tells the number of samples; streams leave it open.
    """
    frames = -(-seconds * RATE // BLOCK)
    samples = frames * BLOCK if is_told else 0
    info = struct.pack(">HH6x", BLOCK, BLOCK) + ((RATE << 44) | (15 << 36) | samples).to_bytes(8, "big") + bytes(16)
    return b"fLaC\x80" + len(info).to_bytes(3, "big") + info + b"".join(map(_frame, range(frames)))


def _frame(number: int) -> bytes:
    """Block size from 16 bits, rate from the file's header, one channel, 16 bits, one constant subframe of zeros."""
    header = b"\xff\xf8\x70\x08" + _utf8(number) + struct.pack(">H", BLOCK - 1)
    frame = header + bytes([_crc(header, 8, 0x07)]) + b"\x00\x00\x00"
    return frame + struct.pack(">H", _crc(frame, 16, 0x8005))


def _utf8(number: int) -> bytes:
    return chr(number).encode("utf-8", "surrogatepass")


def _crc(data: bytes, width: int, polynomial: int) -> int:
    value, top, mask = 0, 1 << (width - 1), (1 << width) - 1
    for byte in data:
        value ^= byte << (width - 8)
        for _ in range(8):
            value = ((value << 1) ^ polynomial if value & top else value << 1) & mask
    return value
