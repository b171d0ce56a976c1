"""The whole speech corpus through the graph in one run, broken files and all; only the weights are a stand-in."""

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import ErrorKind, ExitCode
from distil_ray.pipeline import runner
from tests.support.fakes import EchoTranscribe

# What the manifest's `expect` lets a recording end as.
ALLOWED = {
    "ok": {"ok"},
    "error": {"failed"},
    "empty": {"empty"},
    "error_or_partial": {"failed", "partial"},
    "error_or_empty": {"failed", "empty"},
    "error_or_any": {"failed", "partial", "ok"},
    "ok_or_empty": {"ok", "empty"},
    None: {"ok", "empty"},
}


@pytest.mark.slow
def test_every_line_of_the_manifest_gives_exactly_one_row_that_ends_as_expected(
    local_ray: None, corpus: Path, tmp_path: Path, whisper_tiny_en: Path
) -> None:
    manifest = corpus / "manifest.jsonl"
    lines = {line["id"]: line for line in map(json.loads, manifest.read_text(encoding="utf-8").splitlines())}
    settings = [f"input.uri={manifest}", f"output.uri={tmp_path}", f"model.name={whisper_tiny_en}", "run_id=all"]
    settings += ["decoding.language=en", "plan.task_audio_s=600", "plan.part_audio_s=300", "resources.actors=1"]
    console = Console(file=io.StringIO())
    assert runner.transcribe(load_config(None, settings), console, EchoTranscribe) == ExitCode.DONE

    rows = pq.read_table(tmp_path / "transcripts").to_pylist()
    assert sorted(row["recording_id"] for row in rows) == sorted(lines)
    unexpected = [
        (row["recording_id"], row["status"], row["error"])
        for row in rows
        if row["status"] not in ALLOWED[lines[row["recording_id"]].get("expect")]
    ]
    assert unexpected == []
    for row in rows:
        line = lines[row["recording_id"]]
        if row["status"] in ("failed", "partial"):
            assert row["error_kind"] in set(ErrorKind)
            assert line["uri"] in row["error"]
        elif line["duration_s"] is not None and line.get("expect") != "ok_or_empty":
            assert abs(row["duration_s"] - line["duration_s"]) < 0.15
    silent = {
        row["recording_id"] for row in rows if "silent_audio" in row["quality_flags"] and row["status"] == "empty"
    }
    assert silent >= {"hard-silence-digital-8s", "hard-silence-dither-35s"}
    summary = json.loads((tmp_path / "runs/all/summary.json").read_text())
    assert summary["num_recordings"] == len(lines)
    assert sum(summary[f"num_{status}"] for status in ("ok", "empty", "partial", "failed")) == len(lines)
