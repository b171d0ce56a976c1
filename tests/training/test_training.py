"""A training's verdict, name and beginning: what it takes over, and what it leaves as a person has it."""

import shutil
from pathlib import Path
from typing import Any

from distil_ray.assistants import put_current, read_current, record_uri, student_uri
from distil_ray.storage import Storage
from distil_ray.training import training
from distil_ray.training.lessons import Lessons
from distil_ray.training.outcome import Outcome
from tests.training.made import MAIN, current_of, run_of


def _decided(folder: Path, name: str, compared_with: str | None, speed_up: float = 2.0) -> Outcome:
    """What becomes of a student whose report lies there, beside what is in use at a folder of assistants."""
    worth = {"name": "new", "agreement": 0.8, "tokens_per_pass": {"4": 2.5}, "speed_up": speed_up}
    figures: dict[str, Any] = {"assistants": [worth], "compared_with": compared_with}
    run, current = run_of(f"assistant.uri={folder}"), read_current(str(folder), Storage())
    return training._decide(run, name, Lessons(), current, figures)


def _in_use(folder: Path) -> str | None:
    current = read_current(str(folder), Storage())
    return current.training if current is not None else None


def test_a_student_that_was_compared_with_another_takes_no_place(tmp_path: Path) -> None:
    put_current(str(tmp_path), current_of("better", MAIN), None, Storage())

    stale = _decided(tmp_path, "older", None)  # was better than none, when there was none
    assert not stale.replaced and "compared with none" in stale.reason and _in_use(tmp_path) == "better"
    assert "training.json the same command trains and compares it anew" in stale.reason

    assert _decided(tmp_path, "older", student_uri(str(tmp_path), "better")).replaced
    assert _in_use(tmp_path) == "older"


def test_going_back_by_hand_is_not_undone_by_the_same_command(tmp_path: Path) -> None:
    current = tmp_path / "current.json"
    assert _decided(tmp_path, "first", None).replaced
    beside_first = student_uri(str(tmp_path), "first")
    assert _decided(tmp_path, "second", beside_first).replaced

    shutil.copy(record_uri(str(tmp_path), "first"), current)
    again = _decided(tmp_path, "second", beside_first)
    assert not again.replaced and "it was in use before" in again.reason and _in_use(tmp_path) == "first"

    current.unlink()  # not even where there is none any more
    assert not _decided(tmp_path, "first", None).replaced and _in_use(tmp_path) is None
