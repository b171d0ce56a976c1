"""Reads with FFmpeg's libraries, through PyAV, what libsndfile cannot: MP3, AAC, M4A, WMA, videos, and damaged files.

Damage is played over and counted. The samples are placed where the container's time stamps say (timeline.py). Where the
container has its own duration, a shorter file is detected; an estimate from the bit rate (raw AAC and AC-3, MP3 without
a Xing header) does not count as a duration. The planes of frames are read directly, because `to_ndarray` costs a third
of the speed of MP3.
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

av.logging.set_level(av.logging.ERROR)  # errors are kept for the messages of exceptions

# Containers whose duration was written, or follows from time stamps; for others it is estimated from the bit rate.
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
# Containers whose time stamps were written, and not counted by the demuxer: what they leave out is silence. In the
# first kind a recording begins at stamp 0. In the others stamps may begin anywhere, and a recording begins with the
# earliest of the file's streams.
FROM_ZERO = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
TIMED = FROM_ZERO | {"ogg", "asf", "flv", "mpegts", "mpeg", "flac", "nut"}
TOLERANCE_S, TOLERANCE = 0.3, 0.005  # a container's duration may exceed its last packet by both
MIN_SEEK_S = 4.0  # a closer sample is not worth a seek
TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3")  # beginnings of tags, which may follow an MP3's last frame

# Sample formats by their packed name: dtype, value of silence, factor to full scale.
FORMATS: dict[str, tuple[str, float, float]] = {
    "u8": ("u1", 128, 1 / 128),
    "s16": ("i2", 0, 1 / 32_768),
    "s32": ("i4", 0, 1 / 2_147_483_648),
    "s64": ("i8", 0, 1 / 9_223_372_036_854_775_808),
    "flt": ("f4", 0, 1),
    "dbl": ("f8", 0, 1),
}


class PyAVError(Exception):
    """libav cannot read this file, or cannot read it further."""


class NoAudioStreamError(PyAVError):
    """The container has no audio stream."""


class PyAVBackend:
    """One open file.

    Args:
        file: Seekable file, which stays open and belongs to the caller.

    Attributes:
        rate: Sample rate of the stream in Hz, by its header.
        num_channels: Channels of the stream, by its header.
        format: FFmpeg's name of the container.
        declared_s: Duration by the container in seconds; None where it has none.
        claims_audio: There is a duration, or there are packets of audio, so that a file without samples is damaged.

    These are complete when `blocks` has ended:

    Attributes:
        missing_s: Seconds of the declared duration that no packet reached; 0 within the tolerance.
        num_damaged: Number of damaged places.
        ended_damaged: No samples followed the last of them.
        last_error: Message of the last of them.

    Raises:
        PyAVError: libav cannot read the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._knows_length = has_written_duration(file)
        self._exact_mp3 = has_exact_mp3_length(file, file.seek(0, 2))
        self._file = file
        self._open()

    def _open(self) -> None:
        self._file.seek(0)
        try:
            # The descriptor, and not the name: FFmpeg would believe the name's extension.
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
        self.declared_s = _declared_s(opened) if exact else None
        self._origin_s = self._find_origin()
        self._timeline = Timeline(float(self._stream.time_base or 0), self._origin_s)
        self._end_s = 0.0  # end of the container's last packet

    @property
    def position_s(self) -> float:
        """Position that reading has reached in the stream, in seconds."""
        return self._timeline.seconds

    def _find_origin(self) -> float | None:
        """Returns the time stamp, in seconds, at which the recording begins; None where time stamps are not used."""
        if self.format not in TIMED or self._stream.time_base is None:
            return None
        start_s = (self._container.start_time or 0) / av.time_base
        from_zero = self.format in FROM_ZERO and 0 <= start_s <= MAX_SILENCE_S
        return 0.0 if from_zero else start_s

    def blocks(self, skip: int = 0, first_s: float = 0.0, last_s: float = math.inf) -> Iterator[AudioBlock]:
        """Yields the stream without its first `skip` samples. Empty blocks show progress while samples are skipped.

        Args:
            skip: Samples to skip, at the stream's own rate.
            first_s: Time of the stream, in seconds, from which damage counts.
            last_s: Time up to which it counts.

        Raises:
            PyAVError: The stream cannot be read further.
        """
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
        if buffer is None and seeker is not None and self._timeline.position:  # all samples were skipped
            buffer, rate, channels = _BlockBuffer(skip - self._timeline.position), self.rate, self.num_channels
        if buffer is not None:
            if not self.missing_s and (silence := self._timeline.silence_to(self._end_s)):
                yield from self._silence(silence, buffer, rate, channels)
            yield from buffer.flush()

    def _silence(self, samples: int, buffer: "_BlockBuffer", rate: int, channels: int) -> Iterator[AudioBlock]:
        """Yields blocks of silence behind the samples that were read."""
        if self.format == "ogg" and self._timeline.position:  # Ogg has gaps only where packets were lost
            seconds = self._timeline.seconds + samples / rate
            self._add_damage(f"the {samples / rate:.2f} s before {seconds:.2f} s are not in it")
        yield from buffer.flush()
        yield from buffer.silence(samples, rate, channels)
        self._timeline.advance(samples)

    def close(self) -> None:
        self._container.close()

    def _frames(self, seeker: Seeker | None) -> Iterator[AudioFrame]:
        """Yields all frames of the stream, or those behind what the seeker skips."""
        reached = [0] * len(
            self._container.streams
        )  # end of each stream, in ticks: adding fractions for every packet is slow
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
        """Returns the frames of a packet that have samples. The last packet is empty and drains the decoder."""
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
        """Yields the packets of all streams: the other ones show how far the container reaches.

        A read that fails is repeated as long as each repetition yields a packet.
        """
        has_packet = True
        while has_packet:
            has_packet = False
            try:
                for packet in self._container.demux():
                    has_packet = has_packet or packet.size > 0
                    yield packet
                return
            except av.error.FFmpegError as error:
                self._add_damage(_explain(error))

    def _add_damage(self, message: str) -> None:
        if not self._first_s <= self.position_s <= self._last_s:
            return
        self.num_damaged += 1
        self.ended_damaged = True
        self.last_error = message

    def _check_duration(self, reached_s: float) -> None:
        self._end_s = reached_s - (self._origin_s or 0.0)
        if self.declared_s is not None:
            self._end_s = min(self._end_s, self.declared_s)
            missing_s = self.declared_s - (reached_s - min(0, self._container.start_time or 0) / av.time_base)
            if missing_s > TOLERANCE_S + TOLERANCE * self.declared_s:
                self.missing_s = missing_s


