"""How a file of sound was recorded, by its header: what decoding levels out.

Reads the beginning of the file and decodes nothing. In the caller's process, without the decoder's child: meant for
files that have been decoded before.
"""

from dataclasses import dataclass
from typing import BinaryIO

import av
import soundfile

from distil_ray.audio.headers import is_mpeg


@dataclass(frozen=True, slots=True)
class SoundFacts:
    """`rate` in Hz."""

    rate: int
    num_channels: int


def probe(file: BinaryIO) -> SoundFacts | None:
    """A seekable file, or its beginning; None where no header tells."""
    head = file.read(16)
    if not is_mpeg(head):  # libsndfile would read all frames of an MP3 to count them
        file.seek(0)
        try:
            with soundfile.SoundFile(file.fileno(), closefd=False) as sound:
                return SoundFacts(sound.samplerate, sound.channels)
        except soundfile.SoundFileError:
            pass
    file.seek(0)
    try:
        with av.open(file, metadata_errors="ignore") as container:
            streams = container.streams.audio
            return SoundFacts(streams[0].rate, streams[0].channels) if streams else None
    except (av.error.FFmpegError, ValueError):
        return None
