"""The consistency check of an output: differences, notes, exit codes."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from rich.console import Console

from distil_ray.config import Config
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.forget.job import forget
from distil_ray.forget.settings import ForgetSettings
from distil_ray.output.lease import acquire_lease
from distil_ray.pipeline import runner
from distil_ray.recognition.quality_flags import UNTRANSCRIBED_SPEECH
from distil_ray.schema import to_parquet_bytes
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE
from distil_ray.verify.verify import verify
from tests.support.fakes import EchoTranscribe
from tests.support.without_ray import run_stages_in_process

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, whisper_tiny_en: Path) -> Path:
    """A folder with `audio` and the output `out` of a run over it: six recordings in four tasks, one failed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "audio").mkdir()
    for number in range(5):
        noise = np.random.default_rng(number).integers(-3000, 3000, (2 + number) * SAMPLE_RATE).astype(np.int16)
        soundfile.write(folder / "audio" / f"{number}.wav", noise, SAMPLE_RATE)
        (folder / "audio" / f"{number}.txt").write_text("some noise")
    (folder / "audio" / "broken.wav").write_text("no audio at all")
    config = _settings(folder, f"model.name={whisper_tiny_en}", "run_id=first", "plan.task_audio_s=8")
    _run(config)
    return folder


def _run(config: Config) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_stages_in_process(monkeypatch)
        runner.transcribe(config, Console(file=io.StringIO()), EchoTranscribe)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage; the audio stays where it is."""
    subprocess.run(["cp", "-a", f"{finished}/out", f"{finished}/audio", tmp_path], check=True)
    config = tmp_path / "out/runs/first/config.yaml"
    config.write_text(config.read_text().replace(str(finished), str(tmp_path)))
    return tmp_path


def _settings(folder: Path, *overrides: str) -> Config:
    common = [f"input.uri={folder / 'audio'}", f"output.uri={folder / 'out'}", "resources.actors=1"]
    return load_config(None, [*common, *overrides])


def _verify(folder: Path, *overrides: str) -> tuple[ExitCode, str]:
    console = Console(file=io.StringIO(), width=200)
    code = verify(load_config(None, [f"output.uri={folder / 'out'}", *overrides]), console)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


def _tasks(folder: Path) -> list[Path]:
    return sorted((folder / "out/transcripts").glob("*.parquet"))


def _rewrite(path: Path, change: Callable[[list[Row]], None]) -> None:
    """Changes the rows of a task file without renaming it."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    path.write_bytes(to_parquet_bytes(pa.Table.from_pylist(rows, schema=table.schema)))


def _difference(folder: Path, *overrides: str) -> str:
    """Returns the lines of the differences that `verify` prints, and asserts that it fails."""
    code, words = _verify(folder, *overrides)
    assert code == ExitCode.FAILED, words
    return "\n".join(line for line in words.splitlines() if line.startswith("difference"))


def test_the_output_of_a_run_has_no_differences(folder: Path) -> None:
    code, words = _verify(folder, f"input.uri={folder / 'audio'}")
    assert code == ExitCode.DONE, words
    assert "6 rows, 4 files, 1 run" in words
    assert " first " in words  # the run whose settings give the fingerprint
    assert "note" not in words
    assert "no differences" in words


def test_an_output_in_an_object_store_can_be_checked(folder: Path, bucket: str) -> None:
    storage = Storage()
    for path in (folder / "out").rglob("*"):
        if path.is_file():
            storage.put(f"{bucket}/out/{path.relative_to(folder / 'out')}", path.read_bytes())
    console = Console(file=io.StringIO(), width=200)
    assert verify(load_config(None, [f"output.uri={bucket}/out"]), console) == ExitCode.DONE
    assert "6 rows, 4 files" in console.file.getvalue()  # type: ignore[attr-defined]


