"""The scripts of examples/ run as they are, on recordings of tests/data."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.support.clips import CLIPS, load_manifest
from tests.support.without_ray import run_stages_in_process

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SENTENCE = "He might even have been made amiable himself."


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_a_folder_is_transcribed(
    clips: Path, whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("transcribe_folder.py", monkeypatch, clips / "austen-0930.mp3", clips / "README.md")
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"austen-0930.mp3: {SENTENCE}"
    assert second.startswith("README.md: ")


def test_transcripts_are_scored_by_speaker(
    tmp_path: Path, whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("cards-001", "cards-003", "austen-0880-8khz")
    for name in names:
        shutil.copy(CLIPS / load_manifest()[name]["uri"], tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(f"{json.dumps(load_manifest()[name])}\n" for name in names))
    _run("score_transcripts.py", monkeypatch, manifest)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["group", "num_pairs", "num_ref_words", "wer"]
    assert {line.split()[0] for line in lines[1:-1]} == {"austen", "cards"}
    assert lines[-1].startswith("ErrorRates(WER ")


def test_subtitles_are_written(clips: Path, whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_stages_in_process(monkeypatch)
    _run("write_subtitles.py", monkeypatch)
    assert "what your country can do" in Path("subtitles-output/srt/kennedy.m4a.srt").read_text()


@pytest.mark.slow  # starts a Ray
def test_a_stage_of_ray_data_reads_and_writes(
    local_ray: None, clips: Path, whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run("ray_data_stage.py", monkeypatch, clips)
    table = pd.read_parquet("transcripts")
    assert len(table) == 8  # FLAC, MP3 and WAV
    assert SENTENCE in set(table["text"])


@pytest.mark.slow  # starts a Ray
def test_recordings_become_labels(
    local_ray: None,
    clips: Path,
    whisper_tiny_en: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _run("label_recordings.py", monkeypatch)
    assert "more respectable than he was" in capsys.readouterr().out
