"""Audio formats by file extension: which extensions are audio, and how long a file of a given size is likely to be.

Decoding finds out whether a file is audio. The listing of a folder relies on the extension where there is one: opening
a million files would cost more than the few that decoding then refuses. The byte rates are low estimates, so that a
duration is rather over- than underestimated, and a task of the plan holds less audio than allowed, never far more.
"""

import re
from pathlib import Path

from distil_ray.audio.file_type import is_mpeg
from distil_ray.storage.uris import is_http
from distil_ray.types import Recording

# Extension -> bytes a second of speech as corpora usually keep it (16 kHz mono for PCM and lossless coders).
AUDIO_BYTES_PER_S = {
    # PCM and telephone coders
    ".wav": 32_000,
    ".w64": 32_000,
    ".rf64": 32_000,
    ".aif": 32_000,
    ".aiff": 32_000,
    ".aifc": 32_000,
    ".au": 16_000,
    ".snd": 16_000,
    ".caf": 32_000,
    ".sph": 32_000,
    ".gsm": 1_650,
    ".amr": 1_600,
    ".awb": 2_400,
    # lossless
    ".flac": 16_000,
    ".ape": 16_000,
    ".tta": 16_000,
    ".wv": 16_000,
    # lossy
    ".mp2": 16_000,
    ".mp3": 8_000,
    ".mpga": 8_000,
    ".m4a": 8_000,
    ".m4b": 8_000,
    ".aac": 8_000,
    ".wma": 8_000,
    ".ac3": 24_000,
    ".eac3": 24_000,
    ".mka": 8_000,
    ".ogg": 6_000,
    ".oga": 6_000,
    ".opus": 3_000,
    ".spx": 3_000,
    # video, with the pictures
    ".webm": 30_000,
    ".3gp": 20_000,
    ".mp4": 60_000,
    ".m4v": 60_000,
    ".mkv": 60_000,
    ".mov": 60_000,
    ".avi": 60_000,
    ".wmv": 60_000,
    ".flv": 60_000,
    ".ts": 60_000,
    ".mpg": 60_000,
    ".mpeg": 60_000,
}

DEFAULT_BYTES_PER_S = 16_000  # a name that says nothing
_TEXT_TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")  # NeMo calls its JSON lines .json
MANIFEST_EXTENSIONS = (*_TEXT_TABLES, *(f"{name}.gz" for name in _TEXT_TABLES), ".parquet")


def plain_name(uri: str) -> str:
    """Returns a URI in lower case; a web address without its query, which is not part of the file name."""
    return without_query(uri).lower()


def without_query(uri: str) -> str:
    """Returns a web address without its query; any other URI unchanged."""
    return re.split(r"[?#]", uri, maxsplit=1)[0] if is_http(uri) else uri


def extension(uri: str) -> str:
    """Returns the last extension in lower case with its dot, or an empty string."""
    stem, dot, ending = plain_name(uri).rpartition("/")[2].rpartition(".")
    return dot + ending if stem.strip(".") else ""  # as posixpath.splitext has it, in a third of the time


def is_audio_name(uri: str) -> bool:
    """Returns whether the extension is one of audio."""
    return extension(uri) in AUDIO_BYTES_PER_S


def is_manifest_name(uri: str) -> bool:
    """Returns whether the extension is one of tables and lists."""
    return plain_name(uri).endswith(MANIFEST_EXTENSIONS)


def is_utf8(text: str) -> bool:
    """Returns whether a table can hold the text: file names and JSON may contain lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def estimate_duration_s(uri: str, size: int | None) -> float:
    """Returns the likely duration in seconds of a file of `size` bytes with this name; 0 without a size."""
    return (size or 0) / AUDIO_BYTES_PER_S.get(extension(uri), DEFAULT_BYTES_PER_S)


# What a file begins with, for names that do not tell.
_SIGNATURES = (
    (b"RIFF", "wav"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"FORM", "aiff"),
    (b".snd", "au"),
    (b"caff", "caf"),
    (b"#!AMR", "amr"),
    (b"\x1a\x45\xdf\xa3", "webm"),
)
UNKNOWN_EXTENSION = "audio"


def audio_extension(recording: Recording, fetched: Path) -> str:
    """Returns the extension, without a dot, that fits the bytes of a recording: of its name, else by its first bytes.

    WebDataset's decoders and other readers of datasets rely on the extension.

    Args:
        recording: The recording.
        fetched: Local file with its bytes.
    """
    for name in (recording.location.member if recording.location else None, recording.uri):
        if name is not None and is_audio_name(name):
            return extension(name)[1:]
    with fetched.open("rb") as file:
        head = file.read(16)
    if is_mpeg(head):
        return "mp3"
    if head[4:8] == b"ftyp":
        return "m4a"
    return next((known for magic, known in _SIGNATURES if head.startswith(magic)), UNKNOWN_EXTENSION)
