"""Places the frames of a stream on the time line of its recording, by their time stamps.

A container presents its audio at times: a track may begin later than the video beside it, packets may be missing, and
a recorder that sends nothing during silence leaves gaps. What the stamps leave out becomes silence in the recording, so
that times fit the video and subtitles. Samples are never dropped: overlapping stamps are made up for by the next gap,
and stamps that run back begin a new count. Stamps that are merely rounded, or that cannot be right, move nothing.
Positions are samples at the stream's own rate.
"""

import math

TOLERANCE_S = 0.1  # allowed difference between stamps and samples: stamps are rounded, and recorders' clocks jitter
END_TOLERANCE_S = 0.5  # audio may end this much before the container: video and other tracks never have its length
MAX_SILENCE_S = 6 * 3600.0  # silence of a stream in all; stamps that ask for more are wrong
STEP_BACK_S = 1.0  # stamps that run back by more begin a new count


class Timeline:
    """Counts the samples of one stream.

    Args:
        tick_s: Seconds of one tick of the time stamps.
        origin_s: Time stamp, in seconds, at which the recording begins; None: the stamps only count what was read, and
            carry no information.

    Attributes:
        position: Position of the next sample.
    """

    def __init__(self, tick_s: float, origin_s: float | None) -> None:
        self.position = 0
        self._rate = 0
        self._tick_s = tick_s
        self._origin_s = origin_s
        self._silence_s = 0.0
        self._warning = ""

    @property
    def seconds(self) -> float:
        """Position of the next sample in seconds."""
        return self.position / self._rate if self._rate else 0.0

    def silence_before(self, stamp: int | None, rate: int, samples: int, following: int | None = None) -> int:
        """Returns the samples of silence between the last frame and the next one. They are not counted as passed.

        Args:
            stamp: Time stamp of the next frame in ticks.
            rate: Its sample rate in Hz.
            samples: Its number of samples.
            following: Time stamp of the frame after it, which reveals an error of a single stamp.
        """
        if rate != self._rate:
            self.position = round(self.seconds * rate)
            self._rate = rate
        if stamp is None or self._origin_s is None:
            return 0
        ahead_s = stamp * self._tick_s - self._origin_s - self.position / rate
        if -TOLERANCE_S <= ahead_s <= TOLERANCE_S:
            return 0
        if (
            following is not None
            and abs((following - stamp) * self._tick_s + ahead_s - samples / rate) < abs(ahead_s) / 2
        ):
            return 0
        return self._silence(ahead_s) if ahead_s > 0 else self._step_back(-ahead_s)

    def silence_to(self, end_s: float) -> int:
        """Returns the samples of silence from here to `end_s` of the recording; 0 if that is not ahead."""
        ahead_s = end_s - self.seconds
        if self._origin_s is None or not self._rate or not END_TOLERANCE_S < ahead_s < math.inf:
            return 0
        return self._silence(ahead_s)

    def advance(self, samples: int) -> None:
        """Counts samples that were decoded, skipped, or are silence."""
        self.position += samples

    def take_warning(self) -> str:
        """Returns, once, what was wrong with the time stamps since the last call; empty if nothing was."""
        warning, self._warning = self._warning, ""
        return warning

    def _silence(self, ahead_s: float) -> int:
        assert self._origin_s is not None
        if self._silence_s + ahead_s > MAX_SILENCE_S:
            self._warning = f"a time stamp jumps ahead by {ahead_s:,.0f} s, which was not followed"
            self._origin_s += ahead_s
            return 0
        self._silence_s += ahead_s
        return round(ahead_s * self._rate)

    def _step_back(self, back_s: float) -> int:
        assert self._origin_s is not None
        if back_s > STEP_BACK_S:
            self._warning = f"time stamps run back by {back_s:,.2f} s; times go on from there"
            self._origin_s -= back_s
        return 0
