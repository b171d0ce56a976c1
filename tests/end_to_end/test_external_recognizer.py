"""A recognizer from outside the package, which is no Whisper, takes part in everything: run, score, report, export."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from rich.console import Console

from distil_ray.commands.main import main
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode
from distil_ray.pipeline import runner
from distil_ray.types import SAMPLE_RATE
from tests.support.energy_recognizer import EnergyRecognizer

RECOGNIZER = f"{EnergyRecognizer.__module__}:{EnergyRecognizer.__name__}"
BURSTS = {"one": [(0.5, 1.5)], "three": [(0.5, 1.0), (2.0, 3.0), (11.5, 12.5)], "none": []}
FRAME_S = 0.05  # of the recognizer
UNKNOWN = ("avg_logprob", "no_speech_prob", "compression_ratio", "unheard_s", "acceptance_rate", "language_prob")


@pytest.fixture(scope="module")
def output(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run of the job on a local Ray, whose workers import the recognizer."""
    folder = tmp_path_factory.mktemp("external")
    noise = np.random.default_rng(0)
    lines = []
    for name, bursts in BURSTS.items():
        pcm = np.zeros(13 * SAMPLE_RATE, np.int16)
        pcm[:] = noise.integers(-50, 50, len(pcm))
        for start_s, end_s in bursts:
            span = slice(round(start_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE))
            pcm[span] = noise.integers(-9000, 9000, span.stop - span.start)
        soundfile.write(folder / f"{name}.wav", pcm, SAMPLE_RATE)
        lines.append(json.dumps({"audio_filepath": f"{name}.wav", "text": "ping " * len(bursts), "lang": "de"}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    settings = (
        *(f"input.uri={folder / 'manifest.jsonl'}", f"output.uri={folder / 'out'}", "run_id=run"),
        *(f"model.recognizer={RECOGNIZER}", "model.name=ping", "decoding.timestamps=segment", "resources.actors=1"),
    )
    printed = io.StringIO()
    assert runner.transcribe(load_config(None, settings), Console(file=printed)) == ExitCode.DONE
    assert "bursts are counted" in printed.getvalue()
    return folder / "out"


def _rows(output: Path) -> dict[str, dict[str, Any]]:
    files = list((output / "transcripts").glob("*.parquet"))
    rows = [row for path in files for row in pq.ParquetFile(path).read().to_pylist()]
    return {Path(row["uri"]).stem: row for row in rows}


@pytest.mark.timeout(300)
def test_texts_segments_and_scores_are_written_and_the_rest_is_null(output: Path) -> None:
    rows = _rows(output)
    assert {name: row["status"] for name, row in rows.items()} == {"one": "ok", "three": "ok", "none": "empty"}
    for name, row in rows.items():
        assert row["text"] == " ".join(["ping"] * len(BURSTS[name]))
        times = [time_s for segment in row["segments"] for time_s in (segment["start_s"], segment["end_s"])]
        assert times == pytest.approx([time_s for burst in BURSTS[name] for time_s in burst], abs=FRAME_S)
        assert row["language"] == "de"
        assert row["model"] == f"{RECOGNIZER}@1/ping"
        assert {column: row[column] for column in UNKNOWN} == dict.fromkeys(UNKNOWN)
        assert row["words"] is None
        assert all(chunk["tokens"] is None and chunk["avg_logprob"] is None for chunk in row["chunks"])
    assert len(rows["three"]["chunks"]) == 2, "the chunk length is the recognizer's"
    assert rows["three"]["wer"] == 0.0


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("job", "arguments"),
    [
        ("report", ()),
        ("verify", ("--recheck", "1.0")),
        ("export", ("format=srt", "to={to}")),
        ("export", ("format=jsonl", "to={to}")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_report_verify_and_export_accept_what_is_null(
    output: Path, tmp_path: Path, job: str, arguments: tuple[str, ...]
) -> None:
    words = [argument.format(to=tmp_path) for argument in arguments]
    assert main([job, f"output.uri={output}", *words]) == ExitCode.DONE
    if job == "report":
        assert "ping" in (output / "runs/run/report.html").read_text()
    if "format=srt" in arguments:
        (subtitles,) = tmp_path.rglob("*three*.srt")
        assert subtitles.read_text().startswith("1\n00:00:00,500 --> 00:00:01,333\nping\n")


def test_an_unsupported_setting_ends_with_exit_code_2_and_names_who_supports_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (f"model.recognizer={RECOGNIZER}", "decoding.timestamps=word", f"output.uri={tmp_path / 'out'}")
    assert main(["transcribe", f"input.uri={tmp_path}", *settings]) == ExitCode.BAD_SETTINGS
    printed = capsys.readouterr().err
    assert "decoding.timestamps=word" in printed
    assert "model.recognizer=native" in printed
    assert not (tmp_path / "out").exists()
