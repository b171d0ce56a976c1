"""Reads what libsndfile cannot, with FFmpeg's libraries through PyAV: MP3, AAC, M4A, WMA, videos, and damaged files.

Plays over damage and counts it. The samples of a container lie where its time stamps say (timeline.py). Knows from the
container how far the file should reach, where containers know that; an estimate from the bit rate (raw AAC and AC-3,
MP3 without a Xing header) is not taken for a promise. Reads the frames' planes directly: `to_ndarray` costs a third of
the speed of MP3.
"""

import math
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition

from distil_ray.audio.conversion import MAX_RATE, MIN_RATE
from distil_ray.audio.headers import has_exact_mp3_length, has_written_duration
from distil_ray.audio.pcm import AudioBlock, Samples, block_frames
from distil_ray.audio.seek import CannotSeekError, Seeker
from distil_ray.audio.streams import ByteView
from distil_ray.audio.timeline import MAX_SILENCE_S, Timeline

av.logging.set_level(av.logging.ERROR)  # kept for the messages of exceptions

# Containers whose duration was written or is seen in time stamps; others are estimated from the bit rate.
EXACT = {
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "flac",
    "asf",
    "avi",
    "wv",
    "tta",
    "ape",
    "wav",
    "w64",
    "aiff",
    "caf",
}
# Containers whose time stamps were written, not counted by the demuxer: what they leave out is silence. Of the first
# kind a recording begins at the stamp 0; of the others, whose stamps may begin anywhere, with the earliest of the
# file's streams.
FROM_ZERO = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
TIMED = FROM_ZERO | {"ogg", "asf", "flv", "mpegts", "mpeg", "flac", "nut"}
TOLERANCE_S, TOLERANCE = 0.3, 0.005  # a container may promise this much more than its last packet reaches
MIN_SEEK_S = 4.0  # what is less far into the stream is not worth it
TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3")  # begin what follows an MP3's last frame, and is no damage

# Sample formats (packed name): dtype, offset of the zero line, full scale.
FORMATS: dict[str, tuple[str, float, float]] = {
    "u8": ("u1", 128, 1 / 128),
    "s16": ("i2", 0, 1 / 32_768),
    "s32": ("i4", 0, 1 / 2_147_483_648),
    "s64": ("i8", 0, 1 / 9_223_372_036_854_775_808),
    "flt": ("f4", 0, 1),
    "dbl": ("f8", 0, 1),
}


class PyAVError(Exception):
    """libav does not read this file, or not further."""


class NoAudioStreamError(PyAVError):
    """A container without an audio stream."""


