"""An encoded file, or a cut of it, to 16 kHz mono PCM16, streamed, and how complete that was.

libsndfile first, libav for what it cannot read or where it stops, for each of the streams that stand in a file one
behind the other (containers.py). What a file is, is seen in its bytes; its name does not count. Memory is bounded by a
block (two seconds), whatever the file's length. Of a cut (cut.py) the readers leave out what is before it as far as
they can do that exactly, and what is wrong with the rest of the file does not count against it. Never raises for what
the audio is; it may still crash, hang or run out of memory inside the C libraries, and that is isolate.py's concern.
Knows no URI: an outcome's message is completed there.
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
from distil_ray.audio.pcm import MAX_PIECE_SAMPLES, PCM16, SAMPLE_RATE, AudioBlock, DecodeResult, Samples
from distil_ray.audio.segments import WHOLE_FILE, AudioSegment, SegmentExtractor
from distil_ray.audio.soundfile_backend import SoundfileBackend, SoundfileBackendError
from distil_ray.audio.streams import StreamSection, find_sections
from distil_ray.audio.timeline import MAX_SILENCE_S
from distil_ray.errors import ErrorKind

if TYPE_CHECKING:
    from distil_ray.audio.pyav_backend import PyAVBackend

MAX_EMPTY_BYTES = 100_000  # a valid file without a sample has headers and at most a small picture
MAX_PROBLEMS = 3  # of a file that are told
CLIPPED_FRACTION = 0.01  # share of samples beyond full scale from which a recording is flagged


def decode_file(
    path: str, max_duration_s: float = math.inf, segment: AudioSegment = WHOLE_FILE
) -> Iterator[PCM16 | DecodeResult]:
    """Pieces of at most `MAX_PIECE` samples, then exactly one `DecodeOutcome`. Raises OSError if there is no such file,
    MemoryError if there is not enough of it.

    What lasts longer than `max_duration_s` is TOO_LONG: without a sample if the header tells, else when it gets there.
    A hundred kilobytes can hold days of silence. A cut that reaches beyond the file's end is TRUNCATED. Pieces may be
    empty: the decoder is on its way to the cut.
    """
    with open(path, "rb", buffering=0) as file:
        decoding = _Decoding(file, max_duration_s, segment)
        try:
            yield from decoding.pieces()
        except _TooLongError as error:
            decoding.give_up(ErrorKind.TOO_LONG, str(error))
        except NoChannelError as error:
            decoding.give_up(ErrorKind.NO_CHANNEL, str(error))
    yield decoding.result()


class _TooLongError(Exception):
    """It lasts longer than allowed: who says so."""


class _Decoding:
    """One file on its way; counts what is needed for the outcome."""

    def __init__(self, file: BinaryIO, max_duration_s: float, segment: AudioSegment) -> None:
        self._file = file
        self._max_duration_s = max_duration_s
        self._segment = segment
        self._extractor = SegmentExtractor(segment)
        self._mixer = ChannelMixer(segment.channel)
        self._resampler: Resampler | None = None
        self._problems: list[tuple[ErrorKind, str]] = []
        self._elapsed_s = 0.0  # of the file, by the blocks that came
        self._channels = 1  # of the last of them
        self._num_samples = 0
        self._num_clipped = 0
        self._num_non_finite = 0
        self._num_pending = 0  # samples without a single finite one so far: zeros to come, should one appear

    def pieces(self) -> Iterator[PCM16]:
        for block in self._blocks():
            self._elapsed_s += len(block.samples) / block.rate
            if block.samples.dtype == np.int16:
                self._mixer.require(1)
                yield self._count(self._extractor.take(cast(PCM16, block.samples)))
            else:
                yield from self._convert(block.rate, cast(Samples, block.samples))
        if self._resampler is not None and not self._extractor.is_over:
            yield from self._emit(self._resampler.finish())

    def give_up(self, kind: ErrorKind, words: str) -> None:
        self._problems = [(kind, words)]

    def _report(self, kind: ErrorKind, words: str) -> None:
        if (kind, words) not in self._problems[:MAX_PROBLEMS]:
            self._problems.append((kind, words))

    def result(self) -> DecodeResult:
        kind = self._problems[0][0] if self._problems else None
        error = "; ".join(words for _, words in self._problems[:MAX_PROBLEMS]) or None
        if kind is None and self._num_non_finite:
            kind = ErrorKind.NON_FINITE
            error = f"{self._num_non_finite} samples are NaN or infinite" + (
                "" if self._num_samples else ", all of them"
            )
        if self._segment.is_segment and kind in (None, ErrorKind.TRUNCATED):
            kind, error = self._check_segment(kind, error)
        if kind is None and self._num_samples == 0:
            kind, error = ErrorKind.NO_SAMPLES, "a valid file without a sample"
        flags = {
            "antiphase": self._mixer.has_antiphase,
            "non_finite": self._num_non_finite > 0,
            "clipped": self._num_clipped > CLIPPED_FRACTION * self._num_samples,
        }
        return DecodeResult(self._num_samples, kind, error, tuple(flag for flag, present in flags.items() if present))

    def _check_segment(self, kind: ErrorKind | None, error: str | None) -> tuple[ErrorKind | None, str | None]:
        """What of it a file that is whole, or lacks its end (`kind`), has given."""
        if self._segment.length == 0:
            return ErrorKind.NO_SAMPLES, "a segment of no length"
        if describe_shortfall := self._extractor.describe_shortfall(self._num_samples):
            return ErrorKind.TRUNCATED, describe_shortfall + (f"; {error}" if error else "")
        return (kind, error) if self._segment.length is None else (None, None)

    def _blocks(self) -> Iterator[AudioBlock]:
        """Blocks of all parts of the file, in order; what is missing between them comes as silence."""
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
        stream_s = 0.0  # where the stream begins that a part belongs to
        for part in sections:
            if part.start_s is None:
                stream_s = self._elapsed_s
            yield from self._section_blocks(part, _head_of(part.source), stream_s)
            if self._extractor.is_over:
                return

    def _section_blocks(self, part: StreamSection, head: bytes, stream_s: float | None = None) -> Iterator[AudioBlock]:
        """Blocks of one part, from the first reader that takes it. `stream_s`: where its stream begins in a file of
        several parts, which is read without leaving anything out; None: it is the only one."""
        known = len(self._problems)
        refusal = ""
        reader = None
        if not is_mpeg(head) and not part.needs_pyav:
            try:
                reader = SoundfileBackend(part.source)
            except SoundfileBackendError as error:
                refusal = str(error)
        begin_s = None
        if stream_s is not None:
            start_s = part.start_s
            if part.end_s is not None and reader is not None and reader.num_frames:
                start_s = part.end_s - reader.num_frames / reader.rate
            if start_s is not None:
                yield from self._silence(stream_s + start_s - self._elapsed_s)
            begin_s = self._elapsed_s
        if reader is not None:
            yield from self._soundfile_blocks(part, reader, head, begin_s)
        else:
            yield from self._pyav_blocks(part, head, begin_s, refusal=refusal)
        if begin_s is not None and not self._extractor.has_begun:  # all of it lies before the cut
            del self._problems[known:]
        elif (
            part.damage
            and self._extractor.start_s <= (begin_s or 0.0)
            and not any(kind is ErrorKind.CORRUPT for kind, _ in self._problems[known:])
        ):
            self._report(ErrorKind.CORRUPT, part.damage)

    def _silence(self, seconds: float) -> Iterator[AudioBlock]:
        """Silence as long as what is not in the file."""
        if seconds > MAX_SILENCE_S:
            return
        samples = round(seconds * SAMPLE_RATE)
        while samples > 0:
            count = min(samples, MAX_PIECE_SAMPLES)
            samples -= count
            yield AudioBlock(SAMPLE_RATE, np.zeros((count, self._channels), np.float32))

    def _soundfile_blocks(
        self, part: StreamSection, reader: SoundfileBackend, head: bytes, begin_s: float | None
    ) -> Iterator[AudioBlock]:
        skip, broken = self._extractor.skip(reader.rate) if begin_s is None else 0, ""
        delivered = skip
        try:
            self._check_declared_length((begin_s or 0.0) + (reader.num_frames or 0) / reader.rate)
            for block in reader.blocks(skip):
                delivered += len(block.samples)
                yield block
                if self._extractor.is_over:
                    return
        except SoundfileBackendError as error:
            broken = str(error)
        finally:
            reader.close()
        if broken or (delivered == skip and not (skip and reader.num_frames)):
            # broken off; or the header says that there are no samples, as a pipe leaves it
            damage = broken if self._extractor.has_begun else ""
            yield from self._pyav_blocks(part, head, begin_s, delivered, damage)
            return
        if delivered == skip:
            self._extractor.set_file_end(reader.position_s)
        if shortfall := self._find_shortfall(part, reader, delivered):
            self._report(*shortfall)

    def _find_shortfall(
        self, part: StreamSection, reader: SoundfileBackend, delivered: int
    ) -> tuple[ErrorKind, str] | None:
        if missing := count_missing_bytes(part.source, part.size):
            return _truncated(f"{missing} bytes")
        if reader.num_frames is not None and delivered < reader.num_frames:
            lacking_s = (reader.num_frames - delivered) / reader.rate
            return ErrorKind.CORRUPT, f"{lacking_s:.2f} s of {reader.num_frames / reader.rate:.2f} s cannot be decoded"
        return None

    def _pyav_blocks(
        self,
        part: StreamSection,
        head: bytes,
        begin_s: float | None,
        skip: int | None = None,
        damage: str = "",
        refusal: str = "",
    ) -> Iterator[AudioBlock]:
        """libav's blocks behind the first `skip` samples; None: those before the cut. `damage`: where libsndfile
        stopped; `refusal`: why it did not begin."""
        from distil_ray.audio.pyav_backend import NoAudioStreamError, PyAVBackend, PyAVError  # most files do without it

        if skip is None and begin_s is not None:
            skip = 0
        came = skip or 0
        base_s = begin_s or 0.0
        try:
            with closing(PyAVBackend(part.source)) as reader:
                self._check_declared_length(base_s + (reader.declared_s or 0.0))
                came = skip = self._extractor.skip(reader.rate) if skip is None else skip
                for block in reader.blocks(skip, self._extractor.start_s - base_s, self._extractor.end_s - base_s):
                    came += len(block.samples)
                    yield block
                    if self._extractor.is_over:
                        break
        except NoAudioStreamError as error:
            self._report(ErrorKind.NO_AUDIO_STREAM, str(error))
            return
        except PyAVError as error:
            reasons = "; ".join(filter(None, (damage or refusal, str(error))))
            self._report(*_refused(head, reasons, came > 0 or self._elapsed_s > 0))
            return
        if came == skip and begin_s is None:
            self._extractor.set_file_end(reader.position_s)
        self._check_pyav(part, reader, came, reader.last_error or damage)

    def _check_pyav(self, part: StreamSection, reader: "PyAVBackend", came: int, damage: str) -> None:
        """Reports what was wrong with a part that libav has read."""
        if self._extractor.is_over:
            if damage:
                self._report(ErrorKind.CORRUPT, f"damage was passed over: {damage}")
        elif came == 0 and damage:
            self._report(ErrorKind.CORRUPT, f"nothing of it can be decoded: {damage}")
        elif reader.missing_s and (reader.ended_damaged or not reader.num_damaged):
            self._report(*_truncated(f"{reader.missing_s:.2f} s"))
        elif damage:
            self._report(ErrorKind.CORRUPT, f"damage was passed over: {damage}")
        elif missing := count_missing_bytes(part.source, part.size):
            self._report(*_truncated(f"{missing} bytes"))
        elif came == 0 and (reader.claims_audio or part.size > MAX_EMPTY_BYTES):
            words = f"nothing of it can be decoded: no sample comes of its {part.size:,} bytes"
            self._report(ErrorKind.CORRUPT, words)

    def _convert(self, rate: int, raw: Samples) -> Iterator[PCM16]:
        """float32 blocks to PCM16: finite, one channel, 16 kHz."""
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
            says = "the segment lasts" if self._segment.is_segment else "its header promises"
            raise _TooLongError(f"{says} {segment_duration_s:,.0f} s; {self._limit()}")

    def _limit(self) -> str:
        return f"input.max_duration_s allows {self._max_duration_s:,.0f}"

    def _count(self, pcm: PCM16) -> PCM16:
        if self._num_samples + len(pcm) > self._max_duration_s * SAMPLE_RATE:
            raise _TooLongError(f"there is more of it than {self._limit()} s")
        self._num_samples += len(pcm)
        return pcm


def _head_of(file: BinaryIO) -> bytes:
    """The first bytes of a file, by which it is told what it is."""
    file.seek(0)
    return file.read(HEAD_BYTES)


def _finite(samples: Samples) -> tuple[Samples, NDArray[np.bool_] | None]:
    """The samples with zeros for what is NaN or infinite, and which values that were; None if there were none."""
    flat = samples.reshape(-1) if samples.flags.c_contiguous else samples.T.reshape(-1)
    if np.isfinite(np.dot(flat, flat)):  # one pass; large values overflow it, so it only says that all is well
        return samples, None
    bad = ~np.isfinite(samples)
    return (np.where(bad, np.float32(0), samples), bad) if bad.any() else (samples, None)


def _truncated(amount: str) -> tuple[ErrorKind, str]:
    return ErrorKind.TRUNCATED, f"the file ends {amount} before the end that its header promises"


def _refused(head: bytes, reasons: str, some_came: bool) -> tuple[ErrorKind, str]:
    if some_came:
        return ErrorKind.CORRUPT, f"decoding broke off: {reasons}"
    if is_audio(head):
        return ErrorKind.CORRUPT, f"it begins like audio, but no decoder can read it: {reasons}"
    return ErrorKind.NOT_AUDIO, f"this is {describe_content(head)}"
