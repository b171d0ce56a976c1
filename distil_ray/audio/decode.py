"""An encoded file to 16 kHz mono PCM16, streamed, and how complete that was.

libsndfile first, libav for what it cannot read or where it stops. What a file is, is seen in its bytes; its name does
not count. Memory is bounded by a block (two seconds), whatever the file's length. Never raises for what the audio is;
it may still crash, hang or run out of memory inside the C libraries, and that is isolate.py's concern. Knows no URI:
an outcome's message is completed there.
"""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np

from distil_ray.audio.channels import Mixer
from distil_ray.audio.headers import HEAD_BYTES, describe, describe_text, is_audio, is_mpeg, missing_bytes
from distil_ray.audio.pcm import MAX_PIECE, PCM16, SAMPLE_RATE, Block, Samples, to_pcm16
from distil_ray.audio.resample import Resampler
from distil_ray.audio.sndfile import SndfileError, SndfileReader
from distil_ray.errors import ErrorKind

MAX_EMPTY_BYTES = 100_000  # a valid file without a sample has headers and at most a small picture
CLIPPED_FRACTION = 0.01  # share of samples beyond full scale from which a recording is flagged


@dataclass(frozen=True, slots=True)
class DecodeOutcome:
    """How the decoding of one file ended.

    `num_samples` were yielded, at 16 kHz; `error_kind` is None if they are all there is. With a kind and samples the
    recording is partial, with a kind and none it failed. Flags: `antiphase` (channels cancelled in their mean, the
    louder one was taken), `non_finite` (NaN or infinite samples became zeros), `clipped` (over 1 % of the samples were
    beyond full scale). `cpu_s`: CPU seconds that the decoder's process spent on it.
    """

    num_samples: int
    error_kind: ErrorKind | None
    error: str | None
    flags: tuple[str, ...] = ()
    cpu_s: float = 0.0


def decode_file(path: str, max_duration_s: float = math.inf) -> Iterator[PCM16 | DecodeOutcome]:
    """Pieces of at most `MAX_PIECE` samples, then exactly one `DecodeOutcome`. Raises OSError if there is no such file,
    MemoryError if there is not enough of it.

    A file that lasts longer than `max_duration_s` is TOO_LONG: without a sample if its header tells, else when it gets
    there. A hundred kilobytes can hold days of silence.
    """
    with open(path, "rb", buffering=0) as file:
        decoding = _Decoding(file, max_duration_s)
        try:
            yield from decoding.pieces()
        except _TooLongError as error:
            decoding.give_up(str(error))
    yield decoding.outcome()


class _TooLongError(Exception):
    """The file lasts longer than allowed: who says so."""


