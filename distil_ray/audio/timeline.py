"""Where the frames of a stream lie in the recording: their time stamps, but for what is only rounding or cannot be.

A container presents its sound at times: a track may begin later than the video beside it, packets may be missing, and a
recorder that sends nothing in silence leaves gaps. What the stamps leave out is silence in the recording, so that times
fit the video and subtitles. Samples are never dropped: stamps that overlap are answered by the next gap, and stamps
that run back begin a new count. Positions are samples at the stream's own rate.
"""

import math

TOLERANCE_S = 0.1  # by which stamps and samples may differ: they are rounded, and recorders' clocks jitter
END_TOLERANCE_S = 0.5  # by which sound may end before the container: pictures and other tracks are never cut to it
MAX_SILENCE_S = 6 * 3600.0  # of a stream in all; stamps that ask for more are wrong
STEP_BACK_S = 1.0  # stamps that run back by more begin anew


class Timeline:
    """The count of one stream's samples. `position`: of the next sample; `complaint`: what was wrong with the stamps,
    taken away by `take_complaint`."""

    def __init__(self, tick_s: float, origin_s: float | None) -> None:
        """`tick_s`: seconds of one tick of the time stamps; `origin_s`: the stamp, in seconds, at which the recording
        begins. None: the stamps are a count of what was read, and say nothing more."""
        self.position = 0
        self._rate = 0
        self._tick_s = tick_s
        self._origin_s = origin_s
        self._silence_s = 0.0
        self._warning = ""

    @property
    def seconds(self) -> float:
        return self.position / self._rate if self._rate else 0.0

    def silence_before(self, stamp: int | None, rate: int, samples: int, following: int | None = None) -> int:
        """Samples of silence between the last frame and the next one, of `samples` at `rate` Hz, with this stamp in
        ticks.

        They are not counted as passed. `following`: the stamp of the frame after it, which shows an error of one stamp
        alone.
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
        """Samples of silence from here to `end_s` of the recording; 0 if that is not ahead."""
        ahead_s = end_s - self.seconds
        if self._origin_s is None or not self._rate or not END_TOLERANCE_S < ahead_s < math.inf:
            return 0
        return self._silence(ahead_s)

    def advance(self, samples: int) -> None:
        """Counts samples that were decoded, passed over, or are silence."""
        self.position += samples

    def take_warning(self) -> str:
        words, self._warning = self._warning, ""
        return words

    def _silence(self, ahead_s: float) -> int:
        assert self._origin_s is not None
        if self._silence_s + ahead_s > MAX_SILENCE_S:
            self._warning = f"a time stamp leaps ahead by {ahead_s:,.0f} s, which was not followed"
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
