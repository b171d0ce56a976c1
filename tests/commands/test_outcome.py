"""The outcome of a run: stored by the job itself, and returned as an exit code by `distil-ray outcome`."""

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGTERM

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from rich.console import Console

from distil_ray.cli import command, command_line
from distil_ray.cli.signals import Stopped
from distil_ray.commands.main import main
from distil_ray.config import Config
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, RunError
from distil_ray.output.lease import acquire_lease
from distil_ray.output.run_outcome import record_later_steps, write_running
from distil_ray.pipeline import runner
from distil_ray.report.run_folder import find_last_run
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE
from tests.support.fakes import EchoTranscribe
from tests.support.without_ray import run_stages_in_process

Transcribe = Callable[..., ExitCode]
Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def transcribe(tmp_path: Path, whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch) -> Transcribe:
    """transcribe(transcriber, override, …): one run over a recording and a broken file, without Ray."""
    run_stages_in_process(monkeypatch)
    (tmp_path / "audio").mkdir()
    noise = np.random.default_rng(0).integers(-3000, 3000, 2 * SAMPLE_RATE).astype(np.int16)
    soundfile.write(tmp_path / "audio" / "good.wav", noise, SAMPLE_RATE)
    (tmp_path / "audio" / "broken.wav").write_bytes(b"no audio")
    common = [f"input.uri={tmp_path / 'audio'}", f"output.uri={tmp_path / 'out'}", f"model.name={whisper_tiny_en}"]

    def run(transcriber: type = EchoTranscribe, *overrides: str) -> ExitCode:
        config: Config = load_config(None, [*common, "report.write=false", *overrides])
        return runner.transcribe(config, Console(file=io.StringIO()), transcriber)

    return run


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Ask]:
    """ask(word, …): exit code and output of `distil-ray outcome`."""
    monkeypatch.setattr(command_line, "handle_signals", lambda: None)
    monkeypatch.setattr(command, "set_up_logging", lambda _: None)

    def run(*words: str) -> tuple[int, str]:
        code = main(["outcome", f"output.uri={tmp_path / 'out'}", *words])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    yield run


class FailingTranscribe(EchoTranscribe):
    def __call__(self, parts: pa.Table) -> pa.Table:
        raise RunError("all recognizers are gone")


class StoppedTranscribe(EchoTranscribe):
    def __call__(self, parts: pa.Table) -> pa.Table:
        raise Stopped(SIGTERM)


def test_a_run_stores_its_exit_code(transcribe: Transcribe, ask: Ask) -> None:
    assert transcribe(EchoTranscribe, "run_id=first", "max_failed_fraction=1") == ExitCode.DONE
    assert ask() == (0, "outcome        first done, exit code 0\n")

    strict = ("max_failed_fraction=0", "max_failed_count=0")
    assert transcribe(EchoTranscribe, "run_id=second", *strict) == ExitCode.TOO_MANY_FAILED
    assert ask() == (3, "outcome        second too many failed, exit code 3\n")
    assert ask("run_id=first")[0] == 0


def test_a_run_that_failed_stores_its_message(transcribe: Transcribe, ask: Ask) -> None:
    with pytest.raises(RunError):
        transcribe(FailingTranscribe, "run_id=failed")

    assert ask() == (1, "outcome        failed failed, exit code 1: all recognizers are gone\n")


def test_a_run_that_was_stopped_stores_the_code_of_the_signal(transcribe: Transcribe, ask: Ask) -> None:
    with pytest.raises(Stopped):
        transcribe(StoppedTranscribe, "run_id=stopped")

    assert ask() == (143, "outcome        stopped stopped, exit code 143: stopped by SIGTERM\n")


def test_an_attempt_with_the_same_name_replaces_the_outcome(transcribe: Transcribe, ask: Ask) -> None:
    with pytest.raises(RunError):
        transcribe(FailingTranscribe, "run_id=one")
    transcribe(EchoTranscribe, "run_id=one", "max_failed_fraction=1")

    assert ask()[0] == 0


def test_a_run_that_was_killed_counts_as_failed(transcribe: Transcribe, ask: Ask, tmp_path: Path) -> None:
    transcribe(EchoTranscribe, "run_id=killed")
    (tmp_path / "out" / "runs" / "killed" / "outcome.json").unlink()  # as if it had died before it wrote this

    code, text = ask()
    assert code == ExitCode.FAILED
    assert "it was killed" in text


def test_a_run_that_holds_the_lease_is_running(transcribe: Transcribe, ask: Ask, tmp_path: Path) -> None:
    transcribe(EchoTranscribe, "run_id=earlier", "max_failed_fraction=1")

    with acquire_lease(f"{tmp_path}/out", "now", 60, Storage()):
        assert ask()[0] == ExitCode.RUNNING  # the run that holds the lease, although it has no folder yet
        assert ask("run_id=now")[0] == ExitCode.RUNNING
        assert ask("run_id=earlier")[0] == ExitCode.DONE


def test_a_command_with_later_steps_is_running_until_they_are_done(
    transcribe: Transcribe, ask: Ask, tmp_path: Path
) -> None:
    transcribe(EchoTranscribe, "run_id=night", "max_failed_fraction=1")
    folder = tmp_path / "out" / "runs" / "night"
    write_running(str(folder), 60.0, Storage())
    assert ask()[0] == ExitCode.RUNNING

    stored = json.loads((folder / "outcome.json").read_text())
    space, *_ = stored["process"].split(".")
    (folder / "outcome.json").write_text(json.dumps(stored | {"process": f"{space}.4194304.1"}))  # of no process
    assert ask()[0] == ExitCode.FAILED


def test_later_steps_on_another_machine_are_running_as_long_as_they_renew_the_outcome(
    transcribe: Transcribe, ask: Ask, tmp_path: Path
) -> None:
    transcribe(EchoTranscribe, "run_id=night", "max_failed_fraction=1")
    file = tmp_path / "out" / "runs" / "night" / "outcome.json"
    elsewhere = {"process": "00000000.4194304.1", "exit_code": int(ExitCode.RUNNING), "outcome": "running"}
    for until, expected in (
        ("2036-11-30T00:00:00+00:00", ExitCode.RUNNING),
        ("2026-11-22T00:00:00+00:00", ExitCode.FAILED),
    ):
        file.write_text(json.dumps(json.loads(file.read_text()) | elsewhere | {"until": until}))
        assert ask()[0] == expected

    with record_later_steps(str(file.parent), 0.03, Storage()):
        while json.loads(file.read_text())["process"] == elsewhere["process"]:
            time.sleep(0.01)
        assert ask()[0] == ExitCode.RUNNING


def test_the_last_run_is_the_last_that_started_although_a_file_of_another_was_written_again(
    transcribe: Transcribe, tmp_path: Path
) -> None:
    """As `distil-ray forget` and copies of an output do."""
    for _ in range(2):
        transcribe(EchoTranscribe, "max_failed_fraction=1")
    first, last = sorted(each.name for each in (tmp_path / "out" / "runs").iterdir())
    os.utime(tmp_path / "out" / "runs" / first / "config.yaml", (4e9, 4e9))
    assert find_last_run(str(tmp_path / "out"), Storage()) == last


def test_an_output_without_such_a_run_is_a_wrong_setting(transcribe: Transcribe, ask: Ask) -> None:
    assert ask()[0] == ExitCode.BAD_SETTINGS
    transcribe(EchoTranscribe, "run_id=first", "max_failed_fraction=1")

    code, text = ask("run_id=second")
    assert code == ExitCode.BAD_SETTINGS
    assert "run_id=second" in text
    assert "first" in text
