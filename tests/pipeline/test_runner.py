"""Whole runs, some of them on a real Ray: resuming, changed settings, accounting of recordings, exit codes."""

import importlib.util
import io
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import soundfile
from rich.console import Console

from distil_ray.cli.console import JsonConsole
from distil_ray.config import Config
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, RunError, SettingsError
from distil_ray.output import block_index, ledger
from distil_ray.output.lease import acquire_lease
from distil_ray.output.run_context import Run
from distil_ray.pipeline import plan_report, ray_cluster, runner, transcribe_stage
from distil_ray.pipeline.int8_dtypes import NodeDtype, find_dtype
from distil_ray.pipeline.model_setup import resolve_beams
from distil_ray.pipeline.setup import prepare_run
from distil_ray.recognition.base import PCM16
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE, Hypothesis
from distil_ray.whisper import processor
from tests.support.fakes import CURSED_SAMPLES, EchoRecognizer, EchoTranscribe
from tests.support.without_ray import run_stages_in_process

S = SAMPLE_RATE
EVENT = {
    "type": "object",
    "required": ["time", "level", "event"],
    "properties": {
        "time": {"type": "string", "format": "date-time"},
        "level": {"enum": ["debug", "info", "warning", "error", "critical"]},
        "event": {"type": "string", "pattern": "^[a-z0-9_]+$"},
        "text": {"type": "string"},
    },
}
Settings = Callable[..., Config]


