"""How a file of sound was recorded, by its header: what decoding levels out.

Reads the header and decodes nothing. In the caller's process, without the decoder's child: meant for
files that have been decoded before.
"""

from dataclasses import dataclass
from typing import IO, BinaryIO

import av
import soundfile

from distil_ray.audio.headers import is_mpeg
from distil_ray.audio.sndfile import UNKNOWN_LENGTH


@dataclass(frozen=True, slots=True)
class SoundFacts:
    """`rate` in Hz; `duration_s` by the header, which may be an estimate, None where it does not tell."""

    rate: int
    num_channels: int
    duration_s: float | None


def probe(file: BinaryIO | IO[bytes]) -> SoundFacts | None:
    """The facts of a seekable file of sound; None where no header tells them."""
    file.seek(0)
    if not is_mpeg(file.read(16)):  # libsndfile would read all frames of an MP3 to count them
        file.seek(0)
        try:
            with soundfile.SoundFile(file) as sound:
                seconds = sound.frames / sound.samplerate if sound.frames < UNKNOWN_LENGTH else None
                return SoundFacts(sound.samplerate, sound.channels, seconds)
        except (soundfile.SoundFileError, TypeError):  # TypeError: a name that ends in .raw
            pass
    file.seek(0)
    try:
        with av.open(file, "r", metadata_errors="ignore") as container:
            streams = container.streams.audio
            seconds = None if container.duration is None else container.duration / av.time_base
            return SoundFacts(streams[0].rate, streams[0].channels, seconds) if streams else None
    except (av.error.FFmpegError, ValueError):
        return None
