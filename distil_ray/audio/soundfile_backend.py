"""Reads what libsndfile reads: WAV and its kin, AIFF, AU, CAF, FLAC, Ogg Vorbis and Opus, NIST SPHERE.

First choice, because it reads PCM several times faster than libav and stops at the first damage instead of playing over
it. Not for MP3, though it is twice as fast there: it believes the bit rate of the first frame, so that a file of
variable rate without a Xing header loses its end, and it gives nothing of a block with damage in it.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

import soundfile

from distil_ray.audio.byte_view import ByteView
from distil_ray.audio.pcm import MAX_PIECE, SAMPLE_RATE, Block, block_frames
from distil_ray.audio.resample import MAX_RATE, MIN_RATE

UNKNOWN_LENGTH = 1 << 62  # libsndfile gives a number beyond this where the header does not tell
OUT_OF_MEMORY = 17  # libsndfile's SFE_MALLOC_FAILED

# Codings in which libsndfile finds any sample again exactly (tests/audio/test_cut.py). In Vorbis it is at times beside
# it; others (GSM, G.72x) cannot seek.
OPUS_LEAD_S = 1.0  # read before what is wanted: its predictors forget what they have not heard
SEEKABLE = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "ALAC_", "OPUS")


class SndfileError(Exception):
    """libsndfile does not read this file, or not further."""


class SndfileReader:
    """One open file. `num_frames` is its length by the header, in its own rate; None if the header does not tell.
    `heard_s`: how far into the file its samples have come."""

    def __init__(self, file: BinaryIO) -> None:
        """`file` stays open and belongs to the caller. By its number, because a name's extension would be believed."""
        file.seek(0)
        try:
            self._sound = soundfile.SoundFile(file if isinstance(file, ByteView) else file.fileno(), closefd=False)
        except soundfile.SoundFileError as error:
            raise _explain(error) from error
        self.rate: int = self._sound.samplerate
        self.num_channels: int = self._sound.channels
        self.num_frames: int | None = self._sound.frames if self._sound.frames < UNKNOWN_LENGTH else None
        if self._sound.format == "MP3" or "MPEG" in self._sound.subtype:
            raise SndfileError("MP3 is left to libav")
        if not MIN_RATE <= self.rate <= MAX_RATE:
            raise SndfileError(f"the header gives a sample rate of {self.rate} Hz")

    def blocks(self, skip: int = 0) -> Iterator[Block]:
        """The file without its first `skip` frames; what is read of them comes as empty blocks, as a sign of life.

        Raises `SndfileError` where it cannot be read further.
        """
        sound = self._sound
        plain = sound.subtype == "PCM_16" and sound.channels == 1 and self.rate == SAMPLE_RATE
        frames = MAX_PIECE if plain else block_frames(self.rate, sound.channels)
        self.heard_s = 0.0
        lead = round(OPUS_LEAD_S * self.rate) if sound.subtype == "OPUS" else 0
        if skip > lead and self._seek(skip - lead):
            self.heard_s, skip = (skip - lead) / self.rate, lead
        while True:
            try:
                samples = sound.read(frames, dtype="int16" if plain else "float32", always_2d=not plain)
            except soundfile.SoundFileError as error:
                raise _explain(error) from error
            if not len(samples):
                return
            self.heard_s += len(samples) / self.rate
            yield Block(self.rate, samples[skip:])
            skip = max(0, skip - len(samples))

    def _seek(self, frame: int) -> bool:
        """Whether the next frame that is read is this one; if not, it is the first."""
        if not self._sound.subtype.startswith(SEEKABLE) or not self._sound.seekable():
            return False
        with suppress(soundfile.SoundFileError):  # behind the end, or in damage
            if self._sound.seek(frame) == frame:
                return True
        try:
            self._sound.seek(0)
        except soundfile.SoundFileError as error:
            raise _explain(error) from error
        return False

    def close(self) -> None:
        self._sound.close()


def _explain(error: soundfile.SoundFileError) -> Exception:
    if getattr(error, "code", None) == OUT_OF_MEMORY:
        return MemoryError("libsndfile could not get memory")
    words = getattr(error, "error_string", str(error))
    return SndfileError(words.strip().rstrip(".").removeprefix("Error : "))
