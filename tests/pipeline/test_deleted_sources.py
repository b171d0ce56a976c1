"""Rows of recordings that the input no longer lists: kept, listed or removed by a run."""

import csv
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.evaluation.summary_table import deleted_sources_note
from distil_ray.pipeline import runner
from distil_ray.verify.verify import find_differences
from tests.support.fakes import EchoTranscribe
from tests.support.transcripts import stored_rows
from tests.support.without_ray import run_stages_in_process

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run over ``audio``, which has the recordings a to e at first; returns what it printed."""
    run_stages_in_process(monkeypatch)
    (tmp_path / "audio").mkdir()
    for number, name in enumerate("abcde"):
        noise = np.random.default_rng(number).integers(-3000, 3000, 2000 + number).astype(np.int16)
        soundfile.write(tmp_path / "audio" / f"{name}.wav", noise, 16_000)
    common = [f"input.uri={tmp_path}/audio", f"output.uri={tmp_path}/out", f"model.name={whisper_tiny_en}"]
    common += ["resources.actors=1", "report.write=false"]

    def do(run_id: str, *overrides: str) -> str:
        console = Console(file=io.StringIO(), width=200)
        runner.transcribe(load_config(None, [*common, f"run_id=run-{run_id}", *overrides]), console, EchoTranscribe)
        return str(console.file.getvalue())  # type: ignore[attr-defined]

    do("1")
    (tmp_path / "audio" / "a.wav").unlink()
    return do


def _ids(folder: Path) -> str:
    return "".join(row["recording_id"][0] for row in stored_rows(folder / "out"))


def _list(folder: Path, run_id: str) -> list[tuple[str, str]]:
    path = folder / "out" / "runs" / f"run-{run_id}" / "deleted_sources.csv"
    return [(row["recording_id"], row["action"]) for row in csv.DictReader(path.open())]


@pytest.mark.slow
def test_rows_of_deleted_sources_are_kept_listed_or_removed(run: Run, tmp_path: Path) -> None:
    words = run("2")
    assert "1 more recordings had rows and are not listed" in words
    assert _ids(tmp_path) == "abcde"
    assert not (tmp_path / "out/runs/run-2/deleted_sources.csv").exists()

    run("3", "output.deleted_sources=list")
    assert (_ids(tmp_path), _list(tmp_path, "3")) == ("abcde", [("a.wav", "kept")])

    words = run("4", "output.deleted_sources=remove")
    assert "more than output.max_deleted_fraction=0.1: they are kept" in words
    assert (_ids(tmp_path), _list(tmp_path, "4")) == ("abcde", [("a.wav", "kept")])

    run("5", "output.deleted_sources=remove", "retry_failed=true")
    assert _ids(tmp_path) == "abcde", "such a run does not list everything"

    run("6", "output.deleted_sources=remove", "output.max_deleted_fraction=0.5")
    assert (_ids(tmp_path), _list(tmp_path, "6")) == ("bcde", [("a.wav", "removed")])
    assert find_differences(load_config(None, [f"output.uri={tmp_path}/out"]), Console(file=io.StringIO())) == []

    assert "not listed" not in run("7", "output.deleted_sources=remove")


def test_rows_of_a_shard_that_cannot_be_read_are_kept(run: Run, tmp_path: Path) -> None:
    """Nobody knows whether their recordings were deleted. Those of other files are removed."""
    for name in "xyz":
        shutil.copy(tmp_path / "audio" / "b.wav", tmp_path / f"{name}.wav")
    shard = tmp_path / "audio" / "shard.tar"
    with tarfile.open(shard, "w") as file:
        for name in "xyz":
            file.add(tmp_path / f"{name}.wav", f"{name}.wav")
    run("2")
    before = {row["recording_id"] for row in stored_rows(tmp_path / "out")}
    assert {"a.wav", "shard.tar/x.wav", "shard.tar/z.wav"} <= before
    os.truncate(shard, 6_000)  # within the second member
    words = run("3", "output.deleted_sources=remove", "output.max_deleted_fraction=1")
    after = {row["recording_id"] for row in stored_rows(tmp_path / "out")}
    assert after == before - {"a.wav"} | {"shard.tar#rest"}
    assert "rows are kept, as their files could not be read" in words and "shard.tar" in words
    assert _list(tmp_path, "3") == [("a.wav", "removed")]


def test_the_note_is_empty_where_nothing_was_deleted() -> None:
    assert deleted_sources_note({"num_deleted_sources": 0}) == deleted_sources_note({}) == ""
