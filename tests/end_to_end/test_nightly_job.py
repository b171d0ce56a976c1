"""The nightly job as a process, with real weights on a Ray of its own: a first run, nothing new, changes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.webhook_server import webhook_server

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ("cards-005.flac", "librispeech-61.flac", "cards-003.flac")
SECRET = "T0K3N"


def _run_job(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "jobs/nightly.py", "--config", "configs/nightly.yaml", f"input.uri={folder}/audio"]
    command += [f"output.uri={folder}/out", "model.name=packaged:whisper-tiny.en", "model.device=cpu"]
    command += ["resources.ray_address=local", "resources.actors=1", "resources.gpus_per_actor=0"]
    command += ["resources.cpus_per_actor=1", "resources.object_store_mb=100"]
    environment = os.environ | {"DISTIL_RAY_WEBHOOK_URL": url, "no_proxy": "127.0.0.1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)


def _rows(folder: Path) -> dict[str, tuple[str, str]]:
    """Run id and text of every recording."""
    files = list((folder / "out/transcripts").glob("date=*/task-*.parquet"))
    rows = [row for path in files for row in pq.ParquetFile(path).read().to_pylist()]
    assert len({row["recording_id"] for row in rows}) == len(rows)
    return {row["recording_id"]: (row["run_id"], row["text"].lower()) for row in rows}


@pytest.mark.slow
@pytest.mark.timeout(800)
def test_three_nightly_runs_of_the_job(tmp_path: Path, clips: Path, whisper_tiny_en: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    for name in CLIPS[:2]:
        shutil.copy(clips / name, audio)

    with webhook_server(f"/hooks/{SECRET}") as listener:
        first = _run_job(tmp_path, listener.url)
        assert first.returncode == 0, first.stdout + first.stderr
        assert "2 recordings" in first.stdout
        before = _rows(tmp_path)
        assert "curtain" in before[CLIPS[1]][1]

        second = _run_job(tmp_path, listener.url)
        assert second.returncode == 0, second.stdout + second.stderr
        assert "exit code 0" in second.stdout.rstrip().splitlines()[-1]
        assert _rows(tmp_path) == before

        shutil.copy(clips / CLIPS[2], audio)
        shutil.copy(clips / CLIPS[2], audio / CLIPS[0])  # other words under a known name
        third = _run_job(tmp_path, listener.url)
        assert third.returncode == 0, third.stdout + third.stderr
        assert re.search(r"^replaced +1 row", third.stdout, re.MULTILINE)

    after = _rows(tmp_path)
    assert after[CLIPS[0]][1] == after[CLIPS[2]][1] != before[CLIPS[0]][1]
    assert after[CLIPS[1]] == before[CLIPS[1]]
    runs = [body["run_id"] for body in listener.bodies]
    assert [after[name][0] for name in CLIPS] == [runs[2], runs[0], runs[2]]
    assert [(body["outcome"], body["num_recognized"]) for body in listener.bodies] == [
        *(("done", 2), ("done", 0), ("done", 2)),
    ]
    reports = sorted((tmp_path / "out/runs").glob("*/nightly_run.json"))
    assert [json.loads(path.read_text()) for path in reports] == listener.bodies
    printed = "".join(run.stdout + run.stderr for run in (first, second, third))
    assert SECRET not in printed
