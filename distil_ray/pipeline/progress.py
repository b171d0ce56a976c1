"""How a run goes, while it goes: recordings, audio, RTFx, WER so far, failures, recognizers, time left.

In a terminal it is a live view that moves between receipts too; elsewhere a plain line now and then, or a line of JSON
(json_lines.py); at the end one line in all of them. What is counted is totals.py's. While it is shown, standard error
is watched (noise.py), because one line that Ray writes into the view tears it.
"""

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distil_ray.cli.console import JsonConsole, log_field
from distil_ray.pipeline.ray_monitor import Snapshot
from distil_ray.types import EDITS

RATE_WINDOW_S = 60.0  # seconds that "RTFx now" looks back


@dataclass(frozen=True, slots=True)
class ProgressState:
    """A run at one moment. Rates of errors are fractions, RTFx audio seconds a second; None: nothing is known yet.

    The names are the keys of the events `progress`, `recognized` and `interrupted` of `--log-format json`.
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
    eta_s: float | None
    wer: float | None
    num_ref_words: int
    recognizers_alive: int | None
    recognizers_requested: int | None


class ProgressTracker:
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
        """Counts a row of COMMIT_RESULT, and takes note of `actors_alive` where the driver has added it."""
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
        if not snapshot.draining:
            self._alive = snapshot.alive

    def figures(self) -> ProgressState:
        """As things stand now."""
        wall_s = self._clock() - self._started_s
        rate = self._steady_rate()
        expected_s = self._expected_s()
        return ProgressState(
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
            eta_s=(expected_s - self._audio_s) / rate if rate else None,
            wer=self._edits / self._words if self._words else None,
            num_ref_words=self._words,
            recognizers_alive=self._alive,
            recognizers_requested=self._recognizers,
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
        since = self._clock() - RATE_WINDOW_S
        while self._recent and self._recent[0][0] < since:
            self._recent.popleft()
        return _rate(sum(audio_s for _, audio_s in self._recent), min(wall_s, RATE_WINDOW_S))

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


LINE_EVERY_S = 30.0  # seconds between plain lines, and between lines of JSON
BAR_CELLS = 40
DIGITS = 4  # behind the point, of seconds and rates in lines of JSON


class Progress:
    """A context manager: `add` every receipt inside it, `see` what the executor shows.

    `line_every_s`: seconds between lines where `console` is no terminal.
    """

    def __init__(self, totals: ProgressTracker, console: Console, line_every_s: float = LINE_EVERY_S) -> None:
        self._console = console
        self._line_every_s = line_every_s
        self._totals = totals
        self._lock = threading.Lock()  # receipts come from the caller's thread, refreshes from another
        self._ended = threading.Event()
        self._live: Live | None = None
        self._lines: threading.Thread | None = None

    def add(self, receipt: Mapping[str, Any]) -> None:
        """Counts a receipt: a row of COMMIT_RESULT as a dict."""
        with self._lock:
            self._totals.add(receipt)

    def see(self, snapshot: Snapshot) -> None:
        """Takes note of what the executor shows."""
        with self._lock:
            self._totals.see(snapshot)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._view, refresh_per_second=2, transient=True)
            self._live.start(refresh=True)
        else:
            self._lines = threading.Thread(target=self._tell_now_and_then, name="progress", daemon=True)
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
        self._tell("recognized" if kind is None else "broken off")

    def _tell_now_and_then(self) -> None:
        while not self._ended.wait(self._line_every_s):
            self._tell("progress")

    def _tell(self, label: str) -> None:
        figures = self._figures()
        if isinstance(self._console, JsonConsole):
            self._console.emit(label.replace(" ", "_"), **_rounded(figures))
        else:
            passing = [_describe_rest(figures), _describe_recognizers(figures)] if label == "progress" else []
            log_field(label, ", ".join(filter(None, [*_describe(figures), *passing])), self._console)

    def _figures(self) -> ProgressState:
        with self._lock:
            return self._totals.figures()

    def _view(self) -> Group:
        figures = self._figures()
        bars = Table.grid(padding=(0, 2, 0, 0))
        done, of = figures.num_done, figures.num_recordings
        bars.add_row("recordings", _bar(done, of), f"{done:,} of {of:,}")
        bars.add_row("audio", _bar(figures.audio_s, figures.expected_audio_s), _audio(figures))
        return Group(
            bars,
            Text(f"{_describe_speed(figures)}, {_describe_rest(figures)}"),
            Text(", ".join(filter(None, [_describe_recognizers(figures), _describe_text(figures)]))),
        )


def _describe(figures: ProgressState) -> list[str]:
    return [
        f"{figures.num_done:,} of {figures.num_recordings:,} recordings",
        f"{_audio(figures)} of audio",
        _describe_speed(figures),
        _describe_text(figures),
    ]


def _describe_speed(figures: ProgressState) -> str:
    return f"{_duration(figures.wall_s)} gone, RTFx {figures.rtfx_now:,.1f} now, {figures.rtfx_mean:,.1f} mean"


def _describe_recognizers(figures: ProgressState) -> str:
    """Fewer alive than wanted: they load their models, or are gone."""
    alive, wanted = figures.recognizers_alive, figures.recognizers_requested
    if alive is None or wanted is None:
        return ""
    return f"{alive:,} of {wanted:,} recognizer{'s' * (wanted != 1)} alive"


def _describe_text(figures: ProgressState) -> str:
    words = f"WER so far {100 * figures.wer:.2f} %, " if figures.wer is not None else ""
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in figures.failures_by_kind.items())
    words += f"failed {figures.num_failed:,}" + (f" ({kinds})" if kinds else "")
    return words + (f", tasks with errors {figures.num_task_errors:,}" if figures.num_task_errors else "")


def _describe_rest(figures: ProgressState) -> str:
    return "time left unknown yet" if figures.eta_s is None else f"{_duration(figures.eta_s)} left"


def _bar(done: float, total: float) -> ProgressBar:
    return ProgressBar(total=max(total, 1e-9), completed=done, width=BAR_CELLS)


def _audio(figures: ProgressState) -> str:
    """What is done of what is expected, in the unit that suits the whole."""
    divisor, unit, digits = (3600, "h", 2) if figures.expected_audio_s >= 3600 else (60, "min", 1)
    done, total = figures.audio_s / divisor, figures.expected_audio_s / divisor
    return f"{done:,.{digits}f} of {total:,.{digits}f} {unit}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _rounded(figures: ProgressState) -> dict[str, Any]:
    return {
        name: round(value, DIGITS) if isinstance(value, float) else value for name, value in asdict(figures).items()
    }