class _Decoding:
    """One file on its way; counts what is needed for the outcome."""

    def __init__(self, file: BinaryIO, max_duration_s: float) -> None:
        self._file = file
        self._max_duration_s = max_duration_s
        self._mixer = Mixer()
        self._resampler: Resampler | None = None
        self._problem: tuple[ErrorKind, str] | None = None
        self._num_samples = 0
        self._num_clipped = 0
        self._num_non_finite = 0
        self._held = 0  # samples without a single finite one so far: zeros to come, should one appear

    def pieces(self) -> Iterator[PCM16]:
        for block in self._blocks():
            if block.samples.dtype == np.int16:
                yield self._counted(cast(PCM16, block.samples))
            else:
                yield from self._convert(block.rate, cast(Samples, block.samples))
        if self._resampler is not None:
            yield from self._emit(self._resampler.finish())

    def give_up(self, words: str) -> None:
        self._problem = ErrorKind.TOO_LONG, words

    def outcome(self) -> DecodeOutcome:
        kind, error = self._problem or (None, None)
        if kind is None and self._num_non_finite:
            kind = ErrorKind.NON_FINITE
            error = f"{self._num_non_finite} samples are NaN or infinite" + (
                "" if self._num_samples else ", all of them"
            )
        if kind is None and self._num_samples == 0:
            kind, error = ErrorKind.NO_SAMPLES, "a valid file without a sample"
        flags = {
            "antiphase": self._mixer.antiphase,
            "non_finite": self._num_non_finite > 0,
            "clipped": self._num_clipped > CLIPPED_FRACTION * self._num_samples,
        }
        return DecodeOutcome(self._num_samples, kind, error, tuple(flag for flag, present in flags.items() if present))

    def _blocks(self) -> Iterator[Block]:
        """Blocks from the first reader that takes the file; libav goes on where libsndfile stops."""
        size = self._file.seek(0, 2)
        self._file.seek(0)
        head = self._file.read(HEAD_BYTES)
        if size == 0:
            self._problem = ErrorKind.EMPTY_FILE, "the file has zero bytes"
            return
        if (text := describe_text(head)) is not None:
            self._problem = ErrorKind.NOT_AUDIO, f"this is {text}"
            return
        refusal = "MP3 is left to libav"
        if not is_mpeg(head):
            try:
                reader = SndfileReader(self._file)
            except SndfileError as error:
                refusal = str(error)
            else:
                yield from self._sndfile_blocks(reader, head, size)
                return
        yield from self._libav_blocks(head, size, refusal=refusal)

    def _sndfile_blocks(self, reader: SndfileReader, head: bytes, size: int) -> Iterator[Block]:
        delivered, damage = 0, ""
        try:
            self._allow((reader.num_frames or 0) / reader.rate)
            for block in reader.blocks():
                delivered += len(block.samples)
                yield block
        except SndfileError as error:
            damage = str(error)
        finally:
            reader.close()
        if delivered and not damage:
            self._problem = self._shortfall(reader, delivered, size)
        else:  # broken off; or the header says that there are no samples, as a pipe leaves it
            yield from self._libav_blocks(head, size, delivered, damage)

    def _shortfall(self, reader: SndfileReader, delivered: int, size: int) -> tuple[ErrorKind, str] | None:
        if missing := missing_bytes(self._file, size):
            return _cut_off(f"{missing} bytes")
        if reader.num_frames is not None and delivered < reader.num_frames:
            lacking_s = (reader.num_frames - delivered) / reader.rate
            return ErrorKind.CORRUPT, f"{lacking_s:.2f} s of {reader.num_frames / reader.rate:.2f} s cannot be decoded"
        return None

    def _libav_blocks(
        self, head: bytes, size: int, skip: int = 0, damage: str = "", refusal: str = ""
    ) -> Iterator[Block]:
        """libav's blocks behind the first `skip` samples. `damage`: where libsndfile stopped; `refusal`: why it did not
        begin."""
        from distil_ray.audio.libav import LibavError, LibavReader, NoAudioError  # most files do without it

        came = skip
        try:
            with closing(LibavReader(self._file)) as reader:
                self._allow(reader.promised_s or 0.0)
                for block in reader.blocks(skip):
                    came += len(block.samples)
                    yield block
        except NoAudioError as error:
            self._problem = ErrorKind.NO_AUDIO_STREAM, str(error)
            return
        except LibavError as error:
            reasons = "; ".join(filter(None, (damage or refusal, str(error))))
            self._problem = _refused(head, reasons, came > 0)
            return
        damage = reader.last_error or damage
        if came == 0 and damage:
            self._problem = ErrorKind.CORRUPT, f"nothing of it can be decoded: {damage}"
        elif reader.missing_s and (reader.ended_damaged or not reader.num_damaged):
            self._problem = _cut_off(f"{reader.missing_s:.2f} s")
        elif damage:
            self._problem = ErrorKind.CORRUPT, f"damage was passed over: {damage}"
        elif missing := missing_bytes(self._file, size):
            self._problem = _cut_off(f"{missing} bytes")
        elif came == 0 and (reader.claims_sound or size > MAX_EMPTY_BYTES):
            self._problem = ErrorKind.CORRUPT, f"nothing of it can be decoded: no sample comes of its {size:,} bytes"

    def _convert(self, rate: int, raw: Samples) -> Iterator[PCM16]:
        """float32 blocks to PCM16: finite, one channel, 16 kHz."""
        samples, num_bad = _finite(raw)
        self._num_non_finite += num_bad
        if num_bad == samples.size and self._resampler is None:
            self._held += round(len(samples) * SAMPLE_RATE / rate)
            return
        while self._held:
            zeros = np.zeros(min(self._held, MAX_PIECE), np.int16)
            self._held -= len(zeros)
            yield self._counted(zeros)
        if self._resampler is None or self._resampler.rate != rate:
            if self._resampler is not None:
                yield from self._emit(self._resampler.finish())
            self._resampler = Resampler(rate)
        yield from self._emit(self._resampler.push(self._mixer.mix(samples)))

    def _emit(self, mono: Samples) -> Iterator[PCM16]:
        pcm, num_clipped = to_pcm16(mono)
        self._num_clipped += num_clipped
        for start in range(0, len(pcm), MAX_PIECE):
            yield self._counted(pcm[start : start + MAX_PIECE])

    def _allow(self, promised_s: float) -> None:
        if promised_s > self._max_duration_s:
            raise _TooLongError(f"its header promises {promised_s:,.0f} s; {self._limit()}")

    def _limit(self) -> str:
        return f"input.max_duration_s allows {self._max_duration_s:,.0f}"

    def _counted(self, pcm: PCM16) -> PCM16:
        if self._num_samples + len(pcm) > self._max_duration_s * SAMPLE_RATE:
            raise _TooLongError(f"there is more of it than {self._limit()} s")
        self._num_samples += len(pcm)
        return pcm


def _finite(samples: Samples) -> tuple[Samples, int]:
    """The samples with zeros for what is NaN or infinite, and how many values that were."""
    flat = samples.reshape(-1) if samples.flags.c_contiguous else samples.T.reshape(-1)
    if np.isfinite(np.dot(flat, flat)):  # one pass; large values overflow it, so it only says that all is well
        return samples, 0
    bad = ~np.isfinite(samples)
    return np.where(bad, np.float32(0), samples), int(bad.sum())


def _cut_off(amount: str) -> tuple[ErrorKind, str]:
    return ErrorKind.TRUNCATED, f"the file ends {amount} before the end that its header promises"


def _refused(head: bytes, reasons: str, some_came: bool) -> tuple[ErrorKind, str]:
    if some_came:
        return ErrorKind.CORRUPT, f"decoding broke off: {reasons}"
    if is_audio(head):
        return ErrorKind.CORRUPT, f"it begins like audio, but no decoder can read it: {reasons}"
    return ErrorKind.NOT_AUDIO, f"this is {describe(head)}"
