"""What the receipts of a running run add up to, and what they say of the rest.

Fed with the receipts of the commit stage (schema.py: RECEIPT) and with what the executor shows now and then (watch.py:
Snapshot); knows nothing of how it is shown. What the plan estimated is corrected as true lengths come in: where sizes
alone were known, estimates can be far off.
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distil_ray.pipeline.stall_detector import Snapshot
from distil_ray.schema import EDITS

NOW_S = 60.0  # seconds that "RTFx now" looks back


@dataclass(frozen=True, slots=True)
class Figures:
    """A run at one moment. Rates of errors are fractions, RTFx audio seconds a second; None: nothing is known yet.

    The names are the keys of the events `progress`, `recognized` and `broken_off` of `--log-format json`.
    """

    num_recordings: int
    num_done: int
    num_failed: int
    failures_by_kind: Mapping[str, int]
    num_task_errors: int
    audio_s: float
    expected_audio_s: float  # of the whole run, as far as can be told now
    wall_s: float
    rtfx_now: float  # over the last `NOW_S`
    rtfx_mean: float
    left_s: float | None
    wer: float | None
    num_ref_words: int
    recognizers_alive: int | None
    recognizers_wanted: int | None


class Totals:
    """Sums over the receipts so far. Not safe from several threads: progress.py sees to that.

    `num_recordings` and `estimated_s` are the plan's totals; `estimates` maps task ids to their estimated seconds and
    lets the rest be corrected. `recognizers`: how many the run asks for.
    """

    def __init__(
        self,
        num_recordings: int,
        estimated_s: float,
        estimates: Mapping[str, float] | None = None,
        recognizers: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_recordings = num_recordings
        self._num_done = 0
        self._audio_s = 0.0
        self._estimated_s = estimated_s
        self._estimates = estimates or {}
        self._recognizers = recognizers
        self._alive: int | None = None
        self._clock = clock
        self._started_s = clock()
        self._num_worked = 0  # receipts with audio that the run has worked on
        self._first_wave: tuple[float, float] | None = None  # when each recognizer had done a part, and the audio then
        self._recent: deque[tuple[float, float]] = deque()  # (time, audio seconds) of the last `NOW_S` seconds
        self._open: defaultdict[str, float] = defaultdict(float)  # audio seconds of tasks that are not committed yet
        self._finished_s = 0.0  # audio of committed tasks that had an estimate
        self._finished_estimated_s = 0.0
        self._edits = 0
        self._words = 0
        self._num_failed = 0
        self._kinds = Counter[str]()
        self._num_errors = 0

    def add(self, receipt: Mapping[str, Any]) -> None:
        """Counts a row of RECEIPT, and takes note of `actors_alive` where the driver has added it."""
        now, audio_s, task = self._clock(), receipt["audio_s"] or 0.0, receipt["task_id"]
        self._audio_s += audio_s
        self._num_worked += audio_s > 0
        if self._first_wave is None and self._num_worked >= (self._recognizers or 1):
            self._first_wave = now, self._audio_s
        self._recent.append((now, audio_s))
        self._open[task] += audio_s
        if receipt["committed"] or receipt["already_committed"]:
            self._finish(task)
        self._num_done += receipt["num_recordings"] or 0
        self._num_failed += receipt["num_failed"] or 0
        self._kinds.update(dict(receipt["failures_by_kind"] or {}))
        self._words += receipt["num_ref_words"] or 0
        self._edits += sum(receipt[name] or 0 for name in EDITS)
        self._num_errors += receipt["error"] is not None
        self._alive = receipt.get("actors_alive") or self._alive

    def see(self, snapshot: Snapshot) -> None:
        """Takes note of how many recognizers live. Ray lets idle ones go at the end: that is nothing to show."""
        if not snapshot.ending:
            self._alive = snapshot.alive

    def figures(self) -> Figures:
        """As things stand now."""
        wall_s = self._clock() - self._started_s
        rate = self._steady_rate()
        expected_s = self._expected_s()
        return Figures(
            num_recordings=self._num_recordings,
            num_done=self._num_done,
            num_failed=self._num_failed,
            failures_by_kind=dict(self._kinds.most_common()),
            num_task_errors=self._num_errors,
            audio_s=self._audio_s,
            expected_audio_s=expected_s,
            wall_s=wall_s,
            rtfx_now=self._rate_now(wall_s),
            rtfx_mean=_rate(self._audio_s, wall_s),
            left_s=(expected_s - self._audio_s) / rate if rate else None,
            wer=self._edits / self._words if self._words else None,
            num_ref_words=self._words,
            recognizers_alive=self._alive,
            recognizers_wanted=self._recognizers,
        )

    def _finish(self, task: str) -> None:
        audio_s = self._open.pop(task)
        if task in self._estimates:
            self._finished_s += audio_s
            self._finished_estimated_s += self._estimates[task]

    def _expected_s(self) -> float:
        """Audio of the whole run: what is finished, and the rest as far off its estimate as the finished part was."""
        if not self._finished_estimated_s:
            return max(self._estimated_s, self._audio_s)
        ratio = self._finished_s / self._finished_estimated_s
        rest_s = max(self._estimated_s - self._finished_estimated_s, 0.0) * ratio
        return max(self._finished_s + rest_s, self._audio_s)

    def _rate_now(self, wall_s: float) -> float:
        since = self._clock() - NOW_S
        while self._recent and self._recent[0][0] < since:
            self._recent.popleft()
        return _rate(sum(audio_s for _, audio_s in self._recent), min(wall_s, NOW_S))

    def _steady_rate(self) -> float:
        """Audio seconds a second since the recognizers' first parts; 0 until there is one of each.

        The first parts come all at once, after models were loaded and each part was worked on by one of them: counted
        as if they had been heard since the first came, they would promise the end many times too soon. Between two
        waves nothing comes, and the rate since the run's start is nearer to the truth; both are rather too low.
        """
        if self._first_wave is None:
            return 0.0
        first_s, first_audio_s = self._first_wave
        now = self._clock()
        steady = _rate(self._audio_s - first_audio_s, now - first_s)
        return max(steady, _rate(self._audio_s, now - self._started_s))


def _rate(audio_s: float, seconds: float) -> float:
    return audio_s / seconds if seconds > 0 else 0.0
