"""Skips packets of a stream that lie well before the first requested sample, without decoding them.

Reading a packet takes a fortieth of the time of decoding it (MP3: 0.5 CPU seconds per hour of audio). Packets are
counted: where each is one frame of the same number of samples, as in MP3, AAC and Opus, the count is what decoding
would have given, and the time line (timeline.py) adds the same silence. Where that does not hold, `CannotSeekError` is
raised, and the stream has to be decoded from its start. In formats with exact time stamps most packets are not even
read; the packet that a seek finds must lie on the grid of frames. Damage in what is skipped is not detected, and shifts
nothing.
"""

from fractions import Fraction
from typing import Any

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from distil_ray.audio.timeline import Timeline

EXACT_TIMES = {"mp3", "mov,mp4,m4a,3gp,3g2,mj2"}  # demuxers that count samples and land on the packet they name
NUM_PROBED = 8  # packets decoded first, to learn their number of samples; priming shortens the first ones
NUM_EQUAL = 4  # the last of them, which must be equal
PREROLL_S = 1.0  # decoded before the first requested sample: bit reservoirs, overlaps, predictors fill up
TICK_S = 0.002  # allowed difference between a packet's duration and samples: Matroska rounds to milliseconds


class CannotSeekError(Exception):
    """The number of samples in a packet is not known without decoding it."""


class Seeker:
    """Skips the packets of one stream up to shortly before a sample.

    Args:
        container: The open file.
        stream: The stream that is read.
        skip: First requested sample, at the stream's own rate.
        timeline: Counts what is decoded and what is skipped.

    Attributes:
        is_over: The requested sample is near: decode from here on.
    """

    def __init__(self, container: InputContainer, stream: AudioStream, skip: int, timeline: Timeline) -> None:
        assert stream.time_base is not None
        self._timeline = timeline
        self.is_over = False
        self._container = container
        self._stream = stream
        self._until = skip - round(PREROLL_S * stream.rate)
        self._tick = stream.time_base * stream.rate  # samples
        self._tick_s = float(stream.time_base)
        self._samples_per_packet: list[int] = []  # of each decoded packet; 0 if it was not a single frame
        self._size = 0  # samples of every packet, once known
        self._next_pts: int | None = None  # end of the last frame
        self._has_jumped = False

    def add_decoded(self, frames: list[AudioFrame]) -> None:
        """Takes the frames that the next packet was decoded to.

        Raises:
            CannotSeekError: Packets differ in their number of samples.
        """
        for frame in frames:
            self._timeline.advance(self._timeline.silence_before(frame.pts, frame.sample_rate, frame.samples))
            self._timeline.advance(frame.samples)
        if self._timeline.position > self._until:  # the stream begins late, or with a gap
            raise CannotSeekError
        self._samples_per_packet.append(frames[0].samples if len(frames) == 1 else 0)
        if frames and frames[-1].pts is not None:
            self._next_pts = frames[-1].pts + round(frames[-1].samples / self._tick)
        if len(self._samples_per_packet) == NUM_PROBED:
            self._size = self._samples_per_packet[-1]
            if not self._size or any(size != self._size for size in self._samples_per_packet[-NUM_EQUAL:]):
                raise CannotSeekError
            self._seek()

    def can_skip(self, packet: "Packet[Any]") -> bool:
        """Returns True if the next packet need not be decoded.

        Raises:
            CannotSeekError: The packet does not fit into the count.
        """
        if not self._size:
            return False
        if self._has_jumped:
            self._has_jumped = False
            self._land(packet)
        silence = self._timeline.silence_before(packet.pts, self._stream.rate, self._size)
        if self._timeline.position + silence + self._size > self._until or not packet.size:
            if silence:  # the preroll that the decoder needs lies before the gap
                raise CannotSeekError
            self.is_over = True
            return False
        if abs((packet.duration or 0) * self._tick_s - self._size / self._stream.rate) > TICK_S:
            raise CannotSeekError
        self._timeline.advance(silence + self._size)
        return True

    def _seek(self) -> None:
        """Seeks close to the requested sample, if time stamps show where that is and it is not behind the end."""
        duration = self._stream.duration
        if self._container.format.name not in EXACT_TIMES or self._next_pts is None or not duration:
            return
        position = self._timeline.position
        aim = self._next_pts + int((self._until - position) / self._tick)
        if position < self._until and aim < duration + (self._stream.start_time or 0):
            try:
                self._container.seek(aim, stream=self._stream)
            except av.error.FFmpegError as error:
                raise CannotSeekError from error
            self._has_jumped = True

    def _land(self, packet: "Packet[Any]") -> None:
        """Counts what the seek has skipped, by the time stamp of the first packet behind it."""
        if packet.pts is None or self._next_pts is None:
            raise CannotSeekError
        passed = (packet.pts - self._next_pts) * Fraction(self._tick)
        if passed < 0 or passed % self._size:
            raise CannotSeekError
        self._timeline.advance(int(passed))
