"""Decodes a file, or a segment of it, to a stream of 16 kHz mono PCM16, and reports how complete it is.

libsndfile reads first, libav what it cannot read or where it stops, for each section of the file (streams.py). The
format is recognized from the bytes; the file's name does not count. Memory is bounded by a block of two seconds,
whatever the file's length. With a segment (segments.py) the backends skip what lies before it as far as they can do
that exactly, and errors elsewhere in the file do not count.

Nothing is raised for what the audio is; `DecodeResult` has it. The C libraries may still crash, hang or run out of
memory, which subprocess_decoder.py handles. URIs are not known here: messages are completed there.
"""

import math
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from distil_ray.audio.conversion import ChannelMixer, NoChannelError, Resampler, to_pcm16
from distil_ray.audio.file_type import HEAD_BYTES, describe_content, describe_text, is_audio, is_mpeg
from distil_ray.audio.headers import count_missing_bytes
from distil_ray.audio.pcm import MAX_PIECE_SAMPLES, PCM16, AudioBlock, DecodeResult, Samples
from distil_ray.audio.segments import WHOLE_FILE, AudioSegment, SegmentExtractor
from distil_ray.audio.soundfile_backend import SoundfileBackend, SoundfileBackendError
from distil_ray.audio.streams import StreamSection, find_sections
from distil_ray.audio.timeline import MAX_SILENCE_S
from distil_ray.errors import ErrorKind
from distil_ray.types import SAMPLE_RATE

if TYPE_CHECKING:
    from distil_ray.audio.pyav_backend import PyAVBackend

MAX_EMPTY_BYTES = 100_000  # a valid file without samples has headers and at most a small image
MAX_PROBLEMS = 3  # reported for one file
CLIPPED_FRACTION = 0.01  # fraction of samples beyond full scale above which a recording is flagged


def decode_file(
    path: str, max_duration_s: float = math.inf, segment: AudioSegment = WHOLE_FILE
) -> Iterator[PCM16 | DecodeResult]:
    """Yields pieces of at most `MAX_PIECE_SAMPLES` samples, then exactly one `DecodeResult`.

    Pieces may be empty while the decoder is on its way to the segment. A segment that reaches beyond the file's end is
    TRUNCATED.

    Args:
        path: Local file.
        max_duration_s: Longest duration. What is longer fails as TOO_LONG: before any sample if the header shows it,
            otherwise when the limit is reached. A hundred kilobytes can hold days of silence.
        segment: Part of the file to decode.

    Raises:
        OSError: The file cannot be read.
        MemoryError: There is not enough memory.
    """
    with open(path, "rb", buffering=0) as file:
        decoding = _Decoding(file, max_duration_s, segment)
        try:
            yield from decoding.pieces()
        except _TooLongError as error:
            decoding.fail(ErrorKind.TOO_LONG, str(error))
        except NoChannelError as error:
            decoding.fail(ErrorKind.NO_CHANNEL, str(error))
    yield decoding.result()


class _TooLongError(Exception):
    """The audio is longer than allowed; the message says by what."""