@pytest.fixture
def settings(tmp_path: Path, whisper_tiny_en: Path) -> Settings:
    """settings(override, …): a config over the test's own folders; the checkpoint is read, but not run."""
    (tmp_path / "audio").mkdir()
    common = [f"input.uri={tmp_path / 'audio'}", f"output.uri={tmp_path / 'out'}", f"model.name={whisper_tiny_en}"]
    return lambda *overrides: load_config(None, [*common, "resources.actors=1", *overrides])


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages of a run are called in this process."""
    run_stages_in_process(monkeypatch)


def _write(folder: Path, name: str, seconds: float, seed: int = 0) -> None:
    noise = np.random.default_rng(seed).integers(-3000, 3000, int(seconds * S)).astype(np.int16)
    soundfile.write(folder / name, noise, S)


def _run(config: Config, transcriber: type = EchoTranscribe) -> tuple[ExitCode, str]:
    console = Console(file=io.StringIO(), width=120)
    code = runner.transcribe(config, console, transcriber)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


def _rows(folder: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(folder / "out" / "transcripts").to_pylist()
    return sorted(rows, key=lambda row: str(row["recording_id"]))


def _files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (folder / "out" / "transcripts").glob("*")}


def test_the_output_is_the_ledger(
    local_ray: None, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        _write(tmp_path / "audio", f"{number}.wav", 2 + number, number)
    code, words = _run(settings("run_id=first"))
    assert code == ExitCode.DONE
    assert "3 recordings" in words
    assert [row["status"] for row in _rows(tmp_path)] == ["ok"] * 3
    before = _files(tmp_path)

    _write(tmp_path / "audio", "new.wav", 1, 7)
    assert _run(settings("run_id=second"))[0] == ExitCode.DONE
    assert before.items() < _files(tmp_path).items()
    assert [row["run_id"] for row in _rows(tmp_path)] == ["first"] * 3 + ["second"]

    def refuse(*_: object) -> None:
        raise AssertionError("nothing is left to do: Ray must not be needed")

    monkeypatch.setattr(ray_cluster, "connect_cluster", refuse)
    code, words = _run(settings("run_id=third"))
    assert code == ExitCode.DONE
    assert "; 4 already done; 0 to process" in words
    summary = json.loads((tmp_path / "out/runs/third/summary.json").read_text())
    assert (summary["num_recordings"], summary["num_done_before"], summary["num_recognized"]) == (4, 4, 0)
    assert (tmp_path / "out/runs/third/_SUCCESS").exists()


def test_a_plan_prints_the_work_and_starts_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, seconds in enumerate((65, 10, 5)):
        _write(tmp_path / "audio", f"{number}.wav", seconds, number)
    (tmp_path / "audio" / "notes.md").write_text("not audio")
    monkeypatch.setattr(ray_cluster, "connect_cluster", lambda *_: pytest.fail("a plan needs no Ray"))
    console = Console(file=io.StringIO(), width=200)
    gpus = ("resources.actors=3", "resources.gpus_per_actor=2")
    code = plan_report.show_plan(settings("plan.task_audio_s=60", "plan.rtfx=2", *gpus), console)
    words = {line[:14].strip(): line[15:] for line in console.file.getvalue().splitlines()}  # type: ignore[attr-defined]
    assert code == ExitCode.DONE
    assert words["found"].startswith("3 recordings (") and words["found"].endswith("; 0 already done; 3 to process")
    assert words["ignored"] == ".md 1"
    assert words["work"] == "1.3 min of audio in 2 tasks"
    assert words["chunks"] == "about 5"
    assert words["longest task"] == "1.1 min of audio, in parts of at most 10.0 min"
    assert words["time"] == "0.7 min at plan.rtfx=2"
    assert words["GPU-hours"] == "0.07 on 6 GPUs (resources.actors=3)"
    assert not (tmp_path / "out").exists()


def test_a_plan_takes_its_speed_from_earlier_runs_of_the_output_and_computes_the_cost(
    settings: Settings, tmp_path: Path
) -> None:
    config = settings("plan.price_per_hour=90")
    identity = prepare_run(config, Console(file=io.StringIO())).run.model_identity
    alike = {"model": identity, "device": "cpu", "audio_recognized_s": 600.0}
    others = ({"model": "another"}, {"device": "cuda:0 (NVIDIA H200)"}, {"audio_recognized_s": 5.0})
    runs = [alike | {"rtfx_job": rtfx} for rtfx in (2.0, 4.0, 60.0)] + [
        alike | one | {"rtfx_job": 900.0} for one in others
    ]
    for number, summary in enumerate(runs):
        Storage().put(f"{tmp_path}/out/runs/{number}/summary.json", json.dumps(summary).encode())
    _write(tmp_path / "audio", "a.wav", 160)
    console = Console(file=io.StringIO(), width=200)

    plan_report.show_plan(config, console)

    words = {line[:14].strip(): line[15:] for line in console.file.getvalue().splitlines()}  # type: ignore[attr-defined]
    assert words["time"] == "0.7 min at RTFx 4.0, the median of 3 earlier runs of this output"
    assert words["cost"] == "1.00 at plan.price_per_hour=90"


def test_events_carry_numbers_and_a_level(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_stages_in_process(monkeypatch)
    for number in range(2):
        _write(tmp_path / "audio", f"{number}.wav", 2 + number, number)
    (tmp_path / "audio" / "notes.md").write_text("not audio")
    out = io.StringIO()

    assert runner.transcribe(settings(), JsonConsole(out), EchoTranscribe) == ExitCode.DONE

    events = {event["event"]: event for event in map(json.loads, out.getvalue().splitlines())}
    for event in events.values():
        jsonschema.validate(event, EVENT)
    assert events["found"].items() >= {"num_recordings": 2, "num_done": 0, "num_to_process": 2}.items()
    assert events["ignored"]["counts"] == {".md": 1}
    assert events["work"]["num_tasks"] == 1 and events["work"]["audio_s"] == pytest.approx(5, abs=0.1)
    assert events["cluster"].items() >= {"num_nodes": 1, "cpus": 4, "num_recognizers": 1}.items()
    assert events["recognized"]["num_done"] == events["summary"]["num_recordings"] == 2


@pytest.mark.parametrize(
    ("more", "is_estimated"),
    [([], True), (["model.recognizer=transformers"], False), (["resources.gpus_per_actor=1"], False)],
)
def test_the_memory_of_an_actor_is_estimated_for_the_native_recognizer_on_cpus(
    settings: Settings, more: list[str], is_estimated: bool
) -> None:
    """whisper-tiny.en takes less than the default of whisper-base."""
    words = ["resources.actor_memory_mb=auto", "decoding.num_beams=1", *more]
    run = prepare_run(settings(*words), Console(file=io.StringIO())).run
    found = run.config.resources.actor_memory_mb
    assert isinstance(found, int) == is_estimated and found != "auto"
    assert not isinstance(found, int) or 600 < found < 1600


@pytest.mark.parametrize(("reserved", "num_lines"), [("256", 1), ("null", 0), ("1000000", 0)])
def test_memory_above_what_ray_reserves_is_one_line(
    reserved: str, num_lines: int, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages_in_process(monkeypatch)
    monkeypatch.setattr(transcribe_stage, "peak_rss_mb", iter([300.0, 400.0, 500.0]).__next__)
    for number in range(3):
        _write(tmp_path / "audio", f"{number}.wav", 2, number)
    console = Console(file=io.StringIO(), width=400)
    config = settings(f"resources.actor_memory_mb={reserved}", "plan.task_audio_s=1")
    assert runner.transcribe(config, console, EchoTranscribe) == ExitCode.DONE
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    found = [line for line in lines if "took 300 MiB" in line]
    assert len(found) == num_lines == len([line for line in lines if "actor_memory_mb" in line])


class ChoosingTranscribe(EchoTranscribe):
    """Has chosen a dtype, and lacked memory."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._recognizer.warnings = (
            "model.dtype=auto: bfloat16, because the processor has amx_bf16",
            "out of memory: decoding.batch_size is now 8",
        )


