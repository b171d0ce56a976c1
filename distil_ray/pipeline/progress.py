"""Progress of a run: recordings, audio, RTFx, WER so far, failures, recognizers, ETA.

`ProgressTracker` adds up the results of commits and estimates the rest; `Progress` shows the state. In a terminal it
is a live view. Elsewhere it is a line (JSON with `--log-format json`) at every new phase, every 9 s in the first
two minutes, and every 30 s after that. One last line is written in all cases. While the live view is shown, standard
error must be filtered (`ray_logging.filter_stderr`), because a line that Ray writes into the view breaks it.

A result arrives when a whole part is recognized. Until then, the audio of the part that its recognizer reports as
processed (`worker_state.py`) counts as in progress. `verify/recheck.py` shows its progress with the same classes.

The plan's estimates of durations are corrected as true durations arrive: where only file sizes were known, estimates
can be far off.
"""

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distil_ray.cli.console import JsonConsole, format_elapsed, log_field
from distil_ray.pipeline.ray_monitor import Snapshot
from distil_ray.pipeline.worker_state import WorkerPhase
from distil_ray.types import EDITS

RATE_WINDOW_S = 60.0  # seconds over which the current RTFx is averaged
MIN_RATE_S = 5.0  # seconds of recognition from which parts in progress give an ETA


class RunPhase(StrEnum):
    """Phase of a run, by the state of its recognizers."""

    STARTING = "starting recognizers"
    LOADING = "loading the model"
    DECODING = "decoding audio"
    TRANSCRIBING = "transcribing"


@dataclass(frozen=True, slots=True)
class ProgressState:
    """Figures of a run at one moment; None: not known yet.

    The names are the keys of the events `progress`, `recognized` and `interrupted` of `--log-format json`.
    """

    phase: str  # value of `RunPhase`
    num_recordings: int  # to process in this run
    num_done: int  # committed so far, failed ones included
    num_failed: int
    failures_by_kind: Mapping[str, int]
    num_task_errors: int
    audio_s: float  # of recognized parts
    in_progress_s: float  # of parts in recognition: processed so far, estimated
    expected_audio_s: float  # of the whole run, corrected by the true durations so far
    wall_s: float
    rtfx_now: float  # over the last `RATE_WINDOW_S`, parts in progress included
    rtfx_mean: float  # since the graph started, parts in progress included
    eta_s: float | None  # seconds to the end
    wer: float | None  # a fraction
    num_ref_words: int
    recognizers_alive: int | None
    recognizers_requested: int | None


