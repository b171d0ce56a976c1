"""The stages in one process give the rows of the job, and keep its promises about failures and credentials."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import SettingsError
from distil_ray.output.run_context import Run
from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.in_process import InProcessPipeline
from distil_ray.pipeline.model_setup import ModelInfo
from distil_ray.pipeline.setup import RunSetup, resolve_run
from distil_ray.pipeline.transcribe_stage import run_prompt
from distil_ray.pipeline.write_stage import write_parts
from distil_ray.readers.listing import list_recordings
from distil_ray.types import SAMPLE_RATE, Prompt, Recording
from tests.pipeline.conftest import plan_run, pointers
from tests.support.fakes import CURSED_SAMPLES, EchoTranscribe
from tests.support.transcripts import RUN_COLUMNS, stored_rows

LENGTHS = {"a.wav": SAMPLE_RATE * 95, "b.wav": SAMPLE_RATE * 4, "c.wav": SAMPLE_RATE * 31, "d.wav": SAMPLE_RATE}


def _write(folder: Path, lengths: dict[str, int]) -> None:
    folder.mkdir()
    for number, (name, samples) in enumerate(lengths.items()):
        noise = np.random.default_rng(number).integers(-3000, 3000, samples).astype(np.int16)
        soundfile.write(folder / name, noise, SAMPLE_RATE)


def _pipeline(run: Run) -> InProcessPipeline:
    model = ModelInfo("fake", None, run.languages, 30.0, "")
    return InProcessPipeline(RunSetup(run, model), EchoTranscribe)


def _without_run(table: pa.Table) -> list[dict[str, Any]]:
    return [{name: cell for name, cell in row.items() if name not in RUN_COLUMNS} for row in table.to_pylist()]


def test_rows_are_those_of_the_stages_on_a_plan_in_parts_and_in_tasks(tmp_path: Path) -> None:
    _write(tmp_path / "audio", LENGTHS)
    run, plan = plan_run(tmp_path / "audio", tmp_path / "out", "plan.part_audio_s=30", "plan.task_audio_s=40")
    assert plan.num_tasks == 2
    for part in decode_tasks(pointers(plan), run):
        write_parts(EchoTranscribe()(part), run)
    pipeline = _pipeline(run)
    recordings = list(list_recordings(run.config.input, run.storage))
    results: list[dict[str, Any]] = []
    table = pipeline.transcribe(recordings, results.append)
    assert table["recording_id"].to_pylist() == list(LENGTHS)
    assert _without_run(table) == stored_rows(tmp_path / "out")

    work = pipeline.estimate(recordings)
    assert list(work.seconds_by_task.values()) == pytest.approx(plan.tasks["estimated_s"].to_pylist(), abs=0.01)
    assert {result["task_id"] for result in results} == set(work.seconds_by_task)
    assert sum(result["committed"] for result in results) == 2
    assert len(results) > 3
    assert sum(result["audio_s"] for result in results) == pytest.approx(131)


def test_an_exception_of_the_recognizer_costs_one_recording(tmp_path: Path) -> None:
    _write(tmp_path / "audio", {"a.wav": 1600, "b.wav": CURSED_SAMPLES, "c.wav": 3200})
    run, _ = plan_run(tmp_path / "audio", tmp_path / "out", "decoding.language=en")
    table = _pipeline(run).transcribe(list(list_recordings(run.config.input, run.storage)))
    assert table["error_kind"].to_pylist() == [None, "inference_error", None]
    assert table["status"].to_pylist() == ["ok", "failed", "ok"]


def test_rows_hold_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "hunter2-hunter2")
    _write(tmp_path / "audio", {"a.wav": 1600})
    run, _ = plan_run(tmp_path / "audio", tmp_path / "out", "storage.max_attempts=1")
    uri = "https://user:secret@127.0.0.1:9/a.wav?sig=abcdef"
    recording = Recording("a", uri, metadata={"note": "key hunter2-hunter2"})
    for table in (
        _pipeline(run).transcribe([recording]),
        _pipeline(run).transcribe_fetched([(recording, tmp_path / "audio" / "a.wav")]),
    ):
        assert "secret" not in str(table.to_pylist())
        assert "abcdef" not in str(table.to_pylist())
        assert "hunter2" not in str(table.to_pylist())


def test_nothing_to_do_is_an_empty_table(tmp_path: Path) -> None:
    _write(tmp_path / "audio", {"a.wav": 1600})
    run, _ = plan_run(tmp_path / "audio", tmp_path / "out")
    assert _pipeline(run).transcribe([]).num_rows == _pipeline(run).transcribe_fetched([]).num_rows == 0


def test_a_file_of_hotwords_is_read_when_the_run_is_set_up_and_its_words_are_in_the_fingerprint(
    tmp_path: Path, whisper_tiny_en: Path
) -> None:
    def resolve(hotwords: str) -> Run:
        settings = [f"model.name={whisper_tiny_en}", f"decoding.hotwords={hotwords}"]
        return resolve_run(load_config(None, settings), Console(quiet=True)).run

    file = tmp_path / "words.txt"
    file.write_text("ComfyUI\n\n LoRA \n")
    from_file, from_list = resolve(str(file)), resolve("[ComfyUI, LoRA]")
    assert run_prompt(from_file) == run_prompt(from_list) == Prompt("", ("ComfyUI", "LoRA"))
    assert from_file.fingerprint == from_list.fingerprint
    file.write_text("ComfyUI\n")
    assert resolve(str(file)).fingerprint not in (from_file.fingerprint, resolve("[]").fingerprint)
    with pytest.raises(SettingsError, match=r"decoding\.hotwords="):
        resolve(f"{tmp_path}/absent.txt")
