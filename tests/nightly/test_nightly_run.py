"""Nightly runs with a fake recognizer: partitions, drift, redo, retention, webhook."""

import contextlib
import io
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from rich.console import Console

from distil_ray.cli.signals import Stopped
from distil_ray.commands.main import main
from distil_ray.config import Config
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.nightly import nightly_run, run_records
from distil_ray.nightly import redo as redo_module
from distil_ray.output.lease import acquire_lease
from distil_ray.output.run_context import Run
from distil_ray.pipeline import runner
from distil_ray.pipeline.setup import RunSetup, prepare_run
from distil_ray.recognition.base import PCM16
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE, Hypothesis
from distil_ray.verify.verify import verify
from tests.support.fakes import EchoRecognizer, EchoTranscribe
from tests.support.webhook_server import WebhookServer, webhook_server
from tests.support.without_ray import run_stages_in_process

FIRST = date(2026, 11, 20)
TOMORROW = FIRST + timedelta(1)
SECRET = "T0K3N"
RunOn = Callable[..., tuple[ExitCode, str]]


class ConstantRecognizer(EchoRecognizer):
    """Returns the same two words for every chunk."""

    logprob = -0.2

    def transcribe(
        self, chunks: Sequence[PCM16], languages: Sequence[str], needed: Sequence[int] | None = None
    ) -> list[Hypothesis]:
        hypothesis = Hypothesis("good morning", (1, 2), self.logprob, no_speech_prob=0.0, compression_ratio=1.0)
        return [hypothesis] * len(chunks)


class UsualTranscribe(EchoTranscribe):
    def __init__(self, run: Run) -> None:
        assert run.config.nightly.webhook_url is None, "the secret must not reach workers"
        super().__init__(run)
        self._recognizer = ConstantRecognizer()