class _Decoding:
    """The decoding of one file; counts what the result needs."""

    def __init__(self, file: BinaryIO, max_duration_s: float, segment: AudioSegment) -> None:
        self._file = file
        self._max_duration_s = max_duration_s
        self._segment = segment
        self._extractor = SegmentExtractor(segment)
        self._mixer = ChannelMixer(segment.channel)
        self._resampler: Resampler | None = None
        self._problems: list[tuple[ErrorKind, str]] = []
        self._elapsed_s = 0.0  # duration of the blocks that were read
        self._channels = 1  # of the last block
        self._num_samples = 0
        self._num_clipped = 0
        self._num_non_finite = 0
        self._num_pending = 0  # zeros to yield before the first finite sample, if there is one

    def pieces(self) -> Iterator[PCM16]:
        """Yields the PCM of the file; may raise `_TooLongError` and `NoChannelError`."""
        for block in self._blocks():
            self._elapsed_s += len(block.samples) / block.rate
            if block.samples.dtype == np.int16:
                self._mixer.require(1)
                yield self._count(self._extractor.take(cast(PCM16, block.samples)))
            else:
                yield from self._convert(block.rate, cast(Samples, block.samples))
        if self._resampler is not None and not self._extractor.is_over:
            yield from self._emit(self._resampler.finish())

    def fail(self, kind: ErrorKind, message: str) -> None:
        """Makes this the only error of the result."""
        self._problems = [(kind, message)]

    def _report(self, kind: ErrorKind, message: str) -> None:
        if (kind, message) not in self._problems[:MAX_PROBLEMS]:
            self._problems.append((kind, message))

    def result(self) -> DecodeResult:
        """Returns the result of what has been decoded so far."""
        kind = self._problems[0][0] if self._problems else None
        error = "; ".join(message for _, message in self._problems[:MAX_PROBLEMS]) or None
        if kind is None and self._num_non_finite:
            kind = ErrorKind.NON_FINITE
            error = f"{self._num_non_finite} samples are NaN or infinite" + (
                "" if self._num_samples else ", all of them"
            )
        if self._segment.is_segment and kind in (None, ErrorKind.TRUNCATED):
            kind, error = self._check_segment(kind, error)
        if kind is None and self._num_samples == 0:
            kind, error = ErrorKind.NO_SAMPLES, "the file is valid and has no samples"
        flags = {
            "antiphase": self._mixer.has_antiphase,
            "non_finite": self._num_non_finite > 0,
            "clipped": self._num_clipped > CLIPPED_FRACTION * self._num_samples,
        }
        return DecodeResult(self._num_samples, kind, error, tuple(flag for flag, present in flags.items() if present))

    def _check_segment(self, kind: ErrorKind | None, error: str | None) -> tuple[ErrorKind | None, str | None]:
        """Returns the error of a segment, where the whole file has the error `kind` or none."""
        if self._segment.length == 0:
            return ErrorKind.NO_SAMPLES, "the segment has no length"
        if shortfall := self._extractor.describe_shortfall(self._num_samples):
            return ErrorKind.TRUNCATED, shortfall + (f"; {error}" if error else "")
        return (kind, error) if self._segment.length is None else (None, None)

    def _blocks(self) -> Iterator[AudioBlock]:
        """Yields the blocks of all sections of the file, in order, with silence for what is missing between them."""
        size = self._file.seek(0, 2)
        self._file.seek(0)
        head = self._file.read(HEAD_BYTES)
        if size == 0:
            self._report(ErrorKind.EMPTY_FILE, "the file has zero bytes")
            return
        if (text := describe_text(head)) is not None:
            self._report(ErrorKind.NOT_AUDIO, f"this is {text}")
            return
        sections = find_sections(self._file, size)
        if len(sections) == 1:
            yield from self._section_blocks(sections[0], head)
            return
        stream_s = 0.0  # start of the stream that a section belongs to
        for section in sections:
            if section.start_s is None:
                stream_s = self._elapsed_s
            yield from self._section_blocks(section, _head_of(section.data), stream_s)
            if self._extractor.is_over:
                return

    def _section_blocks(
        self, section: StreamSection, head: bytes, stream_s: float | None = None
    ) -> Iterator[AudioBlock]:
        """Yields the blocks of one section, from the first backend that reads it.

        Args:
            head: First bytes of the section.
            stream_s: Start of its stream in a file of several sections, which are read without skipping; None: the
                section is the only one.
        """
        num_problems = len(self._problems)
        rejection = ""
        backend = None
        if not is_mpeg(head) and not section.needs_pyav:
            try:
                backend = SoundfileBackend(section.data)
            except SoundfileBackendError as error:
                rejection = str(error)
        begin_s = None
        if stream_s is not None:
            start_s = section.start_s
            if section.end_s is not None and backend is not None and backend.num_frames:
                start_s = section.end_s - backend.num_frames / backend.rate
            if start_s is not None:
                yield from self._silence(stream_s + start_s - self._elapsed_s)
            begin_s = self._elapsed_s
        if backend is not None:
            yield from self._soundfile_blocks(section, backend, head, begin_s)
        else:
            yield from self._pyav_blocks(section, head, begin_s, rejection=rejection)
        if begin_s is not None and not self._extractor.has_begun:  # all of it lies before the segment
            del self._problems[num_problems:]
        elif (
            section.damage
            and self._extractor.start_s <= (begin_s or 0.0)
            and not any(kind is ErrorKind.CORRUPT for kind, _ in self._problems[num_problems:])
        ):
            self._report(ErrorKind.CORRUPT, section.damage)

    def _silence(self, seconds: float) -> Iterator[AudioBlock]:
        """Yields silence for what is missing in the file."""
        if seconds > MAX_SILENCE_S:
            return
        samples = round(seconds * SAMPLE_RATE)
        while samples > 0:
            count = min(samples, MAX_PIECE_SAMPLES)
            samples -= count
            yield AudioBlock(SAMPLE_RATE, np.zeros((count, self._channels), np.float32))

    def _soundfile_blocks(
        self, section: StreamSection, backend: SoundfileBackend, head: bytes, begin_s: float | None
    ) -> Iterator[AudioBlock]:
        skip, broken = self._extractor.skip(backend.rate) if begin_s is None else 0, ""
        delivered = skip
        try:
            self._check_declared_length((begin_s or 0.0) + (backend.num_frames or 0) / backend.rate)
            for block in backend.blocks(skip):
                delivered += len(block.samples)
                yield block
                if self._extractor.is_over:
                    return
        except SoundfileBackendError as error:
            broken = str(error)
        finally:
            backend.close()
        if broken or (delivered == skip and not (skip and backend.num_frames)):
            # Reading broke off, or the header declares no samples because it was written to a pipe.
            damage = broken if self._extractor.has_begun else ""
            yield from self._pyav_blocks(section, head, begin_s, delivered, damage)
            return
        if delivered == skip:
            self._extractor.set_file_end(backend.position_s)
        if shortfall := self._find_shortfall(section, backend, delivered):
            self._report(*shortfall)

    def _find_shortfall(
        self, section: StreamSection, backend: SoundfileBackend, delivered: int
    ) -> tuple[ErrorKind, str] | None:
        if missing := count_missing_bytes(section.data, section.size):
            return _truncated(f"{missing} bytes")
        if backend.num_frames is not None and delivered < backend.num_frames:
            lacking_s = (backend.num_frames - delivered) / backend.rate
            return (
                ErrorKind.CORRUPT,
                f"{lacking_s:.2f} s of {backend.num_frames / backend.rate:.2f} s cannot be decoded",
            )
        return None

    def _pyav_blocks(
        self,
        section: StreamSection,
        head: bytes,
        begin_s: float | None,
        skip: int | None = None,
        damage: str = "",
        rejection: str = "",
    ) -> Iterator[AudioBlock]:
        """Yields the blocks that libav reads.

        Args:
            skip: Samples to skip, at the file's rate; None: those before the segment.
            damage: Where libsndfile stopped.
            rejection: Why libsndfile did not begin.
        """
        from distil_ray.audio.pyav_backend import NoAudioStreamError, PyAVBackend, PyAVError  # most files need no libav

        if skip is None and begin_s is not None:
            skip = 0
        num_read = skip or 0
        base_s = begin_s or 0.0
        try:
            with closing(PyAVBackend(section.data)) as backend:
                self._check_declared_length(base_s + (backend.declared_s or 0.0))
                num_read = skip = self._extractor.skip(backend.rate) if skip is None else skip
                for block in backend.blocks(skip, self._extractor.start_s - base_s, self._extractor.end_s - base_s):
                    num_read += len(block.samples)
                    yield block
                    if self._extractor.is_over:
                        break
        except NoAudioStreamError as error:
            self._report(ErrorKind.NO_AUDIO_STREAM, str(error))
            return
        except PyAVError as error:
            reasons = "; ".join(filter(None, (damage or rejection, str(error))))
            self._report(*_unreadable(head, reasons, num_read > 0 or self._elapsed_s > 0))
            return
        if num_read == skip and begin_s is None:
            self._extractor.set_file_end(backend.position_s)
        self._check_pyav(section, backend, num_read, backend.last_error or damage)

    def _check_pyav(self, section: StreamSection, backend: "PyAVBackend", num_read: int, damage: str) -> None:
        """Reports what was wrong with a section that libav has read."""
        missing = count_missing_bytes(section.data, section.size)
        if self._extractor.is_over:
            if damage:
                self._report(ErrorKind.CORRUPT, f"damaged parts were skipped: {damage}")
        elif num_read == 0 and damage:
            self._report(ErrorKind.CORRUPT, f"none of it can be decoded: {damage}")
        elif backend.missing_s and (backend.ended_damaged or not backend.num_damaged):
            self._report(*_truncated(f"{backend.missing_s:.2f} s"))
        elif damage and not (backend.ended_damaged and missing):  # else a packet that the file's end cuts
            self._report(ErrorKind.CORRUPT, f"damaged parts were skipped: {damage}")
        elif missing:
            self._report(*_truncated(f"{missing} bytes"))
        elif num_read == 0 and (backend.claims_audio or section.size > MAX_EMPTY_BYTES):
            message = f"none of it can be decoded: its {section.size:,} bytes give no samples"
            self._report(ErrorKind.CORRUPT, message)

    def _convert(self, rate: int, raw: Samples) -> Iterator[PCM16]:
        """Converts a float32 block to PCM16: finite, one channel, 16 kHz."""
        self._channels = raw.shape[1]
        frames_inside = self._extractor.frames_inside(len(raw), rate)
        samples, bad = _finite(raw)
        if bad is not None:
            self._num_non_finite += int(bad[frames_inside].sum())
            if bad.all() and self._resampler is None:
                self._num_pending += round(len(samples) * SAMPLE_RATE / rate)
                return
        while self._num_pending:
            zeros = np.zeros(min(self._num_pending, MAX_PIECE_SAMPLES), np.int16)
            self._num_pending -= len(zeros)
            yield self._count(self._extractor.take(zeros))
        if self._resampler is None or self._resampler.rate != rate:
            if self._resampler is not None:
                yield from self._emit(self._resampler.finish())
            self._resampler = Resampler(rate)
        yield from self._emit(self._resampler.push(self._mixer.mix(samples)))

    def _emit(self, mono: Samples) -> Iterator[PCM16]:
        pcm, num_clipped = to_pcm16(self._extractor.take(mono))
        self._num_clipped += num_clipped
        for start in range(0, max(1, len(pcm)), MAX_PIECE_SAMPLES):
            yield self._count(pcm[start : start + MAX_PIECE_SAMPLES])

    def _check_declared_length(self, declared_s: float) -> None:
        segment_duration_s = self._extractor.segment_duration_s(declared_s)
        if segment_duration_s > self._max_duration_s:
            says = "the segment lasts" if self._segment.is_segment else "its header declares"
            raise _TooLongError(f"{says} {segment_duration_s:,.0f} s; {self._limit()}")

    def _limit(self) -> str:
        return f"input.max_duration_s allows {self._max_duration_s:,.0f}"

    def _count(self, pcm: PCM16) -> PCM16:
        if self._num_samples + len(pcm) > self._max_duration_s * SAMPLE_RATE:
            raise _TooLongError(f"it has more audio than {self._limit()} s")
        self._num_samples += len(pcm)
        return pcm


