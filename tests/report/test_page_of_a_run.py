"""The report page that a run writes at its end, and jobs/report.py."""

import json
import re
import shutil
import subprocess
import sys
from io import BytesIO, StringIO
from pathlib import Path

import pytest
import soundfile
from rich.console import Console

from distil_ray.audio.encode import encode_opus
from distil_ray.config import Config
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode
from distil_ray.pipeline import runner
from tests.support.fakes import EchoTranscribe
from tests.support.without_ray import run_stages_in_process

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ("cards-003", "librispeech-61")


@pytest.fixture
def settings(clips: Path, tmp_path: Path, whisper_tiny_en: Path) -> Config:
    """A run over two clips."""
    (tmp_path / "audio").mkdir()
    for name in CLIPS:
        shutil.copy2(clips / f"{name}.flac", tmp_path / "audio")
        (tmp_path / "audio" / f"{name}.txt").write_text("what was said")
    words = [f"input.uri={tmp_path}/audio", f"output.uri={tmp_path}/out", f"model.name={whisper_tiny_en}"]
    return load_config(None, [*words, "run_id=run", "resources.cpus_per_actor=0.5", "resources.actors=2"])


def test_a_run_writes_its_page_and_does_not_fail_if_the_page_cannot_be_written(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_stages_in_process(monkeypatch)
    printed = StringIO()
    assert runner.transcribe(settings, Console(file=printed), EchoTranscribe) == ExitCode.DONE
    page = (tmp_path / "out/runs/run/report.html").read_text()
    assert f"{tmp_path}/out/runs/run/report.html" in printed.getvalue()
    assert "Succeeded" in page
    assert page.count("data:audio/ogg;base64,") == len(CLIPS)
    assert "Live recognizers over time" in page

    def broken(*_: object) -> str:
        raise OSError("no space left")

    again = settings.model_copy(update={"run_id": "again"})
    with monkeypatch.context() as patched:
        patched.setattr("distil_ray.pipeline.finalize.write_run_page", broken)
        assert runner.transcribe(again, Console(file=printed), EchoTranscribe) == ExitCode.DONE
    events = (tmp_path / "out/runs/again/events.jsonl").read_text().splitlines()
    assert json.loads(events[-1]) == {"report_error": "report.html could not be written: no space left"}
    assert "report.html could not be written: no space left" in caplog.text

    quiet = settings.model_copy(
        update={"run_id": "quiet", "report": settings.report.model_copy(update={"write": False})}
    )
    assert runner.transcribe(quiet, Console(file=printed), EchoTranscribe) == ExitCode.DONE
    assert not (tmp_path / "out/runs/quiet/report.html").exists()

    command = [sys.executable, "jobs/report.py", f"output.uri={tmp_path}/out"]
    made = subprocess.run([*command, "run_id=quiet"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"report +{re.escape(str(tmp_path))}/out/runs/quiet/report.html\n", made.stdout)
    assert "Nothing to do" in (tmp_path / "out/runs/quiet/report.html").read_text()
    wrong = subprocess.run([*command, "run_id=nix"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert wrong.returncode == ExitCode.BAD_SETTINGS
    assert wrong.stderr.startswith(f"error: run_id=nix: no such run in {tmp_path}/out (found: run, again, quiet)")


def test_opus_keeps_the_duration_in_less_than_three_kilobytes_per_second(clips: Path) -> None:
    pcm, rate = soundfile.read(clips / f"{CLIPS[0]}.flac", dtype="int16")
    assert rate == 16_000
    opus = encode_opus(pcm)
    info = soundfile.info(BytesIO(opus))

    assert info.subtype == "OPUS"
    assert info.duration == pytest.approx(len(pcm) / rate, abs=0.05)
    assert len(opus) < 3000 * info.duration