def _declared_s(container: InputContainer) -> float | None:
    """Returns the duration that a container states, in seconds; None if it states none."""
    if container.format.name == "asf":
        # FFmpeg adds the start of the stream that begins last to the duration of the container.
        lengths = (float((each.duration or 0) * (each.time_base or 0)) for each in container.streams)
        return max(lengths, default=0.0) or None
    return None if container.duration is None else container.duration / av.time_base


class _BlockBuffer:
    """Gathers short frames (20 to 100 ms) into blocks. A change of rate, format or channels begins a new block.

    Frames are only copied, because an MP3 has 38 of them per second; scaling is done once for each block.
    """

    def __init__(self, skip: int) -> None:
        self._skip = skip
        self._kind = (0, "", 0)  # rate, sample format, channels
        self._filled = 0
        self._buffer: Samples = np.zeros((0, 0), np.float32)  # (num_channels, capacity), not yet scaled

    @property
    def is_skipping(self) -> bool:
        """True while the next sample is to be skipped."""
        return self._skip > self._filled

    def add(self, frame: AudioFrame) -> Iterator[AudioBlock]:
        """Takes a frame; yields the block before it if that is full or of another kind."""
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
        """Yields blocks of silence. Everything that was added before has been flushed."""
        while samples > 0:
            count = min(samples, block_frames(rate, channels))
            skipped = min(self._skip, count)
            self._skip -= skipped
            samples -= count
            yield AudioBlock(rate, np.zeros((count - skipped, channels), np.float32))

    def flush(self) -> Iterator[AudioBlock]:
        """Yields what was gathered, without the samples to skip."""
        skipped = min(self._skip, self._filled)
        self._skip -= skipped
        if self._filled:
            rate, name, _ = self._kind
            _, zero, scale = FORMATS[name.removesuffix("p")]
            samples = self._buffer[:, skipped : self._filled]
            if scale != 1:
                samples = (samples - np.float32(zero)) * np.float32(scale)
            self._buffer = self._buffer[:, :0]  # the block uses its memory
            yield AudioBlock(rate, samples.T)
        self._filled = 0


def _with_next(frames: Iterator[AudioFrame]) -> Iterator[tuple[AudioFrame, AudioFrame | None]]:
    """Yields each frame with the one behind it; None behind the last."""
    before: AudioFrame | None = None
    for frame in frames:
        if before is not None:
            yield before, frame
        before = frame
    if before is not None:
        yield before, None


def choose_stream(container: InputContainer) -> AudioStream:
    """Returns the audio stream that is read: the container's default one, otherwise the first.

    Raises:
        PyAVError: No stream can be decoded.
    """
    streams = container.streams.audio
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise NoAudioStreamError(f"a {container.format.long_name} file without an audio stream (it has: {kinds})")
    # Typed as never None, but a stream with an unknown codec has none.
    known = [stream for stream in streams if cast(object, stream.codec_context) is not None]
    if not known:
        raise PyAVError("its audio has a codec that FFmpeg does not know here")
    default = [stream for stream in known if stream.disposition & Disposition.default]
    return (default or known)[0]


def _explain(error: av.error.FFmpegError) -> str:
    if isinstance(error, MemoryError):
        raise error
    log = cast(tuple[int, str, str] | None, error.log)  # last log entry: level, component, message
    return f"{log[2].strip()} ({log[1]})" if log else error.strerror or type(error).__name__
