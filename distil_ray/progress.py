"""How a run goes, while it goes: recordings, audio hours, RTFx, WER so far, failures, time left.

Fed with the receipts of the commit stage (schema.py: RECEIPT), and knows nothing else of the work. In a terminal it is
a live view that moves between receipts too; elsewhere a plain line now and then; at the end one line in both. What the
plan estimated is corrected as true lengths come in: where sizes alone were known, estimates can be far off.
"""

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distil_ray.schema import EDITS

NOW_S = 60.0  # seconds that "RTFx now" looks back
LINE_EVERY_S = 30.0  # seconds between plain lines
BAR_CELLS = 40


class Progress:
    """A context manager: `add` every receipt inside it.

    `num_recordings` and `estimated_s` are the plan's totals; `estimates` maps block ids to their estimated seconds and
    lets the rest be corrected. `line_every_s`: seconds between lines where `console` is no terminal.
    """

    def __init__(
        self,
        num_recordings: int,
        estimated_s: float,
        console: Console,
        estimates: Mapping[str, float] | None = None,
        line_every_s: float = LINE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._line_every_s = line_every_s
        self._totals = _Totals(num_recordings, estimated_s, estimates or {}, clock)
        self._lock = threading.Lock()  # receipts come from the caller's thread, refreshes from another
        self._ended = threading.Event()
        self._live: Live | None = None
        self._lines: threading.Thread | None = None

    def add(self, receipt: Mapping[str, Any]) -> None:
        """Counts a receipt: a row of RECEIPT as a dict."""
        with self._lock:
            self._totals.add(receipt)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._view, refresh_per_second=2, transient=True)
            self._live.start(refresh=True)
        else:
            self._lines = threading.Thread(target=self._print_lines, name="progress", daemon=True)
            self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._live is not None:
            self._live.stop()
        if self._lines is not None:
            self._lines.join()
        with self._lock:
            words = self._totals.describe()
        self._console.print(Text(f"{'recognised' if kind is None else 'broken off':<14} {words}"), soft_wrap=True)

    def _print_lines(self) -> None:
        while not self._ended.wait(self._line_every_s):
            with self._lock:
                words = f"{self._totals.describe()}, {self._totals.describe_rest()}"
            self._console.print(Text(words), soft_wrap=True)

    def _view(self) -> Group:
        with self._lock:
            totals = self._totals
            bars = Table.grid(padding=(0, 2, 0, 0))
            hours, total_hours = totals.audio_s / 3600, totals.expected_s / 3600
            bars.add_row(
                "recordings",
                ProgressBar(total=max(totals.num_recordings, 1), completed=totals.num_done, width=BAR_CELLS),
                f"{totals.num_done:,} of {totals.num_recordings:,}",
            )
            bars.add_row(
                "audio",
                ProgressBar(total=max(total_hours, 1e-9), completed=hours, width=BAR_CELLS),
                f"{hours:,.2f} of {total_hours:,.2f} h",
            )
            return Group(
                bars, Text(f"{totals.describe_speed()}, {totals.describe_rest()}"), Text(totals.describe_text())
            )


class _Totals:
    """Sums over the receipts so far, and what they say of the rest."""

    def __init__(
        self, num_recordings: int, estimated_s: float, estimates: Mapping[str, float], clock: Callable[[], float]
    ) -> None:
        self.num_recordings = num_recordings
        self.num_done = 0
        self.audio_s = 0.0
        self._estimated_s = estimated_s
        self._estimates = estimates
        self._clock = clock
        self._started_s = clock()
        self._first: tuple[float, float] | None = None  # time of the first receipt and its audio
        self._recent: deque[tuple[float, float]] = deque()  # (time, audio seconds) of the last `NOW_S` seconds
        self._open: defaultdict[str, float] = defaultdict(float)  # audio seconds of blocks that are not committed yet
        self._finished_s = 0.0  # audio of committed blocks that had an estimate
        self._finished_estimated_s = 0.0
        self._edits = 0
        self._words = 0
        self._num_failed = 0
        self._kinds = Counter[str]()
        self._num_errors = 0

    def add(self, receipt: Mapping[str, Any]) -> None:
        now, audio_s, block = self._clock(), receipt["audio_s"] or 0.0, receipt["block_id"]
        self.audio_s += audio_s
        self._first = self._first or (now, audio_s)
        self._recent.append((now, audio_s))
        self._open[block] += audio_s
        if receipt["committed"] or receipt["already_committed"]:
            self._finish(block)
        self.num_done += receipt["num_recordings"] or 0
        self._num_failed += receipt["num_failed"] or 0
        self._kinds.update(dict(receipt["failures_by_kind"] or {}))
        self._words += receipt["num_ref_words"] or 0
        self._edits += sum(receipt[name] or 0 for name in EDITS)
        self._num_errors += receipt["error"] is not None

    def _finish(self, block: str) -> None:
        audio_s = self._open.pop(block)
        if block in self._estimates:
            self._finished_s += audio_s
            self._finished_estimated_s += self._estimates[block]

    @property
    def expected_s(self) -> float:
        """Audio of the whole run: what is finished, and the rest as far off its estimate as the finished part was."""
        if not self._finished_estimated_s:
            return max(self._estimated_s, self.audio_s)
        ratio = self._finished_s / self._finished_estimated_s
        rest_s = max(self._estimated_s - self._finished_estimated_s, 0.0) * ratio
        return max(self._finished_s + rest_s, self.audio_s)

    def describe(self) -> str:
        return (
            f"{self.num_done:,} of {self.num_recordings:,} recordings, {_hours(self.audio_s)} of audio,"
            f" {self.describe_speed()}, {self.describe_text()}"
        )

    def describe_speed(self) -> str:
        elapsed_s = self._clock() - self._started_s
        now, mean = self._rate_now(elapsed_s), _rate(self.audio_s, elapsed_s)
        return f"{_duration(elapsed_s)} gone, RTFx {now:,.1f} now, {mean:,.1f} mean"

    def describe_text(self) -> str:
        words = f"WER so far {100 * self._edits / self._words:.2f} %, " if self._words else ""
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self._kinds.most_common())
        words += f"failed {self._num_failed:,}" + (f" ({kinds})" if kinds else "")
        return words + (f", blocks with errors {self._num_errors:,}" if self._num_errors else "")

    def describe_rest(self) -> str:
        rate = self._steady_rate()
        return f"{_duration((self.expected_s - self.audio_s) / rate)} left" if rate else "time left unknown yet"

    def _rate_now(self, elapsed_s: float) -> float:
        since = self._clock() - NOW_S
        while self._recent and self._recent[0][0] < since:
            self._recent.popleft()
        return _rate(sum(audio_s for _, audio_s in self._recent), min(elapsed_s, NOW_S))

    def _steady_rate(self) -> float:
        """Audio seconds a second since the first receipt: models had to be loaded before it."""
        if self._first is None:
            return 0.0
        first_s, first_audio_s = self._first
        steady = _rate(self.audio_s - first_audio_s, self._clock() - first_s)
        return steady or _rate(self.audio_s, self._clock() - self._started_s)


def _rate(audio_s: float, seconds: float) -> float:
    return audio_s / seconds if seconds > 0 else 0.0


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f} h" if seconds >= 3600 else f"{seconds / 60:,.1f} min"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
