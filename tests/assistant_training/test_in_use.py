"""Which assistant a run takes, and when a new one takes its place."""

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from distil_ray.assistant_training.job import compare_assistants, train_assistant
from distil_ray.config import AssistantConfig
from distil_ray.config.loader import load_config
from distil_ray.errors import SettingsError
from distil_ray.pipeline.assistant_selection import read_current_assistant, replace_current_assistant, select_assistant
from distil_ray.storage.storage import Storage
from distil_ray.whisper.checkpoint import CheckpointInfo, load_checkpoint_info
from tests.assistant_training.made import current_of


@pytest.fixture
def main(whisper_tiny_en: Path) -> CheckpointInfo:
    return load_checkpoint_info(str(whisper_tiny_en))


def _taken(folder: Path, main: CheckpointInfo, *words: str) -> tuple[str | None, str]:
    """The assistant that a run takes, and what it says."""
    console = Console(file=io.StringIO(), width=200)
    config = load_config(None, [f"assistant.uri={folder}", f"model.name={main.name}", *words])
    taken = select_assistant(config, main.identity, console).model.assistant
    return taken, console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_takes_the_assistant_in_use_and_says_so(tmp_path: Path, main: CheckpointInfo) -> None:
    storage, uri = Storage(), str(tmp_path)
    assert _taken(tmp_path, main)[0] is None
    assert _taken(tmp_path, main, "model.assistant=other")[0] == "other"

    first = current_of("first", main.identity)
    assert replace_current_assistant(uri, first, None, storage)
    assert _taken(tmp_path, main, "model.assistant=other")[0] == f"{tmp_path}/students/first"
    assert _taken(tmp_path, main, "decoding.speculative=off") == (None, "")

    assert not replace_current_assistant(uri, current_of("late", main.identity), None, storage)  # another was first
    assert replace_current_assistant(uri, current_of("second", main.identity), first, storage)
    assert not replace_current_assistant(uri, current_of("third", main.identity), first, storage)
    assert _taken(tmp_path, main)[0] == f"{tmp_path}/students/second"


def test_an_assistant_of_another_model_drafts_for_nobody_else(tmp_path: Path, main: CheckpointInfo) -> None:
    replace_current_assistant(str(tmp_path), current_of("x", "sha256:other"), None, Storage())

    taken, words = _taken(tmp_path, main)
    assert taken is None and "was trained for main (sha256:other)" in words
    with pytest.raises(SettingsError, match=r"decoding\.speculative=on"):
        _taken(tmp_path, main, "decoding.speculative=on")


def test_a_current_file_that_says_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "current.json").write_text('{"training": 1')
    with pytest.raises(SettingsError, match=r"current.json"):
        read_current_assistant(str(tmp_path), Storage())


@given(st.floats(0.5, 4), st.none() | st.floats(0.5, 4), st.floats(1, 1.2))
def test_an_assistant_has_to_beat_the_one_in_use_and_none(new: float, old: float | None, gain: float) -> None:
    metrics: list[dict[str, Any]] = [{"speed_up": value} for value in (new, old) if value is not None]
    is_better, reason = compare_assistants(metrics, AssistantConfig(min_gain=gain))

    assert is_better == (new >= gain and new >= gain * (old or 0))
    assert f"{new:.2f}" in reason


def test_where_assistants_are_kept_has_to_be_told() -> None:
    with pytest.raises(SettingsError, match=r"assistant.uri is not set"):
        train_assistant(load_config(None, []), Console(file=io.StringIO()))