def _head_of(file: BinaryIO) -> bytes:
    """Returns the first bytes of a file, which show its format."""
    file.seek(0)
    return file.read(HEAD_BYTES)


def _finite(samples: Samples) -> tuple[Samples, NDArray[np.bool_] | None]:
    """Replaces NaN and infinite values by zeros.

    Returns:
        The samples, and a mask of the values that were replaced; None if there were none.
    """
    flat = samples.reshape(-1) if samples.flags.c_contiguous else samples.T.reshape(-1)
    if np.isfinite(np.dot(flat, flat)):  # one pass; large values overflow it, so it only proves the good case
        return samples, None
    bad = ~np.isfinite(samples)
    return (np.where(bad, np.float32(0), samples), bad) if bad.any() else (samples, None)


def _truncated(amount: str) -> tuple[ErrorKind, str]:
    return ErrorKind.TRUNCATED, f"the file ends {amount} before the length in its header"


def _unreadable(head: bytes, reasons: str, has_audio: bool) -> tuple[ErrorKind, str]:
    if has_audio:
        return ErrorKind.CORRUPT, f"decoding broke off: {reasons}"
    if is_audio(head):
        return ErrorKind.CORRUPT, f"it begins like audio, but no decoder can read it: {reasons}"
    return ErrorKind.NOT_AUDIO, f"this is {describe_content(head)}"