class ProgressTracker:
    """Sums over the results of commits so far. Not thread-safe; `Progress` holds a lock.

    Args:
        num_recordings: Recordings of the plan.
        estimated_s: Audio seconds of the plan, as estimated.
        estimates: Estimated audio seconds by task id, for the correction of the rest.
        recognizers: Recognizer actors that the run requests.
        phase: Phase until the first snapshot.
        clock: Monotonic clock.
    """

    def __init__(
        self,
        num_recordings: int,
        estimated_s: float,
        estimates: Mapping[str, float] | None = None,
        recognizers: int | None = None,
        phase: RunPhase = RunPhase.STARTING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_recordings = num_recordings
        self._num_done = 0
        self._audio_s = 0.0
        self._estimated_s = estimated_s
        self._estimates = estimates or {}
        self._recognizers = recognizers
        self._alive: int | None = None
        self._phase = phase
        self._in_progress: dict[tuple[str, int], float] = {}  # processed seconds of parts, by task and number
        self._received: set[tuple[str, int]] = set()  # parts with a result
        self._recognizing_since: float | None = None
        self._clock = clock
        self._started_s = clock()
        self._num_parts = 0  # results with audio: parts that a recognizer has processed
        self._first_wave: tuple[float, float] | None = (
            None  # time when as many parts were done as there are recognizers, and their audio
        )
        self._recent: deque[tuple[float, float]] = deque([(self._started_s, 0.0)])  # (time, audio seconds so far)
        self._uncommitted_s: defaultdict[str, float] = defaultdict(
            float
        )  # audio seconds of tasks that are not committed yet
        self._finished_s = 0.0  # audio of committed tasks that had an estimate
        self._finished_estimated_s = 0.0
        self._edits = 0
        self._words = 0
        self._num_failed = 0
        self._kinds = Counter[str]()
        self._num_errors = 0

    def add(self, result: Mapping[str, Any]) -> None:
        """Adds a row of `schema.COMMIT_RESULT`, with `actors_alive` where the driver has added it."""
        now, audio_s, task = self._clock(), result["audio_s"] or 0.0, result["task_id"]
        self._audio_s += audio_s
        self._num_parts += audio_s > 0
        if self._first_wave is None and self._num_parts >= (self._recognizers or 1):
            self._first_wave = now, self._audio_s
        part = task, result["part_index"]
        self._received.add(part)
        self._in_progress.pop(part, None)
        self._recent.append((now, self._processed_s()))
        self._uncommitted_s[task] += audio_s
        if result["committed"] or result["already_committed"]:
            self._finish(task)
        self._num_done += result["num_recordings"] or 0
        self._num_failed += result["num_failed"] or 0
        self._kinds.update(dict(result["failures_by_kind"] or {}))
        self._words += result["num_ref_words"] or 0
        self._edits += sum(result[name] or 0 for name in EDITS)
        self._num_errors += result["error"] is not None
        self._alive = result.get("actors_alive") or self._alive

    @property
    def phase(self) -> RunPhase:
        """Phase of the run."""
        return self._phase

    def update(self, snapshot: Snapshot) -> None:
        """Updates the phase, the number of recognizers alive, and the parts in recognition.

        At the end Ray stops idle recognizers; they count as alive.
        """
        self._alive = max(self._alive or 0, snapshot.alive) if snapshot.draining else snapshot.alive
        for worker in snapshot.workers:
            if worker.task_id is None or worker.part_index is None:
                continue
            part = worker.task_id, worker.part_index
            if part not in self._received:
                self._in_progress[part] = max(self._in_progress.get(part, 0.0), worker.processed_s)
        self._phase = self._next_phase(Counter(worker.phase for worker in snapshot.workers))
        now = self._clock()
        if self._phase == RunPhase.TRANSCRIBING and self._recognizing_since is None:
            self._recognizing_since = now
        self._recent.append((now, self._processed_s()))

    def _next_phase(self, workers: Counter[str]) -> RunPhase:
        if workers[WorkerPhase.TRANSCRIBING] or self._phase == RunPhase.TRANSCRIBING:
            return RunPhase.TRANSCRIBING
        if workers[WorkerPhase.READY]:
            return RunPhase.DECODING
        return RunPhase.LOADING if workers[WorkerPhase.LOADING] else RunPhase.STARTING

    def state(self) -> ProgressState:
        """Returns the current state."""
        wall_s = self._clock() - self._started_s
        rate = self._steady_rate()
        expected_s = self._expected_s()
        processed_s = self._processed_s()
        return ProgressState(
            phase=self._phase,
            num_recordings=self._num_recordings,
            num_done=self._num_done,
            num_failed=self._num_failed,
            failures_by_kind=dict(self._kinds.most_common()),
            num_task_errors=self._num_errors,
            audio_s=self._audio_s,
            in_progress_s=processed_s - self._audio_s,
            expected_audio_s=expected_s,
            wall_s=wall_s,
            rtfx_now=self._rate_now(wall_s),
            rtfx_mean=_rate(processed_s, wall_s),
            eta_s=max(expected_s - processed_s, 0.0) / rate if rate else None,
            wer=self._edits / self._words if self._words else None,
            num_ref_words=self._words,
            recognizers_alive=self._alive,
            recognizers_requested=self._recognizers,
        )

    def _processed_s(self) -> float:
        return self._audio_s + sum(self._in_progress.values())

    def _finish(self, task: str) -> None:
        audio_s = self._uncommitted_s.pop(task)
        if task in self._estimates:
            self._finished_s += audio_s
            self._finished_estimated_s += self._estimates[task]

    def _expected_s(self) -> float:
        """Returns the audio of the whole run: committed tasks, and the rest with the same ratio to its estimate."""
        if not self._finished_estimated_s:
            return max(self._estimated_s, self._processed_s())
        ratio = self._finished_s / self._finished_estimated_s
        rest_s = max(self._estimated_s - self._finished_estimated_s, 0.0) * ratio
        return max(self._finished_s + rest_s, self._processed_s())

    def _rate_now(self, wall_s: float) -> float:
        since = self._clock() - RATE_WINDOW_S
        while len(self._recent) > 1 and self._recent[1][0] <= since:
            self._recent.popleft()
        return _rate(max(self._processed_s() - self._recent[0][1], 0.0), min(wall_s, RATE_WINDOW_S))

    def _steady_rate(self) -> float:
        """Returns audio seconds per second since each recognizer has finished a part.

        Before that it is the rate of the parts in progress since recognition began; 0 if none is reported.

        The first parts all arrive at about the same time, after models were loaded. A rate since the arrival of the
        first part would count them as if they took no time, and the ETA would be far too early. Between two such waves
        nothing arrives, and the rate since the start of the run is more accurate. Both rates are rather too low.
        """
        now = self._clock()
        if self._first_wave is None:
            recognizing_s = 0.0 if self._recognizing_since is None else now - self._recognizing_since
            return _rate(self._processed_s(), recognizing_s) if recognizing_s >= MIN_RATE_S else 0.0
        first_s, first_audio_s = self._first_wave
        steady = _rate(self._audio_s - first_audio_s, now - first_s)
        return max(steady, _rate(self._audio_s, now - self._started_s))


def _rate(audio_s: float, seconds: float) -> float:
    return audio_s / seconds if seconds > 0 else 0.0


LINE_EVERY_S = 30.0  # seconds between plain lines, and between lines of JSON
FIRST_LINES_S = 120.0  # from the start, in which lines come more often
FIRST_LINE_EVERY_S = 9.0  # not a multiple of the interval of snapshots: a new phase would follow as a second line
BAR_CELLS = 40
DIGITS = 4  # behind the point, of seconds and rates in lines of JSON


class Progress:
    """Context manager that shows the progress of a run while the caller adds results and snapshots.

    Args:
        tracker: Sums and estimates.
        console: A terminal, a plain console or a `JsonConsole`.
        line_every_s: Seconds between lines if `console` is not a terminal.
        last_line: True to write one more line, or event, at the end: `recognized` or `interrupted`.
    """

    def __init__(
        self,
        tracker: ProgressTracker,
        console: Console,
        line_every_s: float = LINE_EVERY_S,
        *,
        last_line: bool = True,
    ) -> None:
        self._console = console
        self._last_line = last_line
        self._line_every_s = line_every_s
        self._tracker = tracker
        self._lock = threading.Lock()  # results come from the caller's thread, refreshes from another one
        self._ended = threading.Event()
        self._new_phase = threading.Event()
        self._live: Live | None = None
        self._lines: threading.Thread | None = None

    def add(self, result: Mapping[str, Any]) -> None:
        """Adds a row of `schema.COMMIT_RESULT`."""
        with self._lock:
            self._tracker.add(result)

    def update(self, snapshot: Snapshot) -> None:
        """Updates the state of the execution."""
        with self._lock:
            before = self._tracker.phase
            self._tracker.update(snapshot)
            if self._tracker.phase != before:
                self._new_phase.set()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._view, refresh_per_second=2, transient=True)
            self._live.start(refresh=True)
        else:
            self._lines = threading.Thread(target=self._write_lines, name="progress", daemon=True)
            self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._new_phase.set()
        if self._live is not None:
            self._live.stop()
        if self._lines is not None:
            self._lines.join()
        if self._last_line:
            self._write("recognized" if kind is None else "interrupted")

    def _write_lines(self) -> None:
        """Writes a line at every new phase, and after the interval."""
        until_s = time.monotonic() + FIRST_LINES_S
        while True:
            early = time.monotonic() < until_s
            self._new_phase.wait(min(self._line_every_s, FIRST_LINE_EVERY_S) if early else self._line_every_s)
            self._new_phase.clear()
            if self._ended.is_set():
                return
            self._write("progress")

    def _write(self, label: str) -> None:
        state = self._state()
        if isinstance(self._console, JsonConsole):
            self._console.emit(label, "warning" if label == "interrupted" else "info", **_rounded(state))
        else:
            current = [_describe_eta(state), _describe_recognizers(state)] if label == "progress" else []
            begin = [state.phase] if label == "progress" else []
            log_field(label, ", ".join(filter(None, [*begin, *_describe(state), *current])), self._console)

    def _state(self) -> ProgressState:
        with self._lock:
            return self._tracker.state()

    def _view(self) -> Group:
        state = self._state()
        bars = Table.grid(padding=(0, 2, 0, 0))
        done, of = state.num_done, state.num_recordings
        bars.add_row("recordings", _bar(done, of), f"{done:,} of {of:,}")
        bars.add_row("audio", _bar(state.audio_s + state.in_progress_s, state.expected_audio_s), _audio(state))
        return Group(
            bars,
            Text(f"{state.phase}, {_describe_speed(state)}, {_describe_eta(state)}"),
            Text(", ".join(filter(None, [_describe_recognizers(state), _describe_text(state)]))),
        )


