"""The job as a cluster runs it: submitted to a real head node with token authentication, from bucket to bucket."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent  # where this environment's `ray` and `python` lie
CLIPS = ("cards-005.flac", "librispeech-61.flac", "cards-003.flac")


@dataclass(frozen=True)
class Head:
    """A running head node: the address of its jobs API, and the environment that its clients need."""

    address: str
    environment: dict[str, str]

    def submit(self, *entrypoint: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "ray"), "job", "submit", "--address", self.address, "--working-dir", str(ROOT), "--"]
        environment = environment or self.environment
        return subprocess.run(
            [*command, *entrypoint], env=environment, capture_output=True, text=True, timeout=240, check=False
        )


def _free_ports(count: int) -> Sequence[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@pytest.fixture
def head(s3_environment: str, tmp_path: Path) -> Iterator[Head]:
    """A head node on loopback with two CPUs; S3 credentials reach the job through the nodes' environment."""
    gcs, dashboard, agent = _free_ports(3)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "PATH": f"{BIN}{os.pathsep}{environment['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    short = Path("/tmp") / f"ray-{secrets.token_hex(4)}"  # a socket's path has 107 letters at most
    command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    command += [f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={agent}", "--num-cpus=2", f"--object-store-memory={200 << 20}"]
    log = (tmp_path / "head.log").open("wb")
    process = subprocess.Popen(
        [*command, f"--temp-dir={short}"], env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        found = Head(f"http://127.0.0.1:{dashboard}", environment)
        _wait_until_it_answers(found, process, tmp_path / "head.log")
        yield found
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # asked to end it takes half a minute, and there is nothing to save
        process.wait()
        log.close()
        shutil.rmtree(short, ignore_errors=True)


def _wait_until_it_answers(head: Head, process: "subprocess.Popen[bytes]", log: Path) -> None:
    command = [str(BIN / "ray"), "job", "list", "--address", head.address]
    for _ in range(60):
        if process.poll() is not None:
            pytest.fail(f"the head node did not start: {log.read_text()[-2000:]}")
        if subprocess.run(command, env=head.environment, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(1)
    pytest.fail(f"the head node gave no answer: {log.read_text()[-2000:]}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_submitted_job_transcribes_from_bucket_to_bucket(head: Head, bucket: str, clips: Path) -> None:
    storage = Storage()
    for name in CLIPS:
        storage.put(join(bucket, "audio", name), (clips / name).read_bytes())
    job = ["python", "jobs/transcribe.py", "--config", "configs/cpu.yaml", "model.name=packaged:whisper-tiny.en"]
    job += [f"input.uri={bucket}/audio", f"output.uri={bucket}/text", "run_id=tonight", "resources.cpus_per_actor=1"]

    done = head.submit(*job, "resources.actors=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert "3 recordings" in done.stdout

    files = [entry.uri for entry in storage.list_files(f"{bucket}/text/transcripts")]
    rows = [row for uri in files for row in pq.read_table(storage.open(uri)).to_pylist()]
    assert sorted(row["recording_id"] for row in rows) == sorted(CLIPS)
    texts = {row["recording_id"]: row["text"].lower() for row in rows}
    assert "curtain" in texts[CLIPS[1]]
    summary = json.loads(storage.read(f"{bucket}/text/runs/tonight/summary.json"))
    assert (summary["num_recordings"], summary["num_ok"], summary["num_failed"]) == (3, 3, 0)
    assert storage.stat(f"{bucket}/text/runs/tonight/_SUCCESS") is not None

    wrong = head.submit("python", "jobs/transcribe.py", "decoding.lenguage=en")
    assert wrong.returncode == 1  # the client knows only 0 and 1
    assert "Did you mean decoding.language?" in wrong.stdout

    stranger = {name: value for name, value in head.environment.items() if name != "RAY_AUTH_TOKEN"}
    stranger["HOME"] = str(Path(stranger.get("TMPDIR", "/tmp")) / "nobody")  # no token file either
    assert head.submit("python", "-c", "pass", environment=stranger).returncode != 0
