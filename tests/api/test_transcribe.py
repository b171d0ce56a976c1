"""`dr.transcribe` in this process gives the rows of the job."""

import sys
from pathlib import Path

import pandas as pd
import pytest

import distil_ray as dr
from distil_ray.schema import TRANSCRIPT
from tests.api.conftest import MODEL, SETTINGS
from tests.support.without_ray import run_stages_in_process


def test_the_rows_are_those_of_the_job(job: dr.RunResult, manifest: Path) -> None:
    table = dr.transcribe(manifest, model=MODEL, words=True, overrides=SETTINGS, format="arrow", progress=False)
    assert table.schema == TRANSCRIPT
    of_this_run = {"run_id", "processed_at"}
    expected = {row["recording_id"]: row for row in job.transcripts(format="arrow").drop(of_this_run).to_pylist()}
    rows = {row["recording_id"]: row for row in table.drop(of_this_run).to_pylist()}
    assert rows == expected
    assert len(rows["sonnet-1"]["chunks"]) > 1
    assert {row["status"] for row in rows.values()} == {"ok", "failed"}


def test_overlapping_chunks_are_merged_without_a_run_folder(clips: Path, whisper_tiny_en: Path) -> None:
    overrides = SETTINGS | {"chunking.strategy": "overlap"}
    table = dr.transcribe(clips / "kennedy.m4a", model=MODEL, overrides=overrides, progress=False)
    assert "ask not what your country can do for you" in table["text"][0]


def test_rows_are_in_the_order_of_the_input_and_failures_are_rows(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.wav"
    damaged.write_bytes(b"RIFF")
    inputs = [clips / "cards-001.flac", damaged, clips / "librispeech-61.flac"]
    table = dr.transcribe(inputs, model=MODEL, language="en", overrides={"chunking.length_s": 10})
    assert isinstance(table, pd.DataFrame)
    assert list(table["recording_id"]) == ["cards-001.flac", "damaged.wav", "librispeech-61.flac"]
    assert list(table["status"]) == ["ok", "failed", "ok"]
    assert "3 of 3 recordings" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [damaged]


def test_an_output_makes_it_the_job(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_stages_in_process(monkeypatch)
    once, again = (
        dr.transcribe(clips / "cards-001.flac", model=MODEL, output=tmp_path, progress=False) for _ in range(2)
    )
    assert list(once["text"]) == list(again["text"])
    assert list(once["run_id"]) == list(again["run_id"])  # the second run had nothing to do
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_wrong_settings_are_refused_before_a_model_is_loaded(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distil_ray.whisper.model", None)
    with pytest.raises(dr.SettingsError, match=r"Did you mean chunking\.length_s"):
        dr.transcribe(clips, model=MODEL, overrides={"chunking.lenght_s": 3})
    with pytest.raises(dr.SettingsError, match=r"input\.uri"):
        dr.transcribe(model=MODEL)
    with pytest.raises(dr.InputError, match="no such file"):
        dr.transcribe(clips / "missing.wav", model=MODEL)
    with pytest.raises(dr.SettingsError, match="format=polars: must be pandas or arrow"):
        dr.transcribe(clips, model=MODEL, format="polars")  # type: ignore[call-overload]
    with pytest.raises(dr.SettingsError, match="supports English only"):
        dr.transcribe(clips, model=MODEL, language="de")