def test_what_a_recognizer_has_chosen_is_not_a_warning(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages_in_process(monkeypatch)
    _write(tmp_path / "audio", "a.wav", 2)
    out = io.StringIO()
    assert runner.transcribe(settings(), JsonConsole(out), ChoosingTranscribe) == ExitCode.DONE
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    told = [
        (event["event"], event["level"], event["text"].partition(":")[0])
        for event in events
        if event["event"] in ("chosen", "warning")
    ]
    assert told == [("chosen", "info", "model.dtype=auto"), ("warning", "warning", "out of memory")]


class TellingTranscribe(EchoTranscribe):
    """Warns as a recognizer of the machine, and of the memory that was asked for."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._recognizer.warnings = (find_dtype().remark or "", f"{run.config.resources.actor_memory_mb} MiB")


@pytest.mark.parametrize("place", ["local", "head:6379"])
def test_nodes_that_compute_int8_in_float32_are_named_before_the_start_and_actors_get_memory_for_it(
    place: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages_in_process(monkeypatch)
    monkeypatch.setattr(processor, "_read_cpu_flags", frozenset)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # that of an earlier test
    nodes = [NodeDtype("int8", None), find_dtype()]
    monkeypatch.setattr(ray_cluster, "call_on_nodes", lambda function, min_cpus: nodes)
    _write(tmp_path / "audio", "a.wav", 2)
    out, auto = io.StringIO(), "resources.actor_memory_mb=auto"
    config = settings("model.dtype=int8", auto, f"resources.ray_address={place}")

    assert runner.transcribe(config, JsonConsole(out), TellingTranscribe) == ExitCode.DONE

    events = [json.loads(line) for line in out.getvalue().splitlines()]
    warned = [event["text"] for event in events if event["event"] == "warning"]
    reason = find_dtype().remark or ""
    if place == "local":
        assert warned[:-1] == [reason]
        assert next(event["event"] for event in events if event["event"] in ("warning", "starting")) == "warning"
    else:
        assert warned[0] == f"1 node of 2: {reason}" and "float32 on 1 node, int8 on 1 node" in warned[1]
        assert len(warned) == 3
    float32 = prepare_run(settings("model.dtype=float32", auto), Console(file=io.StringIO())).run
    assert warned[-1] == f"{float32.config.resources.actor_memory_mb} MiB"


def test_a_changed_recording_replaces_its_row(without_ray: None, settings: Settings, tmp_path: Path) -> None:
    for number, name in enumerate(("a.wav", "b.wav", "c.wav")):
        _write(tmp_path / "audio", name, 2, number)
    _run(settings("run_id=first"))
    before = {row["recording_id"]: row["text"] for row in _rows(tmp_path)}
    _write(tmp_path / "audio", "b.wav", 3, 9)
    code, words = _run(settings("run_id=second"))
    assert code == ExitCode.DONE
    assert "replaced       1 rows" in words
    after = {row["recording_id"]: row["text"] for row in _rows(tmp_path)}
    assert len(_rows(tmp_path)) == len(after) == 3
    assert {name for name in after if after[name] != before[name]} == {"b.wav"}


def test_the_run_folder_describes_the_run(without_ray: None, settings: Settings, tmp_path: Path) -> None:
    _write(tmp_path / "audio", "a.wav", 70)
    config = settings("run_id=named", "plan.part_audio_s=30")
    assert _run(config)[0] == ExitCode.DONE
    folder = tmp_path / "out/runs/named"
    assert load_config(folder / "config.yaml") == resolve_beams(config)
    assert {path.name for path in folder.iterdir()} == {
        *(
            "config.yaml",
            "plan",
            "summary.json",
            "groups.csv",
            "failed.csv",
            "events.jsonl",
            "outcome.json",
            "report.html",
            "_SUCCESS",
        )
    }
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert sum(event["committed"] for event in events) == 1
    assert len(events) == 3
    planned = pq.read_table(folder / "plan")
    assert planned["recording_id"].to_pylist() == ["a.wav"]


def test_changed_settings_are_listed_and_rows_are_kept_or_redone(
    without_ray: None, settings: Settings, tmp_path: Path
) -> None:
    for name in ("a.wav", "b.wav"):
        _write(tmp_path / "audio", name, 1)
    _run(settings("run_id=first"))
    (before,) = {row["fingerprint"] for row in _rows(tmp_path)}
    (tmp_path / "audio" / "b.wav").unlink()
    _write(tmp_path / "audio", "c.wav", 2)
    other = ("chunking.length_s=15", "decoding.language=en")

    with pytest.raises(SettingsError) as refused:
        _run(settings(*other))
    words = str(refused.value)
    assert "contains 2 rows that were made with other settings" in words
    assert "2 by run first" in words
    assert "chunking.length_s: was auto, is 15" in words
    assert "decoding.language: was auto, is en" in words
    assert "batch_size" not in words
    assert "output.on_settings_change" in words
    assert not (tmp_path / "out/_lease.json").exists()

    code, words = _run(settings(*other, "output.on_settings_change=keep", "run_id=kept"))
    assert code == ExitCode.DONE
    assert "; 1 already done;" in words
    assert "2 of 3 rows were made with other settings and are kept" in words
    assert [row["run_id"] for row in _rows(tmp_path)] == ["first", "first", "kept"]
    summary = json.loads((tmp_path / "out/runs/kept/summary.json").read_text())
    (now,) = {row["fingerprint"] for row in _rows(tmp_path)} - {before}
    assert (summary["num_recordings"], summary["num_done_before"]) == (2, 1)
    assert summary["rows_by_fingerprint"] == {before: 1, now: 1}

    code, words = _run(settings(*other, "output.on_settings_change=redo", "run_id=redone"))
    assert code == ExitCode.DONE
    assert "replaced       1 rows of recordings whose audio or settings changed" in words
    assert "1 of 3 rows were made with other settings" in words  # b.wav, which is not listed any more
    assert [(row["run_id"], row["fingerprint"]) for row in _rows(tmp_path)] == [
        *(("redone", now), ("first", before), ("kept", now))
    ]


class HealedRecognizer(EchoRecognizer):
    """Minds no chunk."""

    def transcribe(
        self, chunks: Sequence[PCM16], languages: Sequence[str], needed: Sequence[int] | None = None
    ) -> list[Hypothesis]:
        return [self._echo(*one) for one in zip(chunks, languages, strict=True)]


class HealedTranscribe(EchoTranscribe):
    """The transcribe stage with it."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._recognizer = HealedRecognizer()


def test_retry_failed_processes_only_failed_recordings_and_replaces_their_rows(
    local_ray: None, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "audio", "a.wav", 2)
    _write(tmp_path / "audio", "cursed.wav", CURSED_SAMPLES / S)
    (tmp_path / "audio" / "broken.wav").write_text("no audio at all")
    lenient = "max_failed_fraction=1"
    assert _run(settings("run_id=first", lenient))[0] == ExitCode.DONE
    _write(tmp_path / "audio", "new.wav", 1)

    def outcome() -> list[tuple[object, ...]]:
        return [(row["recording_id"], row["status"], row["run_id"]) for row in _rows(tmp_path)]

    retry = (lenient, "retry_failed=true")
    assert outcome() == [("a.wav", "ok", "first"), ("broken.wav", "failed", "first"), ("cursed.wav", "failed", "first")]
    code, words = _run(settings("run_id=again", *retry))
    assert code == ExitCode.DONE
    assert "; 1 without a failed row skipped (retry_failed); 2 to process" in words
    assert "replaced       2 rows of recordings that have a better or newer row" in words
    assert outcome() == [("a.wav", "ok", "first"), ("broken.wav", "failed", "again"), ("cursed.wav", "failed", "again")]

    run_stages_in_process(monkeypatch)  # from here on no recording ends a recognizer
    assert _run(settings("run_id=healed", *retry), HealedTranscribe)[0] == ExitCode.DONE
    assert outcome() == [("a.wav", "ok", "first"), ("broken.wav", "failed", "healed"), ("cursed.wav", "ok", "healed")]
    failed_recordings = (tmp_path / "out/runs/healed/failed.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in failed_recordings] == ["recording_id", "broken.wav"]

    _write(tmp_path / "audio", "broken.wav", 1)  # mended: a change of its source, but of a failed one
    code, words = _run(settings("run_id=mended", *retry))
    assert "replaced       1 rows of recordings whose audio or settings changed" in words
    assert outcome() == [("a.wav", "ok", "first"), ("broken.wav", "ok", "mended"), ("cursed.wav", "ok", "healed")]
    assert _run(settings("run_id=rest"))[0] == ExitCode.DONE
    assert outcome()[-1] == ("new.wav", "ok", "rest")


def test_duplicate_rows_are_removed_by_the_next_run(without_ray: None, settings: Settings, tmp_path: Path) -> None:
    """A dead run's last task may still be written while the next run plans its recordings anew."""
    for name in ("a.wav", "b.wav"):
        _write(tmp_path / "audio", name, 1)
    _run(settings("run_id=first"))
    (task,) = (tmp_path / "out/transcripts").glob("*.parquet")
    table = pq.read_table(task)
    pq.write_table(table.slice(0, 1), task.with_name("task-late.parquet"))
    Path(tmp_path, "out/runs/dead/parts/b").mkdir(parents=True)
    Path(tmp_path, "out/runs/dead/parts/b/000000.parquet").write_bytes(b"half")
    code, words = _run(settings("run_id=second"))
    assert code == ExitCode.DONE
    assert "replaced       1 rows of recordings that have a better or newer row" in words
    assert "cleaned up     1 intermediate results of runs that did not end" in words
    assert [row["recording_id"] for row in _rows(tmp_path)] == ["a.wav", "b.wav"]


def test_a_run_that_loses_its_lease_stops_and_names_the_holder(
    local_ray: None, settings: Settings, tmp_path: Path
) -> None:
    for number in range(12):
        _write(tmp_path / "audio", f"{number}.wav", 1, number)
    config = settings("run_id=first", "output.lease_s=3", "plan.task_recordings=1")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_run, config, SlowTranscribe)
        while not list((tmp_path / "out").glob("transcripts/*.parquet")):
            assert not running.done(), running.result()
            time.sleep(0.1)
        with pytest.raises(SettingsError, match="run first, process"):
            _run(settings("run_id=second"))
        with acquire_lease(str(tmp_path / "out"), "second", 60, Storage(), force=True):
            with pytest.raises(RunError, match="was taken over by run second"):
                running.result(60)
            assert json.loads((tmp_path / "out/_lease.json").read_text())["run_id"] == "second"
    assert (tmp_path / "out/runs/first/events.jsonl").read_text().count('"committed": true') >= 1
    assert not (tmp_path / "out/runs/first/_SUCCESS").exists()


class SlowTranscribe(EchoTranscribe):
    """Takes a second for a part."""

    def __call__(self, parts: pa.Table) -> pa.Table:
        time.sleep(1)
        return super().__call__(parts)


def test_an_output_that_cannot_be_written_is_an_error_at_the_start(settings: Settings, tmp_path: Path) -> None:
    _write(tmp_path / "audio", "a.wav", 1)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match=r"output\.uri=.*/file/out: cannot (list|write)"):
        _run(settings(f"output.uri={tmp_path}/file/out"))


