"""How a run goes, while it goes: recordings, audio, RTFx, WER so far, failures, recognizers, time left.

In a terminal it is a live view that moves between receipts too; elsewhere a plain line now and then, or a line of JSON
(json_lines.py); at the end one line in all of them. What is counted is totals.py's. While it is shown, standard error
is watched (noise.py), because one line that Ray writes into the view tears it.
"""

import threading
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distil_ray.cli.console import say
from distil_ray.cli.json_console import JsonConsole
from distil_ray.pipeline.progress_tracker import Figures, Totals
from distil_ray.pipeline.stall_detector import Snapshot

LINE_EVERY_S = 30.0  # seconds between plain lines, and between lines of JSON
BAR_CELLS = 40
DIGITS = 4  # behind the point, of seconds and rates in lines of JSON


class Progress:
    """A context manager: `add` every receipt inside it, `see` what the executor shows.

    `line_every_s`: seconds between lines where `console` is no terminal.
    """

    def __init__(self, totals: Totals, console: Console, line_every_s: float = LINE_EVERY_S) -> None:
        self._console = console
        self._line_every_s = line_every_s
        self._totals = totals
        self._lock = threading.Lock()  # receipts come from the caller's thread, refreshes from another
        self._ended = threading.Event()
        self._live: Live | None = None
        self._lines: threading.Thread | None = None

    def add(self, receipt: Mapping[str, Any]) -> None:
        """Counts a receipt: a row of RECEIPT as a dict."""
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
            say(label, ", ".join(filter(None, [*_describe(figures), *passing])), self._console)

    def _figures(self) -> Figures:
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


def _describe(figures: Figures) -> list[str]:
    return [
        f"{figures.num_done:,} of {figures.num_recordings:,} recordings",
        f"{_audio(figures)} of audio",
        _describe_speed(figures),
        _describe_text(figures),
    ]


def _describe_speed(figures: Figures) -> str:
    return f"{_duration(figures.wall_s)} gone, RTFx {figures.rtfx_now:,.1f} now, {figures.rtfx_mean:,.1f} mean"


def _describe_recognizers(figures: Figures) -> str:
    """Fewer alive than wanted: they load their models, or are gone."""
    alive, wanted = figures.recognizers_alive, figures.recognizers_wanted
    if alive is None or wanted is None:
        return ""
    return f"{alive:,} of {wanted:,} recognizer{'s' * (wanted != 1)} alive"


def _describe_text(figures: Figures) -> str:
    words = f"WER so far {100 * figures.wer:.2f} %, " if figures.wer is not None else ""
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in figures.failures_by_kind.items())
    words += f"failed {figures.num_failed:,}" + (f" ({kinds})" if kinds else "")
    return words + (f", tasks with errors {figures.num_task_errors:,}" if figures.num_task_errors else "")


def _describe_rest(figures: Figures) -> str:
    return "time left unknown yet" if figures.left_s is None else f"{_duration(figures.left_s)} left"


def _bar(done: float, total: float) -> ProgressBar:
    return ProgressBar(total=max(total, 1e-9), completed=done, width=BAR_CELLS)


def _audio(figures: Figures) -> str:
    """What is done of what is expected, in the unit that suits the whole."""
    divisor, unit, digits = (3600, "h", 2) if figures.expected_audio_s >= 3600 else (60, "min", 1)
    done, total = figures.audio_s / divisor, figures.expected_audio_s / divisor
    return f"{done:,.{digits}f} of {total:,.{digits}f} {unit}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _rounded(figures: Figures) -> dict[str, Any]:
    return {
        name: round(value, DIGITS) if isinstance(value, float) else value for name, value in asdict(figures).items()
    }
