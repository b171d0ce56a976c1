"""A training's verdict, name and beginning: what it takes over, and what it leaves as a person has it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from distil_ray.assistant_training import job
from distil_ray.assistant_training.job import TrainingResult
from distil_ray.assistant_training.training_examples import TrainingData
from distil_ray.errors import SettingsError
from distil_ray.pipeline.assistant_selection import (
    CurrentAssistant,
    read_current_assistant,
    record_uri,
    replace_current_assistant,
    student_uri,
)
from distil_ray.storage.storage import Storage
from tests.assistant_training.made import MAIN, current_of, run_of


def _decided(folder: Path, name: str, compared_with: str | None, speed_up: float = 2.0) -> TrainingResult:
    """What becomes of a student whose report lies there, beside what is in use at a folder of assistants."""
    worth = {"name": "new", "agreement": 0.8, "tokens_per_pass": {"4": 2.5}, "speed_up": speed_up}
    figures: dict[str, Any] = {"assistants": [worth], "compared_with": compared_with, "layers": 4}
    run, current = run_of(f"assistant.uri={folder}"), read_current_assistant(str(folder), Storage())
    return job._replace_if_better(run, name, TrainingData(), current, figures)


def _in_use(folder: Path) -> str | None:
    current = read_current_assistant(str(folder), Storage())
    return current.training if current is not None else None


def test_a_student_that_was_compared_with_another_takes_no_place(tmp_path: Path) -> None:
    replace_current_assistant(str(tmp_path), current_of("better", MAIN), None, Storage())

    stale = _decided(tmp_path, "older", None)  # was better than none, when there was none
    assert not stale.replaced and "compared with none" in stale.reason and _in_use(tmp_path) == "better"
    assert "training.json the same command trains and compares it anew" in stale.reason

    assert _decided(tmp_path, "older", student_uri(str(tmp_path), "better")).replaced
    current = read_current_assistant(str(tmp_path), Storage())
    assert current is not None and (current.training, current.layers) == ("older", 4)  # as many as it really has


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


def _begins_with(current: CurrentAssistant | None, by: str, *words: str) -> str | None:
    """The training whose student is gone on from, where this is held out."""
    found = job._initial_student(run_of("assistant.uri=/kept", *words), TrainingData(hold_out_by=by), current)
    return found.rsplit("/", 1)[-1] if found else None


LABELS = "assistant.labels_uri=/labels"
OF_LABELS = current_of("x", MAIN, by="split", labels_uri="/labels")


@pytest.mark.parametrize(
    ("current", "by", "words", "why"),
    [
        (None, "recording", (), "there is none"),
        (current_of("x", "sha256:other"), "recording", (), "it is another model's"),
        (current_of("x", MAIN), "speaker", (), "it held out others"),
        (current_of("x", MAIN, seed=1), "recording", (), "it held out others"),
        (current_of("x", MAIN), "split", (LABELS,), "it held out others"),  # transcripts, then labels
        (OF_LABELS, "recording", (), "it held out others"),  # labels, then transcripts
        (OF_LABELS, "split", ("assistant.labels_uri=/other",), "it held out others"),
        (current_of("x", MAIN, layers=4), "recording", (), "it has 4 layers, not assistant.layers=2"),
    ],
)
def test_nothing_begins_with_a_student_that_does_not_suit(
    current: CurrentAssistant | None, by: str, words: tuple[str, ...], why: str
) -> None:
    assert _begins_with(current, by, *words) is None
    with pytest.raises(SettingsError, match=f"assistant.init_from=current: {why}"):
        _begins_with(current, by, "assistant.init_from=current", *words)


def test_a_training_goes_on_from_a_student_that_has_not_heard_what_is_held_out() -> None:
    assert _begins_with(current_of("x", MAIN), "recording") == "x"
    assert _begins_with(OF_LABELS, "split", LABELS) == "x"
    assert _begins_with(current_of("x", MAIN), "recording", "assistant.init_from=main") is None


def test_only_what_a_hash_has_held_out_is_held_out_so_again() -> None:
    def before(held_out_by: str, *words: str) -> str | None:
        return job._held_out_before(current_of("x", MAIN, by=held_out_by), run_of(*words).config.assistant)

    assert before("speaker") == "speaker" and before("recording") == "recording"
    assert before("split") is None and before("speaker", "assistant.hold_out_by=recording") is None
    assert before("speaker", "assistant.seed=1") is None


def test_a_training_is_named_by_what_it_begins_with_and_the_windows_that_it_hears() -> None:
    begins = [f"assistant.init_from={begin}" for begin in ("auto", "main", "current")]
    windows = [f"chunking.window={window}" for window in ("auto", "gated", "full")]
    names = [job._training_name(run_of(words), TrainingData()) for words in (*begins, *windows)]

    assert len(set(names[:3])) == 3
    assert names[0] == names[3] == names[4] != names[5]  # auto is gated here
