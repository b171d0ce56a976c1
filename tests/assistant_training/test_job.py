"""The whole way: transcripts, a training, an assistant that drafts the same texts. In this process, and on Ray."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from distil_ray.assistant_training import ray_train
from distil_ray.assistant_training.audio import decode_training_audio, selections_to_table
from distil_ray.assistant_training.job import train_assistant
from distil_ray.assistant_training.training_examples import TrainingData
from distil_ray.assistant_training.worker import TrainingSpec, WorkerGroup, train
from distil_ray.config import Config
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode
from distil_ray.pipeline import runner
from distil_ray.pipeline.assistant_selection import read_current_assistant, student_uri
from distil_ray.storage.storage import Storage
from tests.support.clips import manifest_rows
from tests.support.transcripts import stored_rows
from tests.support.without_ray import run_stages_in_process

ROOT = Path(__file__).resolve().parents[2]
SHORT_CLIPS = ("cards-001", "cards-003", "cards-005", "austen-0880-8khz", "austen-0930", "austen-0890")
SPEAKERS = len(SHORT_CLIPS)  # s0 to s5, of whom s1 alone has a hash below 0.3 by seed 2
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
    """Settings of a few clips whose speakers are named."""
    rows = manifest_rows(*SHORT_CLIPS)
    told = [row | {"speaker": f"s{number}"} for number, row in enumerate(rows)]
    path = tmp_path / "clips.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in told))
    words = [
        f"input.uri={path}",
        "input.allow_external_paths=true",
        f"model.name={whisper_tiny_en}",
        "model.dtype=float32",
    ]
    return [*words, f"model.cache_dir={tmp_path}/cache", "decoding.batch_size=2", "report.write=false"]


def _fit_here(assignment: TrainingSpec, data: TrainingData, on_status: ray_train.OnStatus) -> None:
    """In the place of a cluster: one process, this one."""
    config = assignment.run.config
    audio_rows, held_out = (
        partial(decode_training_audio, selections_to_table(selections), config)
        for selections in (data.train, data.held_out)
    )
    train(
        assignment, audio_rows, held_out, WorkerGroup(on_status=on_status, report=lambda figures, _: on_status(figures))
    )


def test_an_assistant_is_trained_taken_into_use_and_drafts_the_same_texts(
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
    assert train_assistant(settings("alone", *TRAINING), console) == ExitCode.DONE, _words(console)

    current = read_current_assistant(assistants, Storage())
    assert current is not None and current.held_out["by"] == "speaker", _words(console)
    report = json.loads(Path(student_uri(assistants, current.training), "training.json").read_text())
    assert report["held_out"]["num_chunks"] == 1 and report["training"]["step"] == 10
    assert report["words"]["wer_to_main"] is not None and report["words"]["main_wer"] is not None
    assert not list(Storage().list_files(f"{assistants}/trainings"))  # checkpoints are of no more use

    console = _console()
    assert train_assistant(settings("alone", *TRAINING), console) == ExitCode.DONE
    assert "done already" in _words(console) and "it is in use already" in _words(console)

    console = _console()
    assert runner.transcribe(settings("drafted", "decoding.speculative=on"), console) == ExitCode.DONE
    assert f"{current.training}, trained at" in _words(console)
    alone, drafted = (stored_rows(tmp_path / name) for name in ("alone", "drafted"))
    for mine, its in zip(alone, drafted, strict=True):
        assert [one["tokens"] for one in mine["chunks"]] == [one["tokens"] for one in its["chunks"]]
        assert mine["acceptance_rate"] is None and its["acceptance_rate"] is not None


def _has_checkpoint(assistants: str) -> bool:
    """Whether a training has one to go on from: figures are told while it is still being uploaded."""
    return any(each.uri.endswith("checkpoint_manager_snapshot.json") for each in Storage().list_files(assistants))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_in_a_bucket_goes_on_where_it_was_killed(
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
    assert re.search(r"goes on at step [1-9]\d*", again.stdout), again.stdout
    current = read_current_assistant(f"{bucket}/assistants", Storage())
    assert current is not None
    report = json.loads(Storage().read(f"{student_uri(f'{bucket}/assistants', current.training)}/training.json"))
    assert report["training"]["step"] == 40
