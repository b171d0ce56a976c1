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
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from distil_ray.audio.channel_mixing import Mixer, NoChannelError
from distil_ray.audio.containers import Part, find_parts
from distil_ray.audio.headers import HEAD_BYTES, describe, describe_text, is_audio, is_mpeg, missing_bytes
from distil_ray.audio.pcm import MAX_PIECE, PCM16, SAMPLE_RATE, Block, Samples, to_pcm16
from distil_ray.audio.resample import Resampler
from distil_ray.audio.segments import WHOLE, Cut, Cutter
from distil_ray.audio.soundfile_backend import SndfileError, SndfileReader
from distil_ray.audio.timeline import MAX_SILENCE_S
from distil_ray.errors import ErrorKind

if TYPE_CHECKING:
    from distil_ray.audio.pyav_backend import LibavReader

MAX_EMPTY_BYTES = 100_000  # a valid file without a sample has headers and at most a small picture
MAX_PROBLEMS = 3  # of a file that are told
CLIPPED_FRACTION = 0.01  # share of samples beyond full scale from which a recording is flagged


@dataclass(frozen=True, slots=True)
class DecodeOutcome:
    """How the decoding of one file ended.

    `num_samples` were yielded, at 16 kHz; `error_kind` is None if they are all there is. With a kind and samples the
    recording is partial, with a kind and none it failed. Flags: `antiphase` (channels canceled in their mean, the
    louder one was taken), `non_finite` (NaN or infinite samples became zeros), `clipped` (over 1 % of the samples were
    beyond full scale). `cpu_s`: CPU seconds that the decoder's process spent on it.
    """

    num_samples: int
    error_kind: ErrorKind | None
    error: str | None
    quality_flags: tuple[str, ...] = ()
    cpu_s: float = 0.0


def decode_file(path: str, max_duration_s: float = math.inf, cut: Cut = WHOLE) -> Iterator[PCM16 | DecodeOutcome]:
    """Pieces of at most `MAX_PIECE` samples, then exactly one `DecodeOutcome`. Raises OSError if there is no such file,
    MemoryError if there is not enough of it.

    What lasts longer than `max_duration_s` is TOO_LONG: without a sample if the header tells, else when it gets there.
    A hundred kilobytes can hold days of silence. A cut that reaches beyond the file's end is TRUNCATED. Pieces may be
    empty: the decoder is on its way to the cut.
    """
    with open(path, "rb", buffering=0) as file:
        decoding = _Decoding(file, max_duration_s, cut)
        try:
            yield from decoding.pieces()
        except _TooLongError as error:
            decoding.give_up(ErrorKind.TOO_LONG, str(error))
        except NoChannelError as error:
            decoding.give_up(ErrorKind.NO_CHANNEL, str(error))
    yield decoding.outcome()


class _TooLongError(Exception):
    """It lasts longer than allowed: who says so."""


