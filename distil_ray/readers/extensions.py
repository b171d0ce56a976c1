"""The extension that fits a recording's own bytes: of its name, or of what they begin with where that tells nothing.

Readers of data sets go by the extension: WebDataset's decoders, libraries that are handed a file's name.
"""

from pathlib import Path

from distil_ray.audio.file_type import is_mpeg
from distil_ray.readers.audio_formats import extension, is_audio_name
from distil_ray.types import Recording

# What a file begins with, for names that do not tell.
MAGIC = (
    (b"RIFF", "wav"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"FORM", "aiff"),
    (b".snd", "au"),
    (b"caff", "caf"),
    (b"#!AMR", "amr"),
    (b"\x1a\x45\xdf\xa3", "webm"),
)
OTHER = "audio"


def extension_of(recording: Recording, fetched: Path) -> str:
    """Without a dot; `fetched` is the file with the recording's bytes."""
    for name in (recording.location.member if recording.location else None, recording.uri):
        if name is not None and is_audio_name(name):
            return extension(name)[1:]
    with fetched.open("rb") as file:
        head = file.read(16)
    if is_mpeg(head):
        return "mp3"
    if head[4:8] == b"ftyp":
        return "m4a"
    return next((known for magic, known in MAGIC if head.startswith(magic)), OTHER)
