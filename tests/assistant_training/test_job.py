"""Trainings from transcripts to the current assistant: end to end, resumed, and which student is used."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from distil_ray.assistant_training import job, ray_train
from distil_ray.assistant_training.audio import decode_training_audio, selections_to_table
from distil_ray.assistant_training.job import (
    TrainingResult,
    compare_assistants,
    show_training_plan,
    train_assistant,
)
from distil_ray.assistant_training.training_examples import TrainingData
from distil_ray.assistant_training.worker import TrainingSpec, WorkerGroup, train
from distil_ray.config import AssistantConfig, Config
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.pipeline import runner
from distil_ray.pipeline.assistant_selection import (
    CurrentAssistant,
    read_current_assistant,
    record_uri,
    replace_current_assistant,
    student_uri,
)
from distil_ray.storage.storage import Storage
from tests.assistant_training.factories import MAIN, make_current_assistant, make_run
from tests.support.clips import manifest_rows
from tests.support.transcripts import stored_rows
from tests.support.without_ray import run_stages_in_process

ROOT = Path(__file__).resolve().parents[2]
SHORT_CLIPS = ("cards-001", "cards-003", "cards-005", "austen-0880-8khz", "austen-0930", "austen-0890")
SPEAKERS = len(SHORT_CLIPS)  # s0 to s5, of whom only s1 is held out with share 0.3 and seed 2
TRAINING = (
    *("assistant.steps=10", "assistant.batch_audio_s=6", "assistant.min_audio_s=5", "assistant.min_gain=1"),
    *("assistant.hold_out_by=speaker", "assistant.held_out_share=0.3", "assistant.seed=2"),
    "assistant.compare_by=tokens",
)


def _console() -> Console:
    return Console(file=io.StringIO(), width=200)


def _words(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def common(whisper_tiny_en: Path, tmp_path: Path) -> list[str]:
    """Returns settings of a run over a few clips with speakers."""
    rows = manifest_rows(*SHORT_CLIPS)
    rows_with_speakers = [row | {"speaker": f"s{number}"} for number, row in enumerate(rows)]
    path = tmp_path / "clips.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows_with_speakers))
    words = [
        f"input.uri={path}",
        "input.allow_external_paths=true",
        f"model.name={whisper_tiny_en}",
        "model.dtype=float32",
    ]
    return [*words, f"model.cache_dir={tmp_path}/cache", "decoding.batch_size=2", "report.write=false"]


def _fit_here(assignment: TrainingSpec, data: TrainingData, on_status: ray_train.OnStatus) -> None:
    """Trains in this process in place of a cluster."""
    config = assignment.run.config
    audio_rows, held_out = (
        partial(decode_training_audio, selections_to_table(selections), config)
        for selections in (data.train, data.held_out)
    )
    train(
        assignment, audio_rows, held_out, WorkerGroup(on_status=on_status, report=lambda figures, _: on_status(figures))
    )


def test_a_trained_assistant_becomes_the_current_one_and_does_not_change_texts(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages_in_process(monkeypatch)
    monkeypatch.setattr(ray_train, "train_on_cluster", _fit_here)
    assistants = f"{tmp_path}/assistants"

    def settings(output: str, *words: str) -> Config:
        where = [f"output.uri={tmp_path}/{output}", f"assistant.uri={assistants}"]
        return load_config(None, [*common, *where, *words])

    assert runner.transcribe(settings("alone", "decoding.speculative=off"), _console()) == ExitCode.DONE
    console = _console()
    assert show_training_plan(settings("alone", *TRAINING), console) == ExitCode.DONE
    assert "work           10 steps" in _words(console) and not Path(assistants).exists()

    console = _console()
    assert train_assistant(settings("alone", *TRAINING), console) == ExitCode.DONE, _words(console)

    current = read_current_assistant(assistants, Storage())
    assert current is not None and current.held_out["by"] == "speaker", _words(console)
    report = json.loads(Path(student_uri(assistants, current.training), "training.json").read_text())
    assert report["held_out"]["num_chunks"] == 1 and report["training"]["step"] == 10
    assert report["words"]["wer_to_main"] is not None and report["words"]["main_wer"] is not None
    assert not list(Storage().list_files(f"{assistants}/trainings"))  # checkpoints are deleted

    console = _console()
    assert train_assistant(settings("alone", *TRAINING), console) == ExitCode.DONE
    assert "already done" in _words(console) and "it is already in use" in _words(console)

    console = _console()
    assert runner.transcribe(settings("drafted", "decoding.speculative=on"), console) == ExitCode.DONE
    assert f"{current.training}, trained at" in _words(console)
    alone, drafted = (stored_rows(tmp_path / name) for name in ("alone", "drafted"))
    for mine, its in zip(alone, drafted, strict=True):
        assert [one["tokens"] for one in mine["chunks"]] == [one["tokens"] for one in its["chunks"]]
        assert mine["acceptance_rate"] is None and its["acceptance_rate"] is not None


def _has_checkpoint(assistants: str) -> bool:
    """Returns whether a checkpoint is complete: figures are printed while it is still being uploaded."""
    return any(each.uri.endswith("checkpoint_manager_snapshot.json") for each in Storage().list_files(assistants))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_training_in_a_bucket_resumes_from_its_checkpoint(
    common: list[str], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages_in_process(monkeypatch)
    where = [f"output.uri={bucket}/out", f"assistant.uri={bucket}/assistants"]
    assert runner.transcribe(load_config(None, [*common, *where]), _console()) == ExitCode.DONE
    slow = [*TRAINING, "assistant.steps=40", "assistant.eval_interval_s=4"]
    command = [sys.executable, "jobs/train_assistant.py", *common, *where, *slow]

    log = tmp_path / "killed.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
        while not _has_checkpoint(f"{bucket}/assistants") and process.poll() is None:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, log.read_text()

    again = subprocess.run([*command, "--force"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert again.returncode == ExitCode.DONE, again.stdout + again.stderr
    assert re.search(r"resumed at step [1-9]\d*", again.stdout), again.stdout
    current = read_current_assistant(f"{bucket}/assistants", Storage())
    assert current is not None
    report = json.loads(Storage().read(f"{student_uri(f'{bucket}/assistants', current.training)}/training.json"))
    assert report["training"]["step"] == 40


def _replace(folder: Path, name: str, compared_with: str | None, speed_up: float = 2.0) -> TrainingResult:
    """Returns the result of a training with this report in a folder of assistants."""
    metrics = {"name": "new", "agreement": 0.8, "tokens_per_pass": {"4": 2.5}, "speed_up": speed_up}
    figures: dict[str, Any] = {"assistants": [metrics], "compared_with": compared_with, "layers": 4}
    run, current = make_run(f"assistant.uri={folder}"), read_current_assistant(str(folder), Storage())
    return job._replace_if_better(run, name, TrainingData(), current, figures)


def _in_use(folder: Path) -> str | None:
    current = read_current_assistant(str(folder), Storage())
    return current.training if current is not None else None


def test_a_student_that_was_compared_with_another_one_is_not_used(tmp_path: Path) -> None:
    replace_current_assistant(str(tmp_path), make_current_assistant("better", MAIN), None, Storage())

    stale = _replace(tmp_path, "older", None)  # compared when there was no assistant
    assert not stale.replaced and "compared with none" in stale.reason and _in_use(tmp_path) == "better"

    assert _replace(tmp_path, "older", student_uri(str(tmp_path), "better")).replaced
    current = read_current_assistant(str(tmp_path), Storage())
    assert current is not None and (current.training, current.layers) == ("older", 4)  # as in its report


def test_restoring_an_older_assistant_by_hand_is_not_undone_by_the_same_command(tmp_path: Path) -> None:
    current = tmp_path / "current.json"
    assert _replace(tmp_path, "first", None).replaced
    first_uri = student_uri(str(tmp_path), "first")
    assert _replace(tmp_path, "second", first_uri).replaced

    shutil.copy(record_uri(str(tmp_path), "first"), current)
    again = _replace(tmp_path, "second", first_uri)
    assert not again.replaced and "it was in use before" in again.reason and _in_use(tmp_path) == "first"

    current.unlink()  # also if there is no current assistant any more
    assert not _replace(tmp_path, "first", None).replaced and _in_use(tmp_path) is None


def _initial_training(current: CurrentAssistant | None, by: str, *words: str) -> str | None:
    """Returns the name of the training whose student is the initial one; None for layers of the main model."""
    found = job._initial_student(make_run("assistant.uri=/assistants", *words), TrainingData(hold_out_by=by), current)
    return found.rsplit("/", 1)[-1] if found else None


LABELS = "assistant.labels_uri=/labels"
OTHER_HELD_OUT = "the current assistant was trained with other held-out data"
OF_LABELS = make_current_assistant("x", MAIN, by="split", labels_uri="/labels")


@pytest.mark.parametrize(
    ("current", "by", "words", "reason"),
    [
        (None, "recording", (), "there is no current assistant"),
        (make_current_assistant("x", "sha256:other"), "recording", (), "the current assistant belongs to"),
        (make_current_assistant("x", MAIN), "speaker", (), OTHER_HELD_OUT),
        (make_current_assistant("x", MAIN, seed=1), "recording", (), OTHER_HELD_OUT),
        (make_current_assistant("x", MAIN), "split", (LABELS,), OTHER_HELD_OUT),  # transcripts, then labels
        (OF_LABELS, "recording", (), OTHER_HELD_OUT),  # labels, then transcripts
        (OF_LABELS, "split", ("assistant.labels_uri=/other",), OTHER_HELD_OUT),
        (make_current_assistant("x", MAIN, layers=4), "recording", (), "the current assistant has 4 layers"),
    ],
)
def test_an_unsuitable_student_is_not_the_initial_one(
    current: CurrentAssistant | None, by: str, words: tuple[str, ...], reason: str
) -> None:
    assert _initial_training(current, by, *words) is None
    with pytest.raises(SettingsError, match=f"assistant.init_from=current: {reason}"):
        _initial_training(current, by, "assistant.init_from=current", *words)


def test_a_student_with_the_same_held_out_data_is_the_initial_one() -> None:
    assert _initial_training(make_current_assistant("x", MAIN), "recording") == "x"
    assert _initial_training(OF_LABELS, "split", LABELS) == "x"
    assert _initial_training(make_current_assistant("x", MAIN), "recording", "assistant.init_from=main") is None


def test_the_unit_of_held_out_data_is_kept_if_the_settings_are_the_same() -> None:
    def earlier_unit(held_out_by: str, *words: str) -> str | None:
        return job._held_out_before(
            make_current_assistant("x", MAIN, by=held_out_by), make_run(*words).config.assistant
        )

    assert earlier_unit("speaker") == "speaker" and earlier_unit("recording") == "recording"
    assert earlier_unit("split") is None and earlier_unit("speaker", "assistant.hold_out_by=recording") is None
    assert earlier_unit("speaker", "assistant.seed=1") is None


def test_the_name_of_a_training_depends_on_initial_weights_and_windows() -> None:
    weights = [f"assistant.init_from={choice}" for choice in ("auto", "main", "current")]
    windows = [f"chunking.window={window}" for window in ("auto", "gated", "full")]
    names = [job._training_name(make_run(words), TrainingData()) for words in (*weights, *windows)]

    assert len(set(names[:3])) == 3
    assert names[0] == names[3] == names[4] != names[5]  # auto is gated


@given(st.floats(0.5, 4), st.none() | st.floats(0.5, 4), st.floats(1, 1.2))
def test_a_new_assistant_must_beat_the_current_one_and_none(new: float, old: float | None, gain: float) -> None:
    metrics: list[dict[str, Any]] = [{"speed_up": value} for value in (new, old) if value is not None]
    is_better, reason = compare_assistants(metrics, AssistantConfig(min_gain=gain))

    assert is_better == (new >= gain and new >= gain * (old or 0))
    assert f"{new:.2f}" in reason


def test_a_missing_folder_of_assistants_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"assistant.uri is not set"):
        train_assistant(load_config(None, []), Console(file=io.StringIO()))