def test_damage_is_found_in_any_part_of_a_file(folder: Path) -> None:
    path = _tasks(folder)[0]
    whole = path.read_bytes()
    columns = pq.ParquetFile(path).metadata.row_group(0)
    for number in range(0, columns.num_columns, 7):
        column = columns.column(number)
        data = bytearray(whole)
        data[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1] ^= 1
        path.write_bytes(data)
        assert f"{path}: cannot be read as Parquet" in _difference(folder), column.path_in_schema
    path.write_bytes(whole[:-100])
    assert f"{path}: cannot be read as Parquet" in _difference(folder)


def test_another_schema_is_reported_by_column(folder: Path) -> None:
    path = _tasks(folder)[0]
    table = pq.read_table(path).drop_columns(["cer"])
    place = table.schema.get_field_index("duration_s")
    table = table.set_column(place, "duration_s", table["duration_s"].cast(pa.float32()))
    path.write_bytes(to_parquet_bytes(table.append_column("mine", pa.nulls(table.num_rows))))
    words = _difference(folder)
    assert "lacks the column cer" in words
    assert "has unknown columns: mine" in words
    assert "column duration_s is float, not double" in words


def test_a_row_that_occurs_twice_is_reported_by_id(folder: Path) -> None:
    path = _tasks(folder)[0]
    (path.parent / "task-again.parquet").write_bytes(path.read_bytes())
    names = pq.read_table(path)["recording_id"].to_pylist()
    words = _difference(folder)
    assert f"{len(names)} recordings have more than one row of the same source and settings: " in words
    assert all(name in words for name in names)
    assert "1 files contain other rows than their names say: task-again.parquet" in words


def test_rows_of_two_versions_of_a_recording_are_reported(folder: Path) -> None:
    path = _tasks(folder)[0]
    rows = pq.read_table(path)
    version = pa.array(["another"] * rows.num_rows)
    rows = rows.set_column(rows.schema.get_field_index("source_version"), "source_version", version)
    (path.parent / "task-changed.parquet").write_bytes(to_parquet_bytes(rows))
    assert "have rows of several versions of their source" in _difference(folder)


def test_a_missing_file_is_found_by_the_plan_and_the_summary(folder: Path) -> None:
    path = _tasks(folder)[0]
    names = pq.read_table(path)["recording_id"].to_pylist()
    path.unlink()
    words = _difference(folder)
    assert f"{len(names)} of 6 recordings that run first planned have no row: " in words
    assert all(name in words for name in names)
    assert f"the summary of run first counts 6 recordings, the output has {6 - len(names)} rows" in words


def test_rows_that_were_changed_do_not_add_up_to_the_summary(folder: Path) -> None:
    def forget(rows: list[Row]) -> None:
        rows[0] |= {"substitutions": rows[0]["substitutions"] + 1}

    scored = next(path for path in _tasks(folder) if pq.read_table(path)["wer"].null_count == 0)
    _rewrite(scored, forget)
    words = _difference(folder)
    assert "has a row whose wer is not edits / num_ref_words" in words
    assert "the rows do not add up to the summary of run first: substitutions" in words


def test_a_file_under_a_wrong_name_is_reported(folder: Path) -> None:
    first, second, *_ = _tasks(folder)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert "2 files contain other rows than their names say" in _difference(folder)


def test_rows_replaced_by_a_later_run_are_not_a_difference(folder: Path, whisper_tiny_en: Path) -> None:
    soundfile.write(folder / "audio" / "1.wav", np.full(SAMPLE_RATE, 1000, np.int16), SAMPLE_RATE)
    config = _settings(folder, f"model.name={whisper_tiny_en}", "run_id=second", "plan.task_audio_s=8")
    _run(config)
    code, words = _verify(folder, f"input.uri={folder / 'audio'}")
    assert code == ExitCode.DONE, words
    assert "1 of 6 recordings of run first were transcribed again since" in words


