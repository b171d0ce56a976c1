"""Reads from a file's header how it was recorded: sample rate, channels, duration.

Nothing is decoded. The header is read by the same libraries, and of the same stream, as decoding would use. They may
crash: `SubprocessDecoder.probe` calls `probe_audio` in the decoder process. Call it directly only for files that have
been decoded before.
"""

from dataclasses import dataclass
from typing import IO, BinaryIO

import soundfile

from distil_ray.audio.file_type import is_mpeg
from distil_ray.audio.soundfile_backend import UNKNOWN_LENGTH


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Format of a recording, by its header.

    Attributes:
        rate: Sample rate in Hz.
        num_channels: Number of channels.
        duration_s: Duration in seconds, which may be an estimate; None where the header does not have it.
    """

    rate: int
    num_channels: int
    duration_s: float | None


def probe_audio(file: BinaryIO | IO[bytes]) -> AudioInfo | None:
    """Returns the information of a seekable audio file; None if no header has it."""
    file.seek(0)
    if not is_mpeg(file.read(16)):  # libsndfile would read all frames of an MP3 to count them
        file.seek(0)
        try:
            with soundfile.SoundFile(file) as audio:
                seconds = audio.frames / audio.samplerate if audio.frames < UNKNOWN_LENGTH else None
                return AudioInfo(audio.samplerate, audio.channels, seconds)
        except (soundfile.SoundFileError, TypeError):  # TypeError: a name that ends in .raw
            pass
    import av

    from distil_ray.audio.pyav_backend import PyAVError, choose_stream

    file.seek(0)
    try:
        with av.open(file, "r", metadata_errors="ignore") as container:
            codec = choose_stream(container).codec_context
            seconds = None if container.duration is None else container.duration / av.time_base
            known = codec.sample_rate and codec.channels
            return AudioInfo(codec.sample_rate, codec.channels, seconds) if known else None
    except (av.error.FFmpegError, PyAVError, ValueError):
        return None