class _Decoding:
    """One file on its way; counts what is needed for the outcome."""

    def __init__(self, file: BinaryIO, max_duration_s: float, cut: Cut) -> None:
        self._file = file
        self._max_duration_s = max_duration_s
        self._cut = cut
        self._cutter = Cutter(cut)
        self._mixer = Mixer(cut.channel)
        self._resampler: Resampler | None = None
        self._problems: list[tuple[ErrorKind, str]] = []
        self._elapsed_s = 0.0  # of the file, by the blocks that came
        self._channels = 1  # of the last of them
        self._num_samples = 0
        self._num_clipped = 0
        self._num_non_finite = 0
        self._held = 0  # samples without a single finite one so far: zeros to come, should one appear

    def pieces(self) -> Iterator[PCM16]:
        for block in self._blocks():
            self._elapsed_s += len(block.samples) / block.rate
            if block.samples.dtype == np.int16:
                self._mixer.require(1)
                yield self._counted(self._cutter.take(cast(PCM16, block.samples)))
            else:
                yield from self._convert(block.rate, cast(Samples, block.samples))
        if self._resampler is not None and not self._cutter.is_over:
            yield from self._emit(self._resampler.finish())

    def give_up(self, kind: ErrorKind, words: str) -> None:
        self._problems = [(kind, words)]

    def _report(self, kind: ErrorKind, words: str) -> None:
        if (kind, words) not in self._problems[:MAX_PROBLEMS]:
            self._problems.append((kind, words))

    def outcome(self) -> DecodeOutcome:
        kind = self._problems[0][0] if self._problems else None
        error = "; ".join(words for _, words in self._problems[:MAX_PROBLEMS]) or None
        if kind is None and self._num_non_finite:
            kind = ErrorKind.NON_FINITE
            error = f"{self._num_non_finite} samples are NaN or infinite" + (
                "" if self._num_samples else ", all of them"
            )
        if self._cut.is_segment and kind in (None, ErrorKind.TRUNCATED):
            kind, error = self._judge_segment(kind, error)
        if kind is None and self._num_samples == 0:
            kind, error = ErrorKind.NO_SAMPLES, "a valid file without a sample"
        flags = {
            "antiphase": self._mixer.antiphase,
            "non_finite": self._num_non_finite > 0,
            "clipped": self._num_clipped > CLIPPED_FRACTION * self._num_samples,
        }
        return DecodeOutcome(self._num_samples, kind, error, tuple(flag for flag, present in flags.items() if present))

    def _judge_segment(self, kind: ErrorKind | None, error: str | None) -> tuple[ErrorKind | None, str | None]:
        """What of it a file that is whole, or lacks its end (`kind`), has given."""
        if self._cut.length == 0:
            return ErrorKind.NO_SAMPLES, "a segment of no length"
        if lacking := self._cutter.lacking(self._num_samples):
            return ErrorKind.TRUNCATED, lacking + (f"; {error}" if error else "")
        return (kind, error) if self._cut.length is None else (None, None)

    def _blocks(self) -> Iterator[Block]:
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
        parts = find_parts(self._file, size)
        if len(parts) == 1:
            yield from self._part_blocks(parts[0], head)
            return
        stream_s = 0.0  # where the stream begins that a part belongs to
        for part in parts:
            if part.start_s is None:
                stream_s = self._elapsed_s
            yield from self._part_blocks(part, _head_of(part.source), stream_s)
            if self._cutter.is_over:
                return

    def _part_blocks(self, part: Part, head: bytes, stream_s: float | None = None) -> Iterator[Block]:
        """Blocks of one part, from the first reader that takes it. `stream_s`: where its stream begins in a file of
        several parts, which is read without leaving anything out; None: it is the only one."""
        known = len(self._problems)
        refusal = ""
        reader = None
        if not is_mpeg(head) and not part.for_libav:
            try:
                reader = SndfileReader(part.source)
            except SndfileError as error:
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
            yield from self._sndfile_blocks(part, reader, head, begin_s)
        else:
            yield from self._libav_blocks(part, head, begin_s, refusal=refusal)
        if begin_s is not None and not self._cutter.has_begun:  # all of it lies before the cut
            del self._problems[known:]
        elif (
            part.damage
            and self._cutter.start_s <= (begin_s or 0.0)
            and not any(kind is ErrorKind.CORRUPT for kind, _ in self._problems[known:])
        ):
            self._report(ErrorKind.CORRUPT, part.damage)

    def _silence(self, seconds: float) -> Iterator[Block]:
        """Silence as long as what is not in the file."""
        if seconds > MAX_SILENCE_S:
            return
        samples = round(seconds * SAMPLE_RATE)
        while samples > 0:
            count = min(samples, MAX_PIECE)
            samples -= count
            yield Block(SAMPLE_RATE, np.zeros((count, self._channels), np.float32))

    def _sndfile_blocks(self, part: Part, reader: SndfileReader, head: bytes, begin_s: float | None) -> Iterator[Block]:
        skip, broken = self._cutter.skip(reader.rate) if begin_s is None else 0, ""
        delivered = skip
        try:
            self._allow((begin_s or 0.0) + (reader.num_frames or 0) / reader.rate)
            for block in reader.blocks(skip):
                delivered += len(block.samples)
                yield block
                if self._cutter.is_over:
                    return
        except SndfileError as error:
            broken = str(error)
        finally:
            reader.close()
        if broken or (delivered == skip and not (skip and reader.num_frames)):
            # broken off; or the header says that there are no samples, as a pipe leaves it
            damage = broken if self._cutter.has_begun else ""
            yield from self._libav_blocks(part, head, begin_s, delivered, damage)
            return
        if delivered == skip:
            self._cutter.ends_at(reader.heard_s)
        if shortfall := self._shortfall(part, reader, delivered):
            self._report(*shortfall)

    def _shortfall(self, part: Part, reader: SndfileReader, delivered: int) -> tuple[ErrorKind, str] | None:
        if missing := missing_bytes(part.source, part.size):
            return _cut_off(f"{missing} bytes")
        if reader.num_frames is not None and delivered < reader.num_frames:
            lacking_s = (reader.num_frames - delivered) / reader.rate
            return ErrorKind.CORRUPT, f"{lacking_s:.2f} s of {reader.num_frames / reader.rate:.2f} s cannot be decoded"
        return None

    def _libav_blocks(
        self,
        part: Part,
        head: bytes,
        begin_s: float | None,
        skip: int | None = None,
        damage: str = "",
        refusal: str = "",
    ) -> Iterator[Block]:
        """libav's blocks behind the first `skip` samples; None: those before the cut. `damage`: where libsndfile
        stopped; `refusal`: why it did not begin."""
        from distil_ray.audio.pyav_backend import LibavError, LibavReader, NoAudioError  # most files do without it

        if skip is None and begin_s is not None:
            skip = 0
        came = skip or 0
        base_s = begin_s or 0.0
        try:
            with closing(LibavReader(part.source)) as reader:
                self._allow(base_s + (reader.promised_s or 0.0))
                came = skip = self._cutter.skip(reader.rate) if skip is None else skip
                for block in reader.blocks(skip, self._cutter.start_s - base_s, self._cutter.end_s - base_s):
                    came += len(block.samples)
                    yield block
                    if self._cutter.is_over:
                        break
        except NoAudioError as error:
            self._report(ErrorKind.NO_AUDIO_STREAM, str(error))
            return
        except LibavError as error:
            reasons = "; ".join(filter(None, (damage or refusal, str(error))))
            self._report(*_refused(head, reasons, came > 0 or self._elapsed_s > 0))
            return
        if came == skip and begin_s is None:
            self._cutter.ends_at(reader.heard_s)
        self._judge_libav(part, reader, came, reader.last_error or damage)

    def _judge_libav(self, part: Part, reader: "LibavReader", came: int, damage: str) -> None:
        """Reports what was wrong with a part that libav has read."""
        if self._cutter.is_over:
            if damage:
                self._report(ErrorKind.CORRUPT, f"damage was passed over: {damage}")
        elif came == 0 and damage:
            self._report(ErrorKind.CORRUPT, f"nothing of it can be decoded: {damage}")
        elif reader.missing_s and (reader.ended_damaged or not reader.num_damaged):
            self._report(*_cut_off(f"{reader.missing_s:.2f} s"))
        elif damage:
            self._report(ErrorKind.CORRUPT, f"damage was passed over: {damage}")
        elif missing := missing_bytes(part.source, part.size):
            self._report(*_cut_off(f"{missing} bytes"))
        elif came == 0 and (reader.claims_sound or part.size > MAX_EMPTY_BYTES):
            words = f"nothing of it can be decoded: no sample comes of its {part.size:,} bytes"
            self._report(ErrorKind.CORRUPT, words)

    def _convert(self, rate: int, raw: Samples) -> Iterator[PCM16]:
        """float32 blocks to PCM16: finite, one channel, 16 kHz."""
        self._channels = raw.shape[1]
        inside = self._cutter.inside(len(raw), rate)
        samples, bad = _finite(raw)
        if bad is not None:
            self._num_non_finite += int(bad[inside].sum())
            if bad.all() and self._resampler is None:
                self._held += round(len(samples) * SAMPLE_RATE / rate)
                return
        while self._held:
            zeros = np.zeros(min(self._held, MAX_PIECE), np.int16)
            self._held -= len(zeros)
            yield self._counted(self._cutter.take(zeros))
        if self._resampler is None or self._resampler.rate != rate:
            if self._resampler is not None:
                yield from self._emit(self._resampler.finish())
            self._resampler = Resampler(rate)
        yield from self._emit(self._resampler.push(self._mixer.mix(samples)))

    def _emit(self, mono: Samples) -> Iterator[PCM16]:
        pcm, num_clipped = to_pcm16(self._cutter.take(mono))
        self._num_clipped += num_clipped
        for start in range(0, max(1, len(pcm)), MAX_PIECE):
            yield self._counted(pcm[start : start + MAX_PIECE])

    def _allow(self, promised_s: float) -> None:
        wanted_s = self._cutter.wanted_s(promised_s)
        if wanted_s > self._max_duration_s:
            says = "the segment lasts" if self._cut.is_segment else "its header promises"
            raise _TooLongError(f"{says} {wanted_s:,.0f} s; {self._limit()}")

    def _limit(self) -> str:
        return f"input.max_duration_s allows {self._max_duration_s:,.0f}"

    def _counted(self, pcm: PCM16) -> PCM16:
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


def _cut_off(amount: str) -> tuple[ErrorKind, str]:
    return ErrorKind.TRUNCATED, f"the file ends {amount} before the end that its header promises"


def _refused(head: bytes, reasons: str, some_came: bool) -> tuple[ErrorKind, str]:
    if some_came:
        return ErrorKind.CORRUPT, f"decoding broke off: {reasons}"
    if is_audio(head):
        return ErrorKind.CORRUPT, f"it begins like audio, but no decoder can read it: {reasons}"
    return ErrorKind.NOT_AUDIO, f"this is {describe(head)}"