def _describe(state: ProgressState) -> list[str]:
    return [
        f"{state.num_done:,} of {state.num_recordings:,} recordings",
        f"{_audio(state)} of audio",
        _describe_speed(state),
        _describe_text(state),
    ]


def _describe_speed(state: ProgressState) -> str:
    return f"elapsed {format_elapsed(state.wall_s)}, RTFx {state.rtfx_now:,.1f} now, {state.rtfx_mean:,.1f} mean"


def _describe_recognizers(state: ProgressState) -> str:
    alive, requested = state.recognizers_alive, state.recognizers_requested
    if alive is None or requested is None:
        return ""
    return f"workers {alive:,}/{requested:,}"


def _describe_text(state: ProgressState) -> str:
    words = f"WER so far {100 * state.wer:.2f} %, " if state.wer is not None else ""
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in state.failures_by_kind.items())
    words += f"failed {state.num_failed:,}" + (f" ({kinds})" if kinds else "")
    return words + (f", tasks with errors {state.num_task_errors:,}" if state.num_task_errors else "")


def _describe_eta(state: ProgressState) -> str:
    return "ETA unknown" if state.eta_s is None else f"ETA {format_elapsed(state.eta_s)}"


def _bar(done: float, total: float) -> ProgressBar:
    return ProgressBar(total=max(total, 1e-9), completed=done, width=BAR_CELLS)


def _audio(state: ProgressState) -> str:
    """Returns the processed and the expected audio, in hours or minutes."""
    divisor, unit, digits = (3600, "h", 2) if state.expected_audio_s >= 3600 else (60, "min", 1)
    done, total = (state.audio_s + state.in_progress_s) / divisor, state.expected_audio_s / divisor
    return f"{done:,.{digits}f} of {total:,.{digits}f} {unit}"


def _rounded(state: ProgressState) -> dict[str, Any]:
    return {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in asdict(state).items()}