class LowLogprobTranscribe(UsualTranscribe):
    """The same words, with less confidence."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._recognizer.logprob = -0.9  # type: ignore[attr-defined]


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebhookServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with webhook_server(f"/hooks/{SECRET}") as found:
        yield found


@pytest.fixture
def run_on(tmp_path: Path, whisper_tiny_en: Path, listener: WebhookServer, monkeypatch: pytest.MonkeyPatch) -> RunOn:
    """run_on(today, override, …, as_of=, redo=, transcriber=): does a nightly run.

    Returns the exit code, and the errors followed by the console output. `today` is a date, or a moment with a time
    zone.
    """
    run_stages_in_process(monkeypatch)
    (tmp_path / "audio").mkdir()
    common = [f"input.uri={tmp_path}/audio", f"output.uri={tmp_path}/out", f"model.name={whisper_tiny_en}"]
    common += ["resources.actors=1", f"nightly.webhook_url={listener.url}", "nightly.min_recordings=1"]
    common += ["nightly.history_runs=3", "nightly.min_history_runs=2", "nightly.max_rtfx_drop=null"]

    def run(
        today: date | datetime,
        *overrides: str,
        as_of: date | None = None,
        redo: date | None = None,
        transcriber: type = UsualTranscribe,
        force: bool = False,
    ) -> tuple[ExitCode, str]:
        now = today if isinstance(today, datetime) else datetime.combine(today, time(12), UTC)
        monkeypatch.setattr(nightly_run, "_utc_now", lambda: now)
        console, errors = Console(file=io.StringIO(), width=120), io.StringIO()
        with contextlib.redirect_stderr(errors):
            code = nightly_run.run_nightly(
                load_config(None, [*common, *overrides]), console, transcriber, as_of=as_of, redo=redo, force=force
            )
        return code, errors.getvalue() + console.file.getvalue()  # type: ignore[attr-defined]

    return run


def _record(folder: Path, *names: str, seed: int = 0) -> None:
    for number, name in enumerate(names):
        noise = np.random.default_rng([seed, number]).integers(-3000, 3000, SAMPLE_RATE).astype(np.int16)
        soundfile.write(folder / "audio" / f"{name}.wav", noise, SAMPLE_RATE)
        (folder / "audio" / f"{name}.txt").write_text("good morning")


def _partitions(folder: Path) -> dict[str, list[str]]:
    """Returns the recording ids by partition."""
    found: dict[str, list[str]] = {}
    for path in sorted((folder / "out/transcripts").rglob("*.parquet")):
        found.setdefault(path.parent.name, []).extend(
            pq.ParquetFile(path).read(["recording_id"])["recording_id"].to_pylist()
        )
    return {name: sorted(ids) for name, ids in found.items()}


def _report(folder: Path, run_id: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "out/runs" / run_id / "nightly_run.json").read_text())
    return report


def _last_line(words: str) -> str:
    return words.rstrip().splitlines()[-1]


def test_five_nightly_runs_of_which_the_last_has_drift(run_on: RunOn, tmp_path: Path, listener: WebhookServer) -> None:
    _record(tmp_path, "a", "b")
    code, words = run_on(FIRST)
    assert code == ExitCode.DONE
    assert "not checked yet: 0 nightly runs to compare with" in words
    assert _partitions(tmp_path) == {"date=2026-11-20": ["a.wav", "b.wav"]}

    code, words = run_on(FIRST + timedelta(1))
    assert code == ExitCode.DONE
    assert "not checked: no new recordings" in words
    assert _last_line(words) == "nightly run    2026-11-21.1 done, no new recordings: exit code 0"
    assert (tmp_path / "out/runs/2026-11-21.1/_SUCCESS").exists()

    _record(tmp_path, "b", "c", seed=1)
    assert run_on(FIRST + timedelta(2))[0] == ExitCode.DONE
    assert _partitions(tmp_path) == {"date=2026-11-20": ["a.wav"], "date=2026-11-22": ["b.wav", "c.wav"]}

    _record(tmp_path, "d")
    code, words = run_on(FIRST + timedelta(3))
    assert code == ExitCode.DONE
    assert "WER 0.00 %, median of 2 nightly runs 0.00 %, allowed up to 2.00 %: within limits" in words

    _record(tmp_path, "e")
    (tmp_path / "audio/e.txt").write_text("good morning everybody")
    code, words = run_on(FIRST + timedelta(4), transcriber=LowLogprobTranscribe)
    assert code == ExitCode.DRIFT
    assert "median of 3 nightly runs 0.00 %, allowed up to 2.00 %: too high (nightly.max_wer_rise)" in words
    assert "mean log-probability -0.90, median of 3 nightly runs -0.20, allowed down to -0.30: too low" in words
    assert _last_line(words) == (
        "nightly run    2026-11-24.1 drift, 1 recording, outside the limits: wer, avg_logprob: exit code 4"
    )
    assert (tmp_path / "out/runs/2026-11-24.1/_SUCCESS").exists()  # the rows are complete
    assert "Drift from earlier nightly runs" in (tmp_path / "out/runs/2026-11-24.1/report.html").read_text()
    assert "Drift in the last nightly run" in (tmp_path / "out/history.html").read_text()

    assert [body["date"] for body in listener.bodies] == [str(FIRST + timedelta(age)) for age in range(5)]
    assert listener.bodies[-1] == _report(tmp_path, "2026-11-24.1")
    assert listener.bodies[-1]["exit_code"] == 4
    outcome = json.loads((tmp_path / "out/runs" / listener.bodies[-1]["run_id"] / "outcome.json").read_text())
    assert (outcome["exit_code"], outcome["outcome"]) == (4, "drift")
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in content for content in written)


def test_a_second_attempt_is_checked_with_the_figures_of_the_whole_date(run_on: RunOn, tmp_path: Path) -> None:
    for age in range(3):
        _record(tmp_path, f"{age}")
        code, _ = run_on(FIRST + timedelta(age), transcriber=LowLogprobTranscribe if age == 2 else UsualTranscribe)
    assert code == ExitCode.DRIFT
    code, words = run_on(FIRST + timedelta(2))
    assert code == ExitCode.DRIFT  # a scheduler that retries gets the same exit code
    assert "2026-11-22.2 drift, no new recordings, outside the limits: avg_logprob" in words


def test_a_past_date_is_transcribed_again_and_no_other(run_on: RunOn, tmp_path: Path) -> None:
    _record(tmp_path, "a", "b", "gone")
    run_on(FIRST)
    _record(tmp_path, "c")
    run_on(FIRST + timedelta(1))
    (tmp_path / "audio/gone.wav").unlink()
    _record(tmp_path, "new")
    others = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/transcripts/date=2026-11-21").iterdir()}

    code, words = run_on(FIRST + timedelta(2), redo=FIRST, transcriber=LowLogprobTranscribe)
    assert code == ExitCode.DONE
    assert "replaced       2 rows of 2026-11-20" in words
    partition = tmp_path / "out/transcripts/date=2026-11-20"
    rows = [row for path in partition.iterdir() for row in pq.ParquetFile(path).read().to_pylist()]
    redone = {row["recording_id"]: (row["run_id"], row["avg_logprob"]) for row in rows}
    assert len(rows) == 3
    assert redone["a.wav"] == redone["b.wav"] == ("2026-11-20.2", pytest.approx(-0.9))
    assert redone["gone.wav"] == ("2026-11-20.1", pytest.approx(-0.2))
    assert others == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out/transcripts/date=2026-11-21").iterdir()
    }
    folder = tmp_path / "out/runs/2026-11-20.2"
    assert {path.name for path in folder.iterdir()} >= {"summary.json", "nightly_run.json", "_SUCCESS", "config.yaml"}
    assert not (folder / "redo").exists()
    assert load_config(folder / "config.yaml").output.uri == f"{tmp_path}/out"

    assert verify(load_config(None, [f"output.uri={tmp_path}/out"]), Console(quiet=True)) == ExitCode.DONE
    assert run_on(FIRST + timedelta(2))[0] == ExitCode.DONE  # only the new recording is transcribed
    assert _partitions(tmp_path)["date=2026-11-22"] == ["new.wav"]


def test_today_can_be_done_again(run_on: RunOn, tmp_path: Path) -> None:
    _record(tmp_path, "a")
    run_on(FIRST)
    _record(tmp_path, "new")
    code, words = run_on(FIRST, redo=FIRST)
    assert code == ExitCode.DONE
    assert "replaced       1 rows of 2026-11-20" in words
    assert {name: run_id for name, (run_id, _) in _texts(tmp_path).items()} == {"a.wav": "2026-11-20.2"}
    run_on(FIRST)
    assert {name: run_id for name, (run_id, _) in _texts(tmp_path).items()} == {
        "a.wav": "2026-11-20.2",
        "new.wav": "2026-11-20.3",
    }


def test_a_run_as_of_a_past_date_is_the_nightly_run_of_that_date(run_on: RunOn, tmp_path: Path) -> None:
    for age, name in enumerate("abc"):
        _record(tmp_path, name)
        run_on(FIRST + timedelta(age), transcriber=LowLogprobTranscribe if age == 2 else UsualTranscribe)
    past, today = FIRST + timedelta(1), FIRST + timedelta(5)
    _record(tmp_path, "new")
    _record(tmp_path, "c", seed=1)

    code, words = run_on(today, as_of=past)
    assert code == ExitCode.DONE
    assert "not checked yet: 1 nightly runs to compare with" in words  # that of the first date, not the later ones
    assert _partitions(tmp_path) == {"date=2026-11-20": ["a.wav"], "date=2026-11-21": ["b.wav", "c.wav", "new.wav"]}
    report = _report(tmp_path, "2026-11-21.2")
    assert (report["date"], report["num_recognized"], report["figures"]["num_recordings"]) == ("2026-11-21", 2, 3)

    before = _texts(tmp_path)
    assert run_on(today, as_of=past)[0] == ExitCode.DONE
    assert _report(tmp_path, "2026-11-21.3")["num_recognized"] == 0
    assert _texts(tmp_path) == before


@pytest.mark.parametrize(
    ("timezone", "day"), [("UTC", "2026-11-20"), ("Asia/Tokyo", "2026-11-21"), ("America/Los_Angeles", "2026-11-20")]
)
def test_the_time_zone_decides_which_date_is_today(
    run_on: RunOn, tmp_path: Path, listener: WebhookServer, timezone: str, day: str
) -> None:
    _record(tmp_path, "a")
    code, words = run_on(datetime(2026, 11, 20, 16, 30, tzinfo=UTC), f"nightly.timezone={timezone}")
    assert code == ExitCode.DONE
    assert f"date           {day} ({timezone}), attempt 1" in words
    assert _partitions(tmp_path) == {f"date={day}": ["a.wav"]}
    (body,) = listener.bodies
    assert (body["date"], body["timezone"], body["finished_at"]) == (day, timezone, "2026-11-20T16:30:00+00:00")


def test_json_events_carry_figures_and_errors_go_to_standard_error(
    run_on: RunOn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["nightly", f"{tmp_path}/audio", "-o", f"{tmp_path}/out", "--log-format", "json"]
    assert main([*words, "model.name=packaged:whisper-tiny.en"]) == ExitCode.BAD_SETTINGS
    printed = capsys.readouterr()
    (error,) = [json.loads(line) for line in printed.err.splitlines()]
    assert (error["level"], error["event"], error["exit_code"]) == ("error", "error", 2)
    events = {event["event"]: event for event in map(json.loads, printed.out.splitlines())}
    assert "error" not in events
    assert (events["date"]["attempt"], events["date"]["is_redo"]) == (1, False)
    last = events["nightly_run"]
    assert (last["level"], last["outcome"], last["exit_code"], last["num_recognized"]) == ("error", "not started", 2, 0)


def test_an_interrupted_redo_changes_no_row_and_is_resumed(
    run_on: RunOn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _record(tmp_path, "a", "b")
    run_on(FIRST)
    before = _texts(tmp_path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EchoTranscribe, "__call__", _interrupt)
        run_on(TOMORROW, redo=FIRST)
    assert _texts(tmp_path) == before
    code, words = run_on(TOMORROW, redo=FIRST)
    assert code == ExitCode.DONE
    assert "2026-11-20 (UTC), attempt 2, transcribing its recordings again" in words
    assert {run_id for run_id, _ in _texts(tmp_path).values()} == {"2026-11-20.2"}
    assert not (tmp_path / "out/runs/2026-11-20.2/redo").exists()


@pytest.mark.parametrize("again", [None, FIRST])
@pytest.mark.parametrize("at", ["replacing", "deleting", "deleting by name"])
def test_an_interrupted_replacement_is_completed_without_transcribing_again(
    run_on: RunOn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: date | None, at: str
) -> None:
    _record(tmp_path, "a", "b", "gone")
    run_on(FIRST)
    (tmp_path / "audio/gone.wav").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if at == "replacing":
            patch.setattr(redo_module, "_remove_replaced_rows", _interrupt)
        elif at == "deleting":
            patch.setattr(Storage, "delete", _delete_half)
        else:
            patch.setattr(Storage, "delete", _delete_first_half)
            patch.setattr(Storage, "delete_files", _delete_first_half)
        run_on(TOMORROW, redo=FIRST)

    with monkeypatch.context() as patch:
        patch.setattr(EchoTranscribe, "__call__", _interrupt)
        code, words = run_on(TOMORROW, redo=again)
    assert code == ExitCode.DONE
    assert "rows of 2026-11-20" in words
    runs = {name: run_id for name, (run_id, _) in _texts(tmp_path).items()}
    assert runs == {"a.wav": "2026-11-20.2", "b.wav": "2026-11-20.2", "gone.wav": "2026-11-20.1"}
    assert list(Storage().list_files(f"{tmp_path}/out/runs/2026-11-20.2/redo")) == []
    assert (tmp_path / "out/runs/2026-11-20.2/_SUCCESS").exists()


def _delete_half(self: Storage, uri: str, delete: Callable[[Storage, str], None] = Storage.delete) -> None:
    """Deletes a part of a redo folder and raises KeyboardInterrupt."""
    if uri.endswith("/redo"):
        delete(self, f"{uri}/transcripts")
        raise KeyboardInterrupt
    delete(self, uri)


def _delete_first_half(self: Storage, uris: str | list[str], delete: Callable[..., None] = Storage.delete) -> None:
    """Deletes files of a redo folder in the order of their names, as S3 does, and raises KeyboardInterrupt midway."""
    if isinstance(uris, str) and not uris.endswith("/redo"):
        delete(self, uris)
        return
    names = sorted(entry.uri for entry in self.list_files(uris)) if isinstance(uris, str) else sorted(uris)
    for name in names[: len(names) // 2]:
        self.delete_file(name)
    raise KeyboardInterrupt


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def _texts(folder: Path) -> dict[str, tuple[str, str]]:
    """Returns run id and text of every recording. Asserts that none has two rows."""
    paths = (folder / "out/transcripts").rglob("*.parquet")
    rows = [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]
    assert len({row["recording_id"] for row in rows}) == len(rows)
    return {row["recording_id"]: (row["run_id"], row["text"]) for row in rows}


def test_a_failure_of_a_redo_does_not_replace_a_transcript(run_on: RunOn, tmp_path: Path) -> None:
    _record(tmp_path, "a", "b")
    run_on(FIRST)
    (tmp_path / "audio" / "b.wav").write_bytes(b"no audio any more")
    code, words = run_on(TOMORROW, redo=FIRST, transcriber=LowLogprobTranscribe)
    assert code == ExitCode.DONE
    assert "kept           1 rows of recordings that failed this time: b.wav" in words
    files = (tmp_path / "out/transcripts/date=2026-11-20").iterdir()
    rows = [row for path in files for row in pq.ParquetFile(path).read().to_pylist()]
    assert sorted((row["recording_id"], row["run_id"], row["status"]) for row in rows) == [
        ("a.wav", "2026-11-20.2", "ok"),
        ("b.wav", "2026-11-20.1", "ok"),
    ]


def test_a_failure_of_a_redo_with_the_same_settings_does_not_replace_a_transcript(
    run_on: RunOn, tmp_path: Path
) -> None:
    _record(tmp_path, "a", "b")
    soundfile.write(tmp_path / "audio/a.wav", np.arange(SAMPLE_RATE // 4, dtype=np.int16), SAMPLE_RATE)
    run_on(FIRST)
    code, words = run_on(TOMORROW, "input.max_duration_s=0.5", redo=FIRST)  # b.wav lasts a second
    assert code == ExitCode.DONE
    assert "kept           1 rows of recordings that failed this time: b.wav" in words
    runs = {name: run_id for name, (run_id, _) in _texts(tmp_path).items()}
    assert runs == {"a.wav": "2026-11-20.2", "b.wav": "2026-11-20.1"}


def test_a_redo_with_too_many_failures_replaces_nothing(run_on: RunOn, tmp_path: Path) -> None:
    _record(tmp_path, "a", "b")
    run_on(FIRST)
    (tmp_path / "audio/a.wav").write_text("no audio at all")
    code, words = run_on(FIRST + timedelta(1), "max_failed_count=0", redo=FIRST)
    assert code == ExitCode.TOO_MANY_FAILED, words
    assert "the old rows of this date are kept" in words
    rows = [
        row
        for path in (tmp_path / "out/transcripts").rglob("*.parquet")
        for row in pq.ParquetFile(path).read().to_pylist()
    ]
    assert [row["status"] for row in rows] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        ({"redo": TOMORROW}, r"--redo 2026-11-21: is in the future; today is 2026-11-20 \(nightly.timezone=UTC\)"),
        ({"as_of": TOMORROW}, "--as-of 2026-11-21: is in the future"),
        ({"as_of": FIRST, "redo": FIRST}, "--as-of 2026-11-20 and --redo 2026-11-20: only one of them"),
    ],
)
def test_dates_that_cannot_be_used_are_an_error(
    run_on: RunOn, tmp_path: Path, listener: WebhookServer, dates: dict[str, date], message: str
) -> None:
    _record(tmp_path, "a")
    with pytest.raises(SettingsError, match=message):
        run_on(FIRST, **dates)
    assert not (tmp_path / "out").exists() and not listener.bodies


def test_a_date_without_transcripts_cannot_be_done_again(run_on: RunOn, tmp_path: Path) -> None:
    _record(tmp_path, "a")
    code, message = run_on(TOMORROW, redo=FIRST)
    assert code == ExitCode.BAD_SETTINGS
    assert "error: --redo 2026-11-20: " in message and "Use --as-of 2026-11-20" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("override", ["run_id=mine", "output.partition=2026-11-01"])
def test_settings_that_a_nightly_run_derives_cannot_be_given(run_on: RunOn, override: str) -> None:
    with pytest.raises(SettingsError, match=f"{override}: a nightly run sets this"):
        run_on(FIRST, override)


def test_a_failed_run_notifies_the_webhook(run_on: RunOn, listener: WebhookServer, tmp_path: Path) -> None:
    code, words = run_on(FIRST)  # the input is an empty folder
    assert code == ExitCode.BAD_SETTINGS
    assert "there are no recordings" in words
    (body,) = listener.bodies
    assert (body["outcome"], body["exit_code"], body["run_id"]) == ("not started", 2, "2026-11-20.1")
    assert "there are no recordings" in body["text"]


def test_a_second_run_of_an_output_is_not_started_and_notifies_the_webhook(
    run_on: RunOn, listener: WebhookServer, tmp_path: Path
) -> None:
    _record(tmp_path, "a")
    with acquire_lease(f"{tmp_path}/out", "still-running", 300, Storage()):
        code, words = run_on(FIRST)
        assert code == ExitCode.BAD_SETTINGS
        assert "run still-running" in words
        assert _partitions(tmp_path) == {}
        assert run_on(FIRST, force=True)[0] == ExitCode.DONE
    assert [body["outcome"] for body in listener.bodies] == ["not started", "done"]


def test_an_internal_error_notifies_the_webhook(
    run_on: RunOn, listener: WebhookServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _record(tmp_path, "a")

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(runner, "transcribe", fail)
    code, words = run_on(FIRST)
    assert code == ExitCode.FAILED
    assert words.startswith("error: ZeroDivisionError: a fault (internal error at ")
    assert _last_line(words) == "nightly run    2026-11-20.1 failed: a fault: exit code 1"
    assert _report(tmp_path, "2026-11-20.1")["outcome"] == "failed"
    assert listener.bodies[0]["outcome"] == "failed"


def test_a_signal_after_the_transcription_is_the_outcome_of_the_run(
    run_on: RunOn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise Stopped(signal.SIGTERM)

    _record(tmp_path, "a")
    monkeypatch.setattr(run_records, "compute_figures", stop)
    with pytest.raises(Stopped):
        run_on(FIRST)
    outcome = json.loads((tmp_path / "out/runs/2026-11-20.1/outcome.json").read_text())
    assert (outcome["outcome"], outcome["exit_code"]) == ("stopped", 143)


def test_a_failing_webhook_does_not_fail_the_run(run_on: RunOn, listener: WebhookServer, tmp_path: Path) -> None:
    _record(tmp_path, "a")
    listener.statuses = [410]
    code, words = run_on(FIRST)
    assert code == ExitCode.DONE
    assert "warning        the webhook at 127.0.0.1 did not accept the report in 1 try: HTTP status 410" in words
    assert SECRET not in words


def test_run_folders_of_old_dates_are_removed_and_transcripts_stay(run_on: RunOn, tmp_path: Path) -> None:
    runs = tmp_path / "out/runs"
    for name in ("2026-10-01.1", "2026-11-17.1", "2026-11-18.1", "2026-11-18.2", "2026-11-19.1", "20260101T000000000Z"):
        (runs / name).mkdir(parents=True)
        (runs / name / "config.yaml").touch()
    (runs / "2026-09-01.2" / "redo").mkdir(parents=True)
    (runs / "2026-09-01.2" / "redo" / "config.yaml").touch()  # a redo that was killed is finished by the next one
    _record(tmp_path, "a")
    code, words = run_on(FIRST, "nightly.keep_runs=4")
    assert code == ExitCode.DONE
    assert "removed        1 run folders, 2026-10-01.1 to 2026-10-01.1; transcripts stay" in words
    assert {path.name for path in runs.iterdir()} == {
        *("2026-11-17.1", "2026-11-18.1", "2026-11-18.2", "2026-11-19.1", "2026-11-20.1", "20260101T000000000Z"),
        "2026-09-01.2",
    }
    assert _partitions(tmp_path) == {"date=2026-11-20": ["a.wav"]}


def test_a_run_whose_id_another_process_has_used_meanwhile_does_nothing(
    run_on: RunOn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nightly runs begin at once, and the second one gets the lease when the first has ended."""
    _record(tmp_path, "a")
    prepare = prepare_run

    def do_another_run_first(config: Config, console: Console) -> RunSetup:
        monkeypatch.setattr(runner, "prepare_run", prepare)
        assert run_on(FIRST)[0] == ExitCode.DONE
        return prepare(config, console)

    monkeypatch.setattr(runner, "prepare_run", do_another_run_first)
    code, words = run_on(FIRST)
    assert code == ExitCode.BAD_SETTINGS
    assert "another process has used this run id" in words
    folder = tmp_path / "out/runs" / f"{FIRST}.1"
    assert json.loads((folder / "nightly_run.json").read_text())["outcome"] == "done"
    assert (folder / "_SUCCESS").exists() and (folder / "plan").is_dir()


def test_partitions_open_in_the_usual_tools_with_their_date(run_on: RunOn, tmp_path: Path) -> None:
    import datasets
    import duckdb
    import pandas
    import polars

    for age, name in enumerate("ab"):
        _record(tmp_path, name)
        run_on(FIRST + timedelta(age))
    folder = tmp_path / "out/transcripts"
    expected = [("2026-11-20", "a.wav"), ("2026-11-21", "b.wav")]

    frame = pandas.read_parquet(folder)
    assert sorted(zip(frame["date"].astype(str), frame["recording_id"], strict=True)) == expected
    table = polars.read_parquet(folder / "**/*.parquet", hive_partitioning=True)
    assert sorted(table.select(polars.col("date").cast(str), "recording_id").rows()) == expected
    with duckdb.connect() as database:
        query = f"select date::varchar, recording_id from '{folder}/**/*.parquet' order by 1"
        assert database.execute(query).fetchall() == expected
    files = str(folder / "**/*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(loaded["recording_id"][:]) == ["a.wav", "b.wav"]
