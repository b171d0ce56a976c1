"""While a run goes, a terminal shows a live view, a log gets a line now and then, and both end with one line."""

import io
import json
import time
from dataclasses import replace
from typing import Any

from rich.console import Console

from distil_ray.cli.console import JsonConsole
from distil_ray.pipeline.progress import Progress, ProgressTracker
from distil_ray.pipeline.ray_monitor import Snapshot
from distil_ray.pipeline.worker_state import WorkerPhase, WorkerState
from distil_ray.schema import COMMIT_RESULT


def receipt(task: str = "a", audio_s: float | None = 60.0, **rest: Any) -> dict[str, Any]:
    """A row of COMMIT_RESULT as the pipeline hands it over; null wherever nothing is said."""
    row: dict[str, Any] = dict.fromkeys(COMMIT_RESULT.names)
    return (
        row
        | {"task_id": task, "part_index": 0, "committed": True, "already_committed": False, "audio_s": audio_s}
        | rest
    )


def counted(**rest: Any) -> dict[str, Any]:
    scores = {"num_ref_words": 100, "substitutions": 6, "deletions": 3, "insertions": 1}
    return {"num_recordings": 4, "num_failed": 0, "failures_by_kind": [], **scores, **rest}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plain() -> Console:
    return Console(file=io.StringIO(), width=300)


def terminal() -> Console:
    return Console(file=io.StringIO(), width=140, force_terminal=True, color_system=None, legacy_windows=False)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def wait_for(console: Console, words: str) -> None:
    deadline = time.monotonic() + 20
    while words not in text(console) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert words in text(console)


def test_the_last_line_reports_the_result() -> None:
    console, clock = plain(), Clock()
    with Progress(ProgressTracker(8, 240.0, clock=clock), console) as progress:
        clock.now += 20
        progress.add(receipt("a", **counted()))
        progress.add(receipt("b", **counted(num_failed=3, failures_by_kind=[("not_audio", 2), ("not_found", 1)])))
    assert text(console) == (
        "recognized     8 of 8 recordings, 2.0 of 4.0 min of audio, elapsed 0:00:20, RTFx 6.0 now, 6.0 mean,"
        " WER so far 10.00 %, failed 3 (not_audio 2, not_found 1)\n"
    )


def test_a_log_gets_a_line_even_while_no_receipt_comes() -> None:
    console = plain()
    with Progress(ProgressTracker(10, 600.0), console, line_every_s=0.02):
        wait_for(console, "0 of 10 recordings")
        wait_for(console, "ETA unknown")
    assert text(console).splitlines()[-1].startswith("recognized     0 of 10")


def test_a_quick_run_writes_no_lines_but_the_last() -> None:
    console = plain()
    with Progress(ProgressTracker(4, 60.0), console) as progress:
        for _ in range(50):
            progress.add(receipt(**counted()))
    assert len(text(console).splitlines()) == 1


def test_a_terminal_shows_a_view_that_moves_by_itself() -> None:
    console, clock = terminal(), Clock()
    with Progress(ProgressTracker(8, 7200.0, clock=clock), console) as progress:
        progress.add(receipt("a", audio_s=3600.0, **counted()))
        wait_for(console, "4 of 8")
        wait_for(console, "1.00 of 2.00 h")
        wait_for(console, "WER so far 10.00 %, failed 0")
        clock.now += 77
        wait_for(console, "elapsed 0:01:17")
    assert "recognized     4 of 8 recordings" in text(console).splitlines()[-1]


def test_the_time_left_follows_the_speed_since_the_first_part_of_a_recognizer() -> None:
    console, clock = plain(), Clock()
    with Progress(ProgressTracker(8, 1000.0, clock=clock), console, line_every_s=0.02) as progress:
        clock.now += 500  # models are loaded
        progress.add(receipt("a", audio_s=100.0, **counted()))
        clock.now += 10
        progress.add(receipt("b", audio_s=100.0, **counted()))
        wait_for(console, "ETA 0:01:20")  # 800 s at 10 audio seconds a second