def test_a_plan_replaced_by_a_later_run_with_the_same_id_is_not_a_difference(
    folder: Path, whisper_tiny_en: Path
) -> None:
    soundfile.write(folder / "audio" / "1.wav", np.full(SAMPLE_RATE, 1000, np.int16), SAMPLE_RATE)
    _run(_settings(folder, f"model.name={whisper_tiny_en}", "run_id=first", "plan.task_audio_s=8"))
    code, words = _verify(folder, f"input.uri={folder / 'audio'}")
    assert code == ExitCode.DONE, words
    assert "the names of 1 file cannot be checked, because a later run with the same run_id" in words
    first, second, *_ = _tasks(folder)
    first.write_bytes(second.read_bytes())
    assert "have more than one row" in _difference(folder)


def test_a_run_that_did_not_finish_is_reported_with_its_missing_recordings(folder: Path) -> None:
    (folder / "out/runs/first/_SUCCESS").unlink()
    code, words = _verify(folder)
    assert code == ExitCode.DONE, words
    assert "run first has no _SUCCESS; all that it planned has rows" in words
    _tasks(folder)[0].unlink()
    assert "planned have no row" in _difference(folder)


def test_rows_of_a_run_that_did_not_finish_do_not_stand_for_forgotten_ones(folder: Path, whisper_tiny_en: Path) -> None:
    forget(_settings(folder), ForgetSettings(recordings=("4.wav",)), Console(file=io.StringIO()))
    (folder / "audio" / "4.wav").unlink()
    soundfile.write(folder / "audio" / "new.wav", np.full(SAMPLE_RATE, 1000, np.int16), SAMPLE_RATE)
    _run(_settings(folder, f"model.name={whisper_tiny_en}", "run_id=second", "plan.task_audio_s=8"))
    for name in ("_SUCCESS", "summary.json"):
        (folder / "out/runs/second" / name).unlink()
    code, words = _verify(folder)
    assert code == ExitCode.DONE, words
    assert "6 rows" in words  # as many as the summary of the first run counts, but others
    assert "distil-ray forget removed 1 row since the summary of run first" in words


def test_a_listing_that_has_grown_or_changed_is_reported(folder: Path) -> None:
    (folder / "audio" / "new.wav").write_bytes((folder / "audio" / "1.wav").read_bytes())
    (folder / "audio" / "2.wav").write_bytes((folder / "audio" / "3.wav").read_bytes())
    (folder / "audio" / "4.wav").unlink()
    code, words = _verify(folder, f"input.uri={folder / 'audio'}")
    assert code == ExitCode.FAILED
    assert "1 of 6 listed recordings have no row: new.wav" in words
    assert "1 of 6 listed recordings have changed since their row was made: 2.wav" in words
    assert "1 rows belong to recordings that are no longer listed" in words


def test_speech_without_text_is_noted_with_the_recordings_that_have_the_most(folder: Path) -> None:
    seconds = iter((2.0, 4.2, 9.5, 1.5, 3.0, 7.0))

    def end_early(rows: list[Row]) -> None:
        for row in rows:
            row |= {"unheard_s": next(seconds), "quality_flags": [UNTRANSCRIBED_SPEECH]}

    for path in _tasks(folder):
        _rewrite(path, end_early)
    names = {
        row["unheard_s"]: row["recording_id"] for path in _tasks(folder) for row in pq.read_table(path).to_pylist()
    }
    difference = "num_untranscribed_speech 6 instead of 0, unheard_s 27.200 instead of 0.000"
    assert difference in _difference(folder)

    summary = folder / "out/runs/first/summary.json"
    counted = {"num_untranscribed_speech": 6, "unheard_s": 27.2}
    summary.write_text(json.dumps(json.loads(summary.read_text()) | counted))
    code, words = _verify(folder)
    assert code == ExitCode.DONE, words
    worst = ", ".join(f"{names[most]} ({most:.1f} s)" for most in (9.5, 7.0, 4.2, 3.0, 2.0))
    assert (
        "note           6 of 6 rows have the flag untranscribed_speech, with 27.2 s of speech after the end of the"
        f" text, most of it in {worst} …\n"
    ) in words


