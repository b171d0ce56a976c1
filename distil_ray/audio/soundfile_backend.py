"""Reads what libsndfile reads: WAV and its kin, AIFF, AU, CAF, FLAC, Ogg Vorbis and Opus, NIST SPHERE.

First choice, because it reads PCM several times faster than libav and stops at the first damage instead of playing over
it. Not for MP3, though it is twice as fast there: it believes the bit rate of the first frame, so that a file of
variable rate without a Xing header loses its end, and it gives nothing of a block with damage in it.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

import soundfile

from distil_ray.audio.conversion import MAX_RATE, MIN_RATE
from distil_ray.audio.pcm import MAX_PIECE_SAMPLES, SAMPLE_RATE, AudioBlock, block_frames
from distil_ray.audio.streams import ByteView

UNKNOWN_LENGTH = 1 << 62  # libsndfile gives a number beyond this where the header does not tell
OUT_OF_MEMORY = 17  # libsndfile's SFE_MALLOC_FAILED

# Codings in which libsndfile finds any sample again exactly. In Vorbis it is at times beside
# it; others (GSM, G.72x) cannot seek.
OPUS_LEAD_S = 1.0  # read before what is wanted: its predictors forget what they have not heard
SEEKABLE = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "ALAC_", "OPUS")


class SoundfileBackendError(Exception):
    """libsndfile does not read this file, or not further."""


class SoundfileBackend:
    """One open file. `num_frames` is its length by the header, in its own rate; None if the header does not tell.
    `heard_s`: how far into the file its samples have come."""

    def __init__(self, file: BinaryIO) -> None:
        """`file` stays open and belongs to the caller. By its number, because a name's extension would be believed."""
        file.seek(0)
        try:
            self._file = soundfile.SoundFile(file if isinstance(file, ByteView) else file.fileno(), closefd=False)
        except soundfile.SoundFileError as error:
            raise _explain(error) from error
        self.rate: int = self._file.samplerate
        self.num_channels: int = self._file.channels
        self.num_frames: int | None = self._file.frames if self._file.frames < UNKNOWN_LENGTH else None
        if self._file.format == "MP3" or "MPEG" in self._file.subtype:
            raise SoundfileBackendError("MP3 is left to libav")
        if not MIN_RATE <= self.rate <= MAX_RATE:
            raise SoundfileBackendError(f"the header gives a sample rate of {self.rate} Hz")

    def blocks(self, skip: int = 0) -> Iterator[AudioBlock]:
        """The file without its first `skip` frames; what is read of them comes as empty blocks, as a sign of life.

        Raises `SndfileError` where it cannot be read further.
        """
        audio = self._file
        plain = audio.subtype == "PCM_16" and audio.channels == 1 and self.rate == SAMPLE_RATE
        frames = MAX_PIECE_SAMPLES if plain else block_frames(self.rate, audio.channels)
        self.position_s = 0.0
        lead = round(OPUS_LEAD_S * self.rate) if audio.subtype == "OPUS" else 0
        if skip > lead and self._seek(skip - lead):
            self.position_s, skip = (skip - lead) / self.rate, lead
        while True:
            try:
                samples = audio.read(frames, dtype="int16" if plain else "float32", always_2d=not plain)
            except soundfile.SoundFileError as error:
                raise _explain(error) from error
            if not len(samples):
                return
            self.position_s += len(samples) / self.rate
            yield AudioBlock(self.rate, samples[skip:])
            skip = max(0, skip - len(samples))

    def _seek(self, frame: int) -> bool:
        """Whether the next frame that is read is this one; if not, it is the first."""
        if not self._file.subtype.startswith(SEEKABLE) or not self._file.seekable():
            return False
        with suppress(soundfile.SoundFileError):  # behind the end, or in damage
            if self._file.seek(frame) == frame:
                return True
        try:
            self._file.seek(0)
        except soundfile.SoundFileError as error:
            raise _explain(error) from error
        return False

    def close(self) -> None:
        self._file.close()


def _explain(error: soundfile.SoundFileError) -> Exception:
    if getattr(error, "code", None) == OUT_OF_MEMORY:
        return MemoryError("libsndfile could not get memory")
    words = getattr(error, "error_string", str(error))
    return SoundfileBackendError(words.strip().rstrip(".").removeprefix("Error : "))