def test_the_time_left_is_unknown_until_each_recognizer_has_done_a_part_and_then_near_the_truth() -> None:
    clock, recognizers, parts, part_s, loading_s = Clock(), 8, 20, 200, 60
    tracker = ProgressTracker(1600, 600.0 * recognizers * parts, recognizers=recognizers, clock=clock)
    comes = {(loading_s + k + part_s * (j + 1)): 600.0 for k in range(recognizers) for j in range(parts)}
    end_s, begun = max(comes), clock.now
    guesses = {}
    for gone_s in range(end_s - 1):
        clock.now = begun + gone_s
        if gone_s in comes:
            tracker.add(receipt(audio_s=comes[gone_s]))
        guesses[gone_s] = tracker.state().eta_s

    first_wave_s = loading_s + part_s + recognizers - 1
    assert {guesses[gone_s] for gone_s in range(first_wave_s)} == {None}
    off = [(guesses[gone_s] or 0.0) / (end_s - gone_s) for gone_s in range(first_wave_s, end_s - part_s)]
    assert min(off) > 0.8
    assert max(off) < 2.5
    later = range(end_s // 2, end_s - 1)
    assert max(abs((guesses[gone_s] or 0.0) - (end_s - gone_s)) for gone_s in later) < 2.5 * part_s


def test_estimates_of_the_rest_are_corrected_by_what_was_found() -> None:
    console, clock = terminal(), Clock()
    estimates = {"a": 3600.0, "b": 3600.0, "c": 7200.0}
    with Progress(ProgressTracker(12, 14400.0, estimates, clock=clock), console) as progress:
        wait_for(console, "0.00 of 4.00 h")
        progress.add(receipt("a", audio_s=900.0, committed=False))
        wait_for(console, "0.25 of 4.00 h")
        progress.add(receipt("a", audio_s=900.0, **counted()))  # half of what was estimated
        wait_for(console, "0.50 of 2.00 h")


def test_a_task_that_was_there_already_and_one_with_an_error_are_reported() -> None:
    console = plain()
    with Progress(ProgressTracker(4, 60.0), console) as progress:
        progress.add(receipt("a", audio_s=None, committed=False, already_committed=True))
        progress.add(receipt("b", committed=False, error="RunError: its parts do not fit together"))
    assert "tasks with errors 1" in text(console)


def test_a_run_that_breaks_off_says_so() -> None:
    console = plain()
    try:
        with Progress(ProgressTracker(4, 60.0), console):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert text(console).startswith("interrupted    0 of 4 recordings")


def snapshot(alive: int, *, draining: bool = False) -> Snapshot:
    return Snapshot((), 1, 0, 1, alive, 0, 0, draining, "Ray on 1 node")


def test_the_number_of_recognizers_is_shown_until_ray_stops_idle_ones() -> None:
    console = plain()
    with Progress(ProgressTracker(4, 60.0, recognizers=3), console, line_every_s=0.02) as progress:
        progress.update(snapshot(2))
        wait_for(console, ", workers 2/3")
        progress.add(receipt() | {"actors_alive": 3})
        progress.update(snapshot(0, draining=True))
        wait_for(console, ", workers 3/3")
    assert "0/3" not in text(console)
    assert "workers" not in text(console).splitlines()[-1]


def transcribing(processed_s: float, *, alive: int = 1, draining: bool = False) -> Snapshot:
    worker = WorkerState(WorkerPhase.TRANSCRIBING, "a", 0, audio_s=60.0, processed_s=processed_s)
    return Snapshot((), 0, 0, 1, alive, 0, 0, draining, "Ray on 1 node", (worker,))


def test_a_run_of_one_part_counts_its_recognizer_and_the_audio_in_progress_and_has_an_eta() -> None:
    clock = Clock()
    tracker = ProgressTracker(2, 120.0, recognizers=1, clock=clock)
    assert tracker.state().phase == "starting recognizers"
    tracker.update(replace(snapshot(0), workers=(WorkerState(WorkerPhase.LOADING),)))
    assert tracker.state().phase == "loading the model"
    tracker.update(transcribing(0.0, draining=True))
    clock.now += 10
    tracker.update(transcribing(30.0, draining=True))

    state = tracker.state()
    assert (state.phase, state.recognizers_alive) == ("transcribing", 1)
    assert (state.audio_s, state.in_progress_s, state.rtfx_now, state.eta_s) == (0.0, 30.0, 3.0, 30.0)

    tracker.add(receipt("a", audio_s=60.0, **counted()))
    tracker.update(transcribing(55.0))  # a state that comes later than the result
    state = tracker.state()
    assert (state.audio_s, state.in_progress_s) == (60.0, 0.0)


def test_a_new_phase_is_a_line_at_once() -> None:
    console = plain()
    with Progress(ProgressTracker(4, 60.0, recognizers=1), console) as progress:
        progress.update(transcribing(12.0))
        wait_for(console, "transcribing, 0 of 4 recordings, 0.2 of 1.0 min of audio")


KEYS = {
    *("level", "phase", "in_progress_s"),
    *("time", "event", "num_recordings", "num_done", "num_failed", "failures_by_kind", "num_task_errors"),
    *("audio_s", "expected_audio_s", "wall_s", "rtfx_now", "rtfx_mean", "eta_s", "wer", "num_ref_words"),
    *("recognizers_alive", "recognizers_requested"),
}


def test_lines_of_json_have_the_same_keys_from_the_first_to_the_last() -> None:
    console = JsonConsole(io.StringIO())
    with Progress(ProgressTracker(4, 60.0, recognizers=1), console, line_every_s=0.02) as progress:
        wait_for(console, "progress")
        progress.update(snapshot(1))
        progress.add(receipt(**counted(num_failed=1, failures_by_kind=[("corrupt", 1)])))
    events = [json.loads(line) for line in text(console).splitlines()]
    assert [event["event"] for event in events][-1] == "recognized"
    assert {frozenset(event) for event in events} == {frozenset(KEYS)}
    assert (events[0]["wer"], events[0]["recognizers_alive"], events[0]["eta_s"]) == (None, None, None)
    assert (events[-1]["wer"], events[-1]["recognizers_alive"]) == (0.1, 1)
    assert events[-1]["failures_by_kind"] == {"corrupt": 1}
