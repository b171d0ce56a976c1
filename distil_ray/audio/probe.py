"""How a file of sound was recorded, by its header: what decoding levels out.

Reads the header and decodes nothing, with the libraries and of the stream that decoding takes. It may crash as they
may: `Decoder.look` (isolate.py) asks it in the decoder's process; directly it may be asked of files that have been
decoded before.
"""

from typing import IO, BinaryIO

import av
import soundfile

from distil_ray.audio.headers import is_mpeg
from distil_ray.audio.pcm import SoundFacts
from distil_ray.audio.pyav_backend import LibavError, choose_stream
from distil_ray.audio.soundfile_backend import UNKNOWN_LENGTH


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
            codec = choose_stream(container).codec_context
            seconds = None if container.duration is None else container.duration / av.time_base
            known = codec.sample_rate and codec.channels
            return SoundFacts(codec.sample_rate, codec.channels, seconds) if known else None
    except (av.error.FFmpegError, LibavError, ValueError):
        return None