class PyAVBackend:
    """One open file. After `blocks` ended, `num_damaged` and `missing_s` tell how complete it was.

    `rate`, `num_channels`: of the stream that is read, by its header. `promised_s`: how long the container says that it
    is, None where it does not know. `missing_s`: seconds of
    container time that no packet reached, 0 within the tolerance. `claims_sound`: it has a duration or packets of
    sound, so that no sample at all means damage. `num_damaged`: stretches that were passed over. `ended_damaged`: the
    last of them was not followed by any samples.
    """

    def __init__(self, file: BinaryIO) -> None:
        """`file` stays open and belongs to the caller. By its number, because a name's extension would be believed."""
        self._knows_length = has_written_duration(file)
        self._exact_mp3 = has_exact_mp3_length(file, file.seek(0, 2))
        self._file = file
        self._open()

    def _open(self) -> None:
        self._file.seek(0)
        try:
            source = self._file if isinstance(self._file, ByteView) else f"/dev/fd/{self._file.fileno()}"
            opened = av.open(source, metadata_errors="ignore")
        except av.error.FFmpegError as error:
            raise PyAVError(_explain(error)) from error
        assert isinstance(opened, InputContainer)
        self._container = opened
        self._stream = choose_stream(opened)
        self._stream.codec_context.thread_count = 1
        self.rate: int = self._stream.codec_context.sample_rate
        self.num_channels: int = self._stream.codec_context.channels
        self.format = opened.format.name
        self.num_damaged = 0
        self.ended_damaged = False
        self.last_error = ""
        self.missing_s = 0.0
        self.claims_audio = bool(opened.duration and opened.duration > 0)
        exact = (self.format in EXACT and self._knows_length) or (self.format == "mp3" and self._exact_mp3)
        self.declared_s = opened.duration / av.time_base if exact and opened.duration is not None else None
        self._origin_s = self._find_origin()
        self._timeline = Timeline(float(self._stream.time_base or 0), self._origin_s)
        self._end_s = 0.0  # of the container, as far as its packets reach

    @property
    def position_s(self) -> float:
        """How far into the stream its samples have come."""
        return self._timeline.seconds

    def _find_origin(self) -> float | None:
        """The time stamp, in seconds, at which the recording begins; None where time stamps do not count."""
        if self.format not in TIMED or self._stream.time_base is None:
            return None
        start_s = (self._container.start_time or 0) / av.time_base
        from_zero = self.format in FROM_ZERO and 0 <= start_s <= MAX_SILENCE_S
        return 0.0 if from_zero else start_s

    def blocks(self, skip: int = 0, first_s: float = 0.0, last_s: float = math.inf) -> Iterator[AudioBlock]:
        """The stream without its first `skip` samples (in the file's own rate). Blocks that are left out may come as
        empty ones, as a sign of life. Damage counts from `first_s` to `last_s` of the stream."""
        self._first_s, self._last_s = first_s, last_s
        try:
            seeker = (
                Seeker(self._container, self._stream, skip, self._timeline) if skip > MIN_SEEK_S * self.rate else None
            )
            yield from self._blocks(skip, seeker)
        except CannotSeekError:  # before the first block
            self.close()
            self._open()
            yield from self._blocks(skip, None)

    def _blocks(self, skip: int, seeker: Seeker | None) -> Iterator[AudioBlock]:
        buffer: _BlockBuffer | None = None
        for frame, following in _with_next(self._frames(seeker)):
            if not MIN_RATE <= frame.sample_rate <= MAX_RATE:
                raise PyAVError(f"a sample rate of {frame.sample_rate} Hz")
            if frame.format.name.removesuffix("p") not in FORMATS:
                raise PyAVError(f"samples in the unknown format {frame.format.name}")
            buffer = buffer or _BlockBuffer(skip - self._timeline.position)
            if buffer.is_skipping and frame.sample_rate != self.rate:
                raise PyAVError(
                    f"its rate changes from {self.rate} to {frame.sample_rate} Hz before the segment, so that where it"
                    " begins is not known"
                )
            next_pts = None if following is None else following.pts
            silence = self._timeline.silence_before(frame.pts, frame.sample_rate, frame.samples, next_pts)
            if silence:
                yield from self._silence(silence, buffer, frame.sample_rate, frame.layout.nb_channels)
            if warning := self._timeline.take_warning():
                self._add_damage(warning)
            self._timeline.advance(frame.samples)
            yield from buffer.add(frame)
            rate, channels = frame.sample_rate, frame.layout.nb_channels
        if buffer is None and seeker is not None and self._timeline.position:  # all of the sound was passed over
            buffer, rate, channels = _BlockBuffer(skip - self._timeline.position), self.rate, self.num_channels
        if buffer is not None:
            if not self.missing_s and (silence := self._timeline.silence_to(self._end_s)):
                yield from self._silence(silence, buffer, rate, channels)
            yield from buffer.flush()

    def _silence(self, samples: int, buffer: "_BlockBuffer", rate: int, channels: int) -> Iterator[AudioBlock]:
        """Blocks of silence behind what came."""
        if self.format == "ogg" and self._timeline.position:  # whose streams have no gaps, unless packets were lost
            seconds = self._timeline.seconds + samples / rate
            self._add_damage(f"the {samples / rate:.2f} s before {seconds:.2f} s are not in it")
        yield from buffer.flush()
        yield from buffer.silence(samples, rate, channels)
        self._timeline.advance(samples)

    def close(self) -> None:
        self._container.close()

    def _frames(self, seeker: Seeker | None) -> Iterator[AudioFrame]:
        """All frames of the stream, or those behind the leap."""
        reached = [0] * len(self._container.streams)  # by stream, in its time base: a sum of fractions a packet is slow
        for packet in self._packets():
            index = packet.stream_index
            if packet.pts is not None:
                reached[index] = max(reached[index], packet.pts + (packet.duration or 0))
            if index != self._stream.index:
                continue
            self.claims_audio = self.claims_audio or packet.size > 0
            if seeker is not None and not seeker.is_over and seeker.can_skip(packet):
                continue
            frames = self._decode(packet)
            if seeker is not None and not seeker.is_over:
                seeker.add_decoded(frames)
                continue
            if frames:
                self.ended_damaged = False
                yield from frames
        ends_s = [
            ticks * (stream.time_base or 0) for ticks, stream in zip(reached, self._container.streams, strict=True)
        ]
        self._check_duration(float(max(ends_s)))

    def _decode(self, packet: "Packet[Any]") -> list[AudioFrame]:
        """The frames of a packet that have samples; an empty packet, the last, drains the decoder."""
        try:
            frames = self._stream.codec_context.decode(packet)
        except av.error.EOFError:
            return []
        except av.error.FFmpegError as error:
            if not bytes(packet).startswith(TAGS):
                self._add_damage(_explain(error))
            return []
        for frame in frames:
            if frame.is_corrupt:
                self._add_damage("a frame was marked as corrupt")
        return [frame for frame in frames if frame.samples]

    def _packets(self) -> "Iterator[Packet[Any]]":
        """Of all streams: the others tell how far the container reaches. A read that fails is tried once more, as long
        as each try brings something."""
        came = True
        while came:
            came = False
            try:
                for packet in self._container.demux():
                    came = came or packet.size > 0
                    yield packet
                return
            except av.error.FFmpegError as error:
                self._add_damage(_explain(error))

    def _add_damage(self, words: str) -> None:
        if not self._first_s <= self.position_s <= self._last_s:
            return
        self.num_damaged += 1
        self.ended_damaged = True
        self.last_error = words

    def _check_duration(self, reached_s: float) -> None:
        self._end_s = reached_s - (self._origin_s or 0.0)
        if self.declared_s is not None:
            self._end_s = min(self._end_s, self.declared_s)
            missing_s = self.declared_s - (reached_s - min(0, self._container.start_time or 0) / av.time_base)
            if missing_s > TOLERANCE_S + TOLERANCE * self.declared_s:
                self.missing_s = missing_s


