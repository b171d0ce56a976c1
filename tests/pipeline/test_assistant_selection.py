"""Selection of the assistant of a run, and atomic replacement of the current one."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import SettingsError
from distil_ray.pipeline.assistant_selection import read_current_assistant, replace_current_assistant, select_assistant
from distil_ray.storage.storage import Storage
from distil_ray.whisper.checkpoint import CheckpointInfo, load_checkpoint_info
from tests.assistant_training.factories import make_current_assistant


@pytest.fixture
def main(whisper_tiny_en: Path) -> CheckpointInfo:
    return load_checkpoint_info(str(whisper_tiny_en))


def _select(folder: Path, main: CheckpointInfo, *words: str) -> tuple[str | None, str]:
    """Returns the assistant that a run selects, and the console output."""
    console = Console(file=io.StringIO(), width=200)
    config = load_config(None, [f"assistant.uri={folder}", f"model.name={main.name}", *words])
    assistant = select_assistant(config, main.identity, console).model.assistant
    return assistant, console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_selects_the_current_assistant_and_logs_it(tmp_path: Path, main: CheckpointInfo) -> None:
    storage, uri = Storage(), str(tmp_path)
    assert _select(tmp_path, main)[0] is None
    assert _select(tmp_path, main, "model.assistant=other")[0] == "other"

    first = make_current_assistant("first", main.identity)
    assert replace_current_assistant(uri, first, None, storage)
    assert _select(tmp_path, main, "model.assistant=other")[0] == f"{tmp_path}/students/first"
    assert _select(tmp_path, main, "decoding.speculative=off") == (None, "")

    assert not replace_current_assistant(
        uri, make_current_assistant("late", main.identity), None, storage
    )  # there is one already
    assert replace_current_assistant(uri, make_current_assistant("second", main.identity), first, storage)
    assert not replace_current_assistant(uri, make_current_assistant("third", main.identity), first, storage)
    assert _select(tmp_path, main)[0] == f"{tmp_path}/students/second"


def test_an_assistant_of_another_model_is_not_selected(tmp_path: Path, main: CheckpointInfo) -> None:
    replace_current_assistant(str(tmp_path), make_current_assistant("x", "sha256:other"), None, Storage())

    assistant, log = _select(tmp_path, main)
    assert assistant is None and "was trained for main (sha256:other)" in log
    with pytest.raises(SettingsError, match=r"decoding\.speculative=on"):
        _select(tmp_path, main, "decoding.speculative=on")


def test_an_invalid_current_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "current.json").write_text('{"training": 1')
    with pytest.raises(SettingsError, match=r"current.json"):
        read_current_assistant(str(tmp_path), Storage())
