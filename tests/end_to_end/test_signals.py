"""A run that gets a signal writes its events, releases the lease and names the way to resume; the next run resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import soundfile

from distil_ray.types import SAMPLE_RATE

# Nothing here waits for a time, only for what has to happen: this ends what hangs, also on a busy machine.
pytestmark = pytest.mark.timeout(1800)

ROOT = Path(__file__).resolve().parents[2]
NUM_RECORDINGS = 12

Job = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    folder.mkdir()
    for number in range(NUM_RECORDINGS):
        noise = np.random.default_rng(number).integers(-3000, 3000, SAMPLE_RATE).astype(np.int16)
        soundfile.write(folder / f"{number:02d}.wav", noise, SAMPLE_RATE)
    return folder


@pytest.fixture
def job(audio: Path, tmp_path: Path, whisper_tiny_en: Path) -> Iterator[Job]:
    """job(argument, …, address=…): the job in a process group of its own, on a running Ray or one that it starts."""
    settings = [f"input.uri={audio}", f"output.uri={tmp_path / 'out'}", f"model.name={whisper_tiny_en}"]
    settings += ["resources.actors=1", "resources.object_store_mb=100", "plan.task_recordings=1"]
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, address: str = "local") -> "subprocess.Popen[str]":
        command = [
            sys.executable,
            "-m",
            "tests.support.echo_job",
            *settings,
            f"resources.ray_address={address}",
            *arguments,
        ]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


def _wait_for_tasks(out: Path, number: int, process: "subprocess.Popen[str]") -> None:
    while len(list(out.glob("transcripts/task-*.parquet"))) < number:
        if process.poll() is not None:
            pytest.fail(f"ended before it was stopped: {process.communicate()[0]}")
        time.sleep(0.05)


def _names(out: Path) -> list[str]:
    return sorted(pq.read_table(out / "transcripts", columns=["recording_id"])["recording_id"].to_pylist())


def _stopped(process: "subprocess.Popen[str]", out: Path, name: str) -> None:
    """What holds of every run that was stopped."""
    words = process.communicate()[0]
    assert f"stopped by {name}. Committed transcripts are kept." in words
    assert "Traceback" not in words
    assert not (out / "_lease.json").exists()
    assert not list(out.glob("runs/*/_SUCCESS"))
    assert not list(out.glob("**/.tmp-*"))


@pytest.mark.slow
def test_sigterm_on_a_cluster_loses_nothing_that_was_committed(local_ray: None, job: Job, tmp_path: Path) -> None:
    """As `ray job stop` sends it."""
    out, address = tmp_path / "out", ray.get_runtime_context().gcs_address
    process = job("--hold-after=2", "run_id=first", address=address)
    _wait_for_tasks(out, 2, process)
    process.send_signal(signal.SIGTERM)
    _stopped(process, out, "SIGTERM")
    assert process.returncode == 143
    names = _names(out)
    assert len(set(names)) == len(names) >= 2
    events = [json.loads(line) for line in (out / "runs/first/events.jsonl").read_text().splitlines()]
    assert sum(event["committed"] for event in events) <= len(names)

    again = job("run_id=second", address=address)
    words = again.communicate()[0]
    assert again.returncode == 0, words
    assert _names(out) == [f"{number:02d}.wav" for number in range(NUM_RECORDINGS)]
    summary = json.loads((out / "runs/second/summary.json").read_text())
    assert summary["num_done_before"] >= len(names)
    assert not (out / "runs/first/parts").exists()


def test_ctrl_c_stops_a_run_and_the_ray_that_it_has_started(job: Job, tmp_path: Path) -> None:
    """A terminal sends it to every process of the group."""
    process = job("--hold-after=1")
    _wait_for_tasks(tmp_path / "out", 1, process)
    os.killpg(process.pid, signal.SIGINT)
    _stopped(process, tmp_path / "out", "SIGINT")
    assert process.returncode == 130
    assert _names(tmp_path / "out")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_is_stopped_while_it_plans(job: Job, tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = job("--endless-listing")
    assert process.stdout
    while process.stdout.readline() != "listing\n":
        assert process.poll() is None
    assert (tmp_path / "out/_lease.json").exists()
    process.send_signal(number)
    _stopped(process, tmp_path / "out", number.name)
    assert process.returncode == code


CLOSING = """
import threading
from distil_ray.cli.signals import handle_signals
handle_signals()
try:
    print("working", flush=True)
    threading.Event().wait()
finally:
    print("closing", flush=True)
    threading.Event().wait()
"""


def test_a_second_signal_ends_the_process_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", CLOSING], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for words in ("working\n", "closing\n"):
            assert process.stdout.readline() == words
            process.send_signal(signal.SIGTERM)
        assert process.wait() == 143


JOB = """#!/bin/sh
trap 'echo ended; exit 143' TERM
echo started
while :; do sleep 0.05; done
"""
DEMO = """
import os, sys
from distil_ray.cli.signals import handle_signals
from distil_ray.commands import demo
handle_signals()
sys.executable = sys.argv[1]
demo._run([], os.environ)
"""


def test_sigterm_for_the_demo_alone_ends_its_job(tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.write_text(JOB)
    job.chmod(0o700)
    command = [sys.executable, "-c", DEMO, str(job)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "ended\n"
        assert process.wait() == 143


INTERRUPTED = """
import threading
from distil_ray.cli.signals import handle_signals, raise_in_main_thread
assert not raise_in_main_thread(ValueError("no handler is installed"))
handle_signals()
try:
    threading.Thread(target=raise_in_main_thread, args=[RuntimeError("the lease is lost")]).start()
    threading.Event().wait()
except RuntimeError as error:
    print(error)
"""


def test_another_thread_can_stop_the_main_one_with_its_reason() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "the lease is lost\n"