def test_several_normalizers_for_one_language_are_noted(folder: Path) -> None:
    code, words = _verify(folder)
    assert code == ExitCode.DONE and "several normalizers" not in words, words

    def score_earlier(rows: list[Row]) -> None:
        for row in rows:
            row["normalizer"] = "whisper_english (whisper-normalizer 0.1.15)"

    _rewrite(_tasks(folder)[0], score_earlier)
    code, words = _verify(folder)
    assert code == ExitCode.DONE, words
    assert "rows of language en were scored by several normalizers" in words
    assert " by whisper_english (whisper-normalizer 0.1.15)" in words


def test_settings_that_do_not_explain_the_rows_are_noted(folder: Path) -> None:
    config = folder / "out/runs/first/config.yaml"
    config.write_text(config.read_text().replace("task: transcribe", "task: translate"))
    code, words = _verify(folder)
    assert code == ExitCode.DONE, words
    assert "runs first claim it, but their config.yaml gives a different one" in words
    shutil.rmtree(folder / "out/runs")
    code, words = _verify(folder)
    assert code == ExitCode.DONE, words
    assert "no run folder explains them" in words


def test_leftovers_are_noted(folder: Path) -> None:
    (folder / "out/transcripts/.tmp-abc").write_bytes(b"PAR1")
    (folder / "out/runs/first/parts/task").mkdir(parents=True)
    (folder / "out/runs/first/parts/task/000000.parquet").write_bytes(b"")
    code, words = _verify(folder)
    assert code == ExitCode.DONE, words
    assert "1 leftover temporary files: transcripts/.tmp-abc" in words
    assert "runs/first/parts: 1 file left" in words


def test_a_run_in_progress_is_not_a_difference(folder: Path) -> None:
    (folder / "out/runs/first/_SUCCESS").unlink()
    _tasks(folder)[0].unlink()
    with acquire_lease(str(folder / "out"), "first", 60, Storage()):
        code, words = _verify(folder)
    assert code == ExitCode.DONE, words
    assert "is writing to this output" in words
    assert _verify(folder)[0] == ExitCode.FAILED  # without a lease, the run has ended


def test_a_plan_or_summary_that_cannot_be_read_is_a_difference(folder: Path) -> None:
    next((folder / "out/runs/first/plan").iterdir()).write_bytes(b"PAR1 no plan PAR1")
    (folder / "out/runs/first/summary.json").write_text("{")
    words = _difference(folder)
    assert "runs/first/plan: cannot be read" in words
    assert "summary.json: cannot be read" in words


def test_of_runs_that_ended_in_the_same_second_the_newer_one_counts(folder: Path) -> None:
    runs = folder / "out/runs"
    shutil.copytree(runs / "first", runs / "before")
    summary = json.loads((runs / "first/summary.json").read_text())
    other = summary | {"run_id": "before", "insertions": summary["insertions"] + 2}
    (runs / "before/summary.json").write_text(json.dumps(other))
    code, words = _verify(folder)
    assert code == ExitCode.DONE, words

    (runs / "before").rename(runs / "second")
    (runs / "second/summary.json").write_text(json.dumps(other | {"run_id": "second"}))
    assert "do not add up to the summary of run second: insertions" in _difference(folder)


def test_a_missing_output_is_a_settings_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"output\.uri=.*: nothing found"):
        _verify(tmp_path)
    with pytest.raises(SettingsError, match=r"output\.uri is not set"):
        verify(Config(), Console(file=io.StringIO()))


def test_the_exit_code_of_the_job_is_that_of_the_verdict(folder: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs/verify.py"), f"output.uri={folder / 'out'}"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    _tasks(folder)[0].unlink()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    summary = json.loads((folder / "out/runs/first/summary.json").read_text())
    assert summary["num_recordings"] == 6  # nothing was changed by looking