class _BlockBuffer:
    """Short frames (20 to 100 ms) gathered into blocks; a change of rate, format or channels begins a new one.

    What is done for every frame is kept to a copy: an MP3 has 38 of them a second.
    """

    def __init__(self, skip: int) -> None:
        self._skip = skip
        self._kind = (0, "", 0)  # rate, sample format, channels
        self._filled = 0
        self._buffer: Samples = np.zeros((0, 0), np.float32)  # (num_channels, capacity), not yet scaled

    @property
    def is_skipping(self) -> bool:
        """Whether the next sample is left out."""
        return self._skip > self._filled

    def add(self, frame: AudioFrame) -> Iterator[AudioBlock]:
        count, planes, name = frame.samples, cast(Any, frame.planes), frame.format.name
        planar = name.endswith("p")
        channels = len(planes) if planar else frame.layout.nb_channels
        kind = frame.sample_rate, name, channels
        if kind != self._kind or self._filled + count > self._buffer.shape[1]:
            yield from self.flush()
            self._kind = kind
            self._buffer = np.empty((channels, max(count, block_frames(frame.sample_rate, channels))), np.float32)
        dtype = FORMATS[name.removesuffix("p")][0]
        begin, self._filled = self._filled, self._filled + count
        if planar:
            for row, plane in zip(self._buffer, planes, strict=True):
                row[begin : begin + count] = np.frombuffer(plane, dtype, count)
        else:
            values = np.frombuffer(planes[0], dtype, count * channels)
            self._buffer[:, begin : begin + count] = values.reshape(count, channels).T

    def silence(self, samples: int, rate: int, channels: int) -> Iterator[AudioBlock]:
        """Silence, in blocks; what was added before has been flushed."""
        while samples > 0:
            count = min(samples, block_frames(rate, channels))
            skipped = min(self._skip, count)
            self._skip -= skipped
            samples -= count
            yield AudioBlock(rate, np.zeros((count - skipped, channels), np.float32))

    def flush(self) -> Iterator[AudioBlock]:
        skipped = min(self._skip, self._filled)
        self._skip -= skipped
        if self._filled:
            rate, name, _ = self._kind
            _, zero, scale = FORMATS[name.removesuffix("p")]
            samples = self._buffer[:, skipped : self._filled]
            if scale != 1:
                samples = (samples - np.float32(zero)) * np.float32(scale)
            self._buffer = self._buffer[:, :0]  # it belongs to the block now
            yield AudioBlock(rate, samples.T)
        self._filled = 0


def _with_next(frames: Iterator[AudioFrame]) -> Iterator[tuple[AudioFrame, AudioFrame | None]]:
    """Each frame with the one behind it."""
    before: AudioFrame | None = None
    for frame in frames:
        if before is not None:
            yield before, frame
        before = frame
    if before is not None:
        yield before, None


def choose_stream(container: InputContainer) -> AudioStream:
    """The stream that is read: the container's default one, else the first. Raises `LibavError`."""
    streams = container.streams.audio
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise NoAudioStreamError(f"a {container.format.long_name} file without an audio stream (it has: {kinds})")
    # Typed as always there; but a stream whose coding nobody knows has none.
    known = [stream for stream in streams if cast(object, stream.codec_context) is not None]
    if not known:
        raise PyAVError("its audio is in a coding that no decoder here knows")
    default = [stream for stream in known if stream.disposition & Disposition.default]
    return (default or known)[0]


def _explain(error: av.error.FFmpegError) -> str:
    if isinstance(error, MemoryError):
        raise error
    log = cast(tuple[int, str, str] | None, error.log)  # what the library last wrote: level, part of it, words
    return f"{log[2].strip()} ({log[1]})" if log else error.strerror or type(error).__name__