def test_a_missing_extra_is_an_error_at_the_start(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "audio", "a.wav", 1)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "silero_vad" else find(name))
    with pytest.raises(SettingsError, match=r"chunking\.strategy=vad.*silero-vad is not installed.*distil-ray\[vad\]"):
        _run(settings("chunking.strategy=vad"))
    assert not (tmp_path / "out").exists()


class LosingTranscribe(EchoTranscribe):
    """Loses the last chunk of every part."""

    def __call__(self, parts: pa.Table) -> pa.Table:
        result = super().__call__(parts)
        row = result.to_pylist()[0]
        row |= {"chunks": row["chunks"][:-1], "hypotheses": row["hypotheses"][:-1]}
        return pa.Table.from_pylist([row], schema=result.schema)


def test_an_incomplete_account_of_recordings_is_an_error(without_ray: None, settings: Settings, tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        _write(tmp_path / "audio", name, 1)
    with pytest.raises(RunError) as caught:
        _run(settings("run_id=bad"), LosingTranscribe)
    assert "2 of 2 listed recordings have no row: a.wav, b.wav" in str(caught.value)
    assert "do not fit together" in str(caught.value)
    assert not (tmp_path / "out/runs/bad/_SUCCESS").exists()
    assert _run(settings("run_id=bad"))[0] == ExitCode.DONE  # the same run again: it does what is missing
    assert len(_rows(tmp_path)) == 2
    assert (tmp_path / "out/runs/bad/_SUCCESS").exists()
    assert not (tmp_path / "out/runs/bad/parts").exists()


def test_too_many_failures_have_exit_code_3(without_ray: None, settings: Settings, tmp_path: Path) -> None:
    _write(tmp_path / "audio", "a.wav", 1)
    (tmp_path / "audio" / "b.wav").write_text("no audio at all")
    code, words = _run(settings("max_failed_fraction=0.4", "max_failed_count=0"))
    assert code == ExitCode.TOO_MANY_FAILED
    assert "1 of 2 recordings, more than max_failed_fraction=0.4 and max_failed_count=0" in words
    assert [row["status"] for row in _rows(tmp_path)] == ["ok", "failed"]
    assert (
        _run(settings("max_failed_fraction=0.5", "max_failed_count=0"))[0] == ExitCode.DONE
    )  # counted from what is stored


def test_transcripts_can_be_read_with_common_tools(without_ray: None, settings: Settings, tmp_path: Path) -> None:
    import datasets
    import duckdb
    import pandas
    import polars

    _write(tmp_path / "audio", "a.wav", 3)
    (tmp_path / "audio" / "a.txt").write_text("three seconds of noise")
    _run(settings())
    (text,) = (row["text"] for row in _rows(tmp_path))
    files = [str(path) for path in (tmp_path / "out" / "transcripts").glob("*.parquet")]
    assert pandas.read_parquet(files[0])["text"].tolist() == [text]
    assert polars.read_parquet(files[0])["text"].to_list() == [text]
    with duckdb.connect() as database:
        found = database.execute(f"select text, chunks[1].text from '{files[0]}'").fetchall()
    assert found == [(text, text)]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["text"][:] == [text]
    assert loaded[0]["chunks"][0]["end_s"] == 3


def test_a_run_leaves_an_index_of_its_transcripts_and_the_next_one_reads_no_block(
    tmp_path: Path, settings: Settings, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_index, "MIN_BLOCKS", 2)
    monkeypatch.setattr(block_index, "RACY_S", -60.0)  # else blocks written just now wait for the next run
    for number in range(3):
        _write(tmp_path / "audio", f"{number}.wav", 1, number)
    config = settings("plan.task_recordings=1", "report.write=false")
    assert _run(config)[0] == ExitCode.DONE
    (index,) = (tmp_path / "out" / "ledger").glob("*.parquet")
    assert len(pq.read_table(index)) == 3
    monkeypatch.setattr(ledger, "_read_file", lambda *_: pytest.fail("a block was read"))
    code, words = _run(config)
    assert (code, "; 3 already done; 0 to process" in words) == (ExitCode.DONE, True)
