"""A driver that is killed again and again, at any moment, ends with the rows of one that was left alone.

Killed with -9: nothing can be said or closed. Each time the same command goes on, in a new process.
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import ray
import soundfile

from distil_ray.types import SAMPLE_RATE
from tests.support.transcripts import stored_rows

ROOT = Path(__file__).resolve().parents[2]
NUM_SHORT = 60
NUM_CLIPS = 8
KILLS = 25  # of a driver with the fake recognizer
KILLS_OF_TWO = 10  # where two processes schedule
REAL_KILLS = 3  # of one with a real model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # 25 runs one after the other


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Short recordings, a long one of many parts, one without words and one that is no audio."""
    folder = tmp_path / "audio"
    folder.mkdir()
    seconds = {f"{number:02d}.wav": 0.5 + number / 100 for number in range(NUM_SHORT)} | {"long.flac": 170.0}
    for number, (name, length_s) in enumerate(seconds.items()):
        noise = np.random.default_rng(number).integers(-3000, 3000, int(length_s * SAMPLE_RATE)).astype(np.int16)
        soundfile.write(folder / name, noise, SAMPLE_RATE)
    soundfile.write(folder / "silent.wav", np.zeros(SAMPLE_RATE, np.int16), SAMPLE_RATE)
    (folder / "broken.wav").write_text("no audio at all")
    return folder


class Server:
    """Starts the same command in one process after the other."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process, self.log = process, log
        self.pid = 0

    def start(self) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{self.log}\n")
        self._process.stdin.flush()
        self.pid = int(self._read())

    def is_running(self) -> bool:
        stat = Path(f"/proc/{self.pid}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"

    def end(self) -> int:
        """Waits for the run; its exit code, negative for a signal."""
        return int(self._read())

    def _read(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()


@contextmanager
def _serving(output: Path, audio: Path, model: Path, log: Path, *more: str) -> Iterator[Server]:
    settings = [f"input.uri={audio}", f"output.uri={output}", f"model.name={model}", "max_failed_fraction=1"]
    settings += [f"resources.ray_address={ray.get_runtime_context().gcs_address}", "resources.actors=1"]
    settings += ["resources.decode_cpus=1.2", "resources.commit_cpus=0.5"]  # few processes: each takes seconds to start
    settings += ["plan.task_recordings=1", "plan.part_audio_s=30", "chunking.length_s=10"]
    command = [sys.executable, "-m", "tests.support.echo_job", "--serve", *settings, *more]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Server(process, log)
        finally:
            process.kill()


def _num_task_files(output: Path) -> int:
    return len(list(output.glob("transcripts/task-*.parquet")))


def _kill_at_some_moment(
    chance: random.Random, server: Server, output: Path, all_tasks: int | None = None
) -> float | None:
    """Starts a run and kills it; gives the seconds until its first task stood, if one did.

    The moment is drawn by what the run does and not by the clock alone, which would mostly hit its first second. With
    `all_tasks` it is when that many are there: while the run closes its books.
    """
    before = _num_task_files(output)
    server.start()
    started, recovered_s = time.monotonic(), None
    new_tasks = chance.randint(1, 3) if chance.random() < 0.6 else 0
    pause_s = chance.uniform(0, 0.3)
    waits_for_lease = chance.random() < 0.7
    if all_tasks is not None:
        new_tasks, pause_s = all_tasks - before, chance.uniform(0, 0.1)
    while server.is_running():
        made = _num_task_files(output) - before
        if made and recovered_s is None:
            recovered_s = time.monotonic() - started
        if made >= new_tasks and (made or not waits_for_lease or (output / "_lease.json").exists()):
            break
        time.sleep(0.01)
    time.sleep(pause_s)
    os.kill(server.pid, signal.SIGKILL)
    code = server.end()
    assert code == -signal.SIGKILL, server.log.read_text()
    return recovered_s


def _assert_nothing_is_left(output: Path) -> None:
    files = [path.relative_to(output) for path in output.rglob("*") if path.is_file()]
    assert not [path for path in files if path.name.startswith(".") or path.name == "_lease.json"]
    assert not [path for path in files if "parts" in path.parts]


def _tell(what: str, kills: int, recovered: Sequence[float]) -> None:
    """Figures for docs/reliability.md; shown with -s."""
    print(f"{what}: {kills} kills; seconds to the first new task: median {statistics.median(recovered):.1f}", end="")
    print(f", most {max(recovered):.1f}, of {len(recovered)}")


@pytest.mark.parametrize(("executors", "kills"), [(1, KILLS), (2, KILLS_OF_TWO)])
def test_kills_at_random_moments_lose_nothing_and_double_nothing(
    executors: int, kills: int, local_ray: None, audio: Path, tmp_path: Path, whisper_tiny_en: Path
) -> None:
    chance, output, undisturbed = random.Random(25), tmp_path / "out", tmp_path / "undisturbed"
    shares = [f"resources.{name}={executors}" for name in ("actors", "executors")]
    with _serving(output, audio, whisper_tiny_en, tmp_path / "log", *shares, "--pause-s=0.05") as server:
        recovered = [_kill_at_some_moment(chance, server, output) for _ in range(kills - 1)]
        recovered.append(_kill_at_some_moment(chance, server, output, all_tasks=NUM_SHORT + 3))
        server.start()
        assert server.end() == 0, server.log.read_text()
    with _serving(undisturbed, audio, whisper_tiny_en, tmp_path / "log") as server:
        server.start()
        assert server.end() == 0, server.log.read_text()
    assert stored_rows(output) == stored_rows(undisturbed)
    assert len(stored_rows(output)) == NUM_SHORT + 3
    _assert_nothing_is_left(output)
    (done,) = output.glob("runs/*/_SUCCESS")
    assert json.loads(done.with_name("summary.json").read_text())["num_recordings"] == NUM_SHORT + 3
    _tell(f"echo, {executors} scheduling", kills, [seconds for seconds in recovered if seconds is not None])


def test_kills_of_the_real_job_lose_nothing_and_double_nothing(
    local_ray: None, corpus: Path, tmp_path: Path, whisper_tiny_en: Path
) -> None:
    chance, output, undisturbed = random.Random(3), tmp_path / "out", tmp_path / "undisturbed"
    clips = sorted((corpus / "librispeech").glob("*.flac"))[:NUM_CLIPS]
    (tmp_path / "audio").mkdir()
    for clip in clips:
        (tmp_path / "audio" / clip.name).symlink_to(clip)
    recovered = []
    with _serving(output, tmp_path / "audio", whisper_tiny_en, tmp_path / "log", "--real") as server:
        for _ in range(REAL_KILLS):
            recovered.append(_kill_at_some_moment(chance, server, output, all_tasks=_num_task_files(output) + 1))
        server.start()
        assert server.end() == 0, server.log.read_text()
    with _serving(undisturbed, tmp_path / "audio", whisper_tiny_en, tmp_path / "log", "--real") as server:
        server.start()
        assert server.end() == 0, server.log.read_text()
    assert stored_rows(output) == stored_rows(undisturbed)
    assert [row["recording_id"] for row in stored_rows(output)] == [clip.name for clip in clips]
    _assert_nothing_is_left(output)
    _tell("tiny.en", REAL_KILLS, [seconds for seconds in recovered if seconds is not None])
