"""Reads audio with libsndfile: WAV and its relatives, AIFF, AU, CAF, FLAC, Ogg Vorbis and Opus, NIST SPHERE.

This is the first choice: it reads PCM several times faster than libav, and stops at the first damage instead of playing
over it. It is not used for MP3, though it is twice as fast there: it believes the bit rate of the first frame, so that
a file of variable rate without a Xing header loses its end, and it yields nothing of a block with damage in it.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

import soundfile

from distil_ray.audio.conversion import MAX_RATE, MIN_RATE
from distil_ray.audio.pcm import MAX_PIECE_SAMPLES, AudioBlock, block_frames
from distil_ray.audio.streams import ByteView
from distil_ray.types import SAMPLE_RATE

UNKNOWN_LENGTH = 1 << 62  # libsndfile gives a larger number where the header has no length
OUT_OF_MEMORY = 17  # libsndfile's SFE_MALLOC_FAILED

OPUS_PREROLL_S = 1.0  # read before the requested sample, so that the codec's predictors settle
# Codecs in which libsndfile seeks exactly to any sample. In Vorbis it is sometimes off; GSM and G.72x cannot seek.
SEEKABLE = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "ALAC_", "OPUS")


class SoundfileBackendError(Exception):
    """libsndfile cannot read this file, or cannot read it further."""


class SoundfileBackend:
    """One open file.

    Args:
        file: Seekable file, which stays open and belongs to the caller.

    Attributes:
        rate: Sample rate in Hz.
        num_channels: Number of channels.
        num_frames: Length by the header, at the file's own rate; None if the header does not have it.
        position_s: Position that reading has reached, in seconds; set by `blocks`.

    Raises:
        SoundfileBackendError: libsndfile does not read this file, or another library is better at it.
    """

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        try:
            # The descriptor, and not the name: libsndfile would believe the name's extension.
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
        """Yields the file without its first `skip` frames. Empty blocks show progress while frames are skipped.

        Raises:
            SoundfileBackendError: The file cannot be read further.
        """
        audio = self._file
        plain = audio.subtype == "PCM_16" and audio.channels == 1 and self.rate == SAMPLE_RATE
        frames = MAX_PIECE_SAMPLES if plain else block_frames(self.rate, audio.channels)
        self.position_s = 0.0
        preroll = round(OPUS_PREROLL_S * self.rate) if audio.subtype == "OPUS" else 0
        if skip > preroll and self._seek(skip - preroll):
            self.position_s, skip = (skip - preroll) / self.rate, preroll
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
        """Returns True if the next frame that is read will be this one; otherwise it will be the first."""
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
