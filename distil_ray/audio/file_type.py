"""Recognizes from its first bytes what a file is: audio of some format, or what else it looks like.

File names are not considered. Text is recognized before any decoder sees it, because playlists are text, and no decoder
may follow them.
"""

HEAD_BYTES = 4096  # read from the beginning of a file for all functions here

TS_PACKET = 188  # bytes of an MPEG transport stream's packet, which begins with a G

_TEXTS = (
    (b"version https://git-lfs.github.com/spec", "a Git LFS pointer; the file itself was not fetched"),
    (b"#EXTM3U", "a playlist"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML document"),
    (b"{", "JSON or the like"),
)

_TEXT_HEADERS = (b"NIST_1A", b"#!AMR", b"PVF1\n")  # audio formats whose header is text

_BINARIES = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
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
    b"PVF1\n",
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


def describe_content(head: bytes) -> str:
    """Returns a phrase for a file that no decoder accepts, such as "a ZIP archive"."""
    if (text := describe_text(head)) is not None:
        return text
    for magic, words in _BINARIES:
        if head.startswith(magic):
            return words
    if not any(head):
        return "nothing but zero bytes"
    return f"bytes of no known audio format (they begin with {head[:8].hex(' ')})"


def describe_text(head: bytes) -> str | None:
    """Returns a phrase for a file of text, such as "an HTML page"; None if it is not text."""
    if not head or head.startswith(_TEXT_HEADERS) or any(byte < 9 or 13 < byte < 32 for byte in head):
        return None
    try:
        head[: max(len(head) - 3, 1)].decode("utf-8")  # the last character may be incomplete
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return None
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((words for magic, words in _TEXTS if start.startswith(magic.lower())), "plain text")


def is_mpeg(head: bytes) -> bool:
    """Returns True if a file begins as an MP3 or ADTS stream does: with an ID3 tag or the sync bits of a frame."""
    return head.startswith(b"ID3") or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)


def is_audio(head: bytes) -> bool:
    """Returns True if a file begins like a container or stream of audio, readable or not."""
    return (
        is_mpeg(head)
        or head.startswith(_AUDIO)
        or head[4:8] in (b"ftyp", b"moov", b"mdat")
        or head[:1] == head[TS_PACKET : TS_PACKET + 1] == b"G"
    )
