"""What the command removes, from everywhere, and what it leaves; interruptions; runs afterwards."""

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.forget import job
from distil_ray.nightly import redo as redo_module
from distil_ray.output.lease import acquire_lease
from distil_ray.pipeline import runner
from distil_ray.storage.storage import Storage
from distil_ray.verify.verify import verify
from tests.export.conftest import files_below, run_export
from tests.forget.conftest import FIRST, Run, archive, contents, forget, quoting, record
from tests.support.transcripts import stored_rows

pytestmark = pytest.mark.slow

SECRET = "alice-7"
ALL = [f"{SECRET}.wav", "bob-1.wav", "carol-2.wav", "eve-5.wav", "frank-6.wav"]
ALL += ["shard.tar/carol-3.wav", "shard.tar/dora-4.wav"]
TRACES = (SECRET, f"said in {SECRET}", "alice")


def _verify(output: str) -> str:
    console = Console(file=io.StringIO(), width=200)
    verify(load_config(None, [f"output.uri={output}"]), console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def _texts(output: str) -> dict[str, str]:
    return {row["recording_id"]: row["text"] for row in stored_rows(output)}


@pytest.fixture
def output(root: str, run_on: Run, tmp_path: Path) -> str:
    """An output of two nights: loose files, a shard, one recording that fails; with exports and a comparison."""
    audio = tmp_path / "audio"
    record(audio, SECRET, "bob-1", "carol-2", "carol-3", "dora-4")
    (audio / "eve-5.wav").write_bytes(b"no audio at all")
    archive(audio, "shard.tar", "carol-3", "dora-4")
    run_on(FIRST)
    record(audio, "frank-6")
    run_on(FIRST + timedelta(1))
    return f"{root}/out"


FORMATS = ("txt", "srt", "jsonl", "nemo", "lhotse", "webdataset")


def _exports(target: str) -> str:
    return "exports=" + ",".join(f"{target}/{name}" for name in FORMATS)


def _export_all(output: str, target: str) -> None:
    for name in FORMATS:
        run_export(output, f"{target}/{name}", f"format={name}", "max_failed_fraction=1")


def test_nothing_names_or_quotes_a_forgotten_recording(output: str, root: str, tmp_path: Path) -> None:
    _export_all(output, f"{root}/exports")
    text = _texts(output)[f"{SECRET}.wav"]
    before = files_below(output)
    assert any("report.html" in name for name in quoting(output, *TRACES)), "the page must quote it before"
    assert any("plan/" in name for name in quoting(output, *TRACES))

    code, words = forget(output, f"recordings={SECRET}.wav", _exports(f"{root}/exports"), plan_only=True)
    assert code == ExitCode.DONE
    assert "to remove      1 rows of transcripts" in words
    assert files_below(output) == before, "a plan changes nothing"

    code, words = forget(output, f"recordings={SECRET}.wav", _exports(f"{root}/exports"))

    assert code == ExitCode.DONE
    assert quoting(output, *TRACES, text) == []
    assert quoting(f"{root}/exports", *TRACES, text) == []
    assert sorted(_texts(output)) == sorted({*ALL} - {f"{SECRET}.wav"})
    for other in ("bob-1", "frank-6"):
        assert len(quoting(f"{root}/exports", other)) >= len(FORMATS) - 1
    assert "verdict        no differences" in _verify(output)
    [record_file] = [uri for uri in files_below(f"{output}/forgotten") if uri.endswith(".json")]
    record_data = json.loads(Storage().read(f"{output}/forgotten/{record_file}"))
    assert record_data["num_recordings"] == 1
    assert record_data["removed"]["rows of transcripts"] == 1


def test_members_failed_rows_patterns_and_files_of_names(output: str, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text(f"shard.tar/dora-4.wav\n{tmp_path}/audio/bob-1.wav\n")
    forget(output, f"file={names}")
    forget(output, "recordings=eve-*")
    assert sorted(_texts(output)) == [f"{SECRET}.wav", "carol-2.wav", "frank-6.wav", "shard.tar/carol-3.wav"]
    assert quoting(output, "dora-4", "bob-1", "eve-5") == []
    assert [name for name, text in contents(f"{output}/runs") if name.endswith("failed.csv") and "eve" in text] == []
    assert quoting(output, "carol-3")
    assert "verdict        no differences" in _verify(output)


def test_a_file_whose_channels_are_recordings_is_found_by_its_name(output: str, run_on: Run, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-3000, 3000, (16_000, 2)).astype(np.int16)
    soundfile.write(tmp_path / "audio" / "call-17.wav", noise, 16_000)
    run_on(FIRST + timedelta(2), "input.channels=split", "output.on_settings_change=keep")
    assert {"call-17.wav#0", "call-17.wav#1"} <= set(_texts(output))
    _, words = forget(output, "recordings=call-17.wav")
    assert "not found" not in words
    assert quoting(output, "call-17") == []


@pytest.mark.parametrize("plan_only", [True, False])
def test_an_output_that_is_not_there_is_an_error_and_is_not_made(plan_only: bool, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"output\.uri=.*: nothing found"):
        forget(f"{tmp_path}/misspelled", "recordings=call-17.wav", plan_only=plan_only)
    assert not (tmp_path / "misspelled").exists()


def test_a_folder_of_something_else_is_an_error_and_is_left_as_it_is(tmp_path: Path) -> None:
    record(tmp_path / "audio", "call", seed=1)
    with pytest.raises(SettingsError, match=r"output\.uri=.*audio: nothing found \(no transcripts/ and no runs/"):
        forget(f"{tmp_path}/audio", "recordings=call.wav")
    assert sorted(path.name for path in (tmp_path / "audio").iterdir()) == ["call.txt", "call.wav"]


@pytest.mark.parametrize("name", [f"{SECRET}.wav", f"{{audio}}/{SECRET}.wav"], ids=["id", "path"])
def test_a_run_does_not_transcribe_it_again_until_it_is_allowed(
    output: str, run_on: Run, tmp_path: Path, name: str
) -> None:
    forget(output, f"recordings={SECRET}.wav")
    record(tmp_path / "audio", SECRET, seed=1)  # a new version is still the same recording

    words = run_on(FIRST + timedelta(2))
    assert "forgotten      1 recording skipped" in words
    assert f"{SECRET}.wav" not in _texts(output)
    assert quoting(output, *TRACES) == []

    (tmp_path / "audio" / "mallory-9.wav").write_bytes((tmp_path / "audio" / f"{SECRET}.wav").read_bytes())
    run_on(FIRST + timedelta(3), f"input.uri=[{tmp_path}/audio,{tmp_path}/audio/{SECRET}.wav]")
    assert f"{SECRET}.wav" not in _texts(output), "under another id it is the same source"

    _, words = forget(output, f"recordings={name.format(audio=tmp_path / 'audio')}", "allow=true")
    assert "allowed        1 ids and 1 sources" in words
    run_on(FIRST + timedelta(4))
    assert f"{SECRET}.wav" in _texts(output)


def test_a_member_of_a_shard_is_allowed_again_by_its_id(output: str, run_on: Run) -> None:
    forget(output, "recordings=shard.tar/carol-3.wav,bob-1.wav")
    forget(output, "recordings=shard.tar/carol-3.wav", "allow=true")
    run_on(FIRST + timedelta(2))
    assert "shard.tar/carol-3.wav" in _texts(output) and "bob-1.wav" not in _texts(output)


def test_a_row_that_a_dead_run_writes_afterwards_is_removed_by_the_next(output: str, run_on: Run) -> None:
    late = files_below(f"{output}/transcripts")
    forget(output, f"recordings={SECRET}.wav")
    for name, data in late.items():
        Storage().put(f"{output}/transcripts/{name}", data)
    assert f"{SECRET}.wav" in _texts(output)
    assert "1 rows removed that came after the request" in run_on(FIRST + timedelta(2))
    assert quoting(output, *TRACES) == []


def test_a_name_that_has_no_row_yet_is_never_transcribed(output: str, run_on: Run, tmp_path: Path) -> None:
    _, words = forget(output, "recordings=grace-8.wav")
    assert "not found      grace-8.wav" in words
    record(tmp_path / "audio", "grace-8")
    run_on(FIRST + timedelta(2))
    assert "grace-8.wav" not in _texts(output)
    with pytest.raises(SettingsError, match="no recording of it is selected"):
        forget(output, "recordings=nobody-*")


class _Died(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("root", ["local"], indirect=True)
def test_a_command_that_dies_at_any_moment_is_finished_by_the_next(
    output: str, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _export_all(output, f"{root}/exports")
    before = _texts(output)
    original, exported = files_below(output), files_below(f"{root}/exports")
    words = (f"recordings={SECRET}.wav,shard.tar/dora-4.wav", _exports(f"{root}/exports"))
    forget(output, *words)
    expected = _texts(output)
    kept = {name: data for name, data in files_below(output).items() if "transcripts/" in name}
    storage = Storage()
    changes = ("put", "put_if_absent", "delete", "delete_file")
    deaths = finished = 0
    while True:
        for folder, files in ((output, original), (f"{root}/exports", exported)):
            storage.delete(folder)
            for name, data in files.items():
                storage.put(f"{folder}/{name}", data)
        left = deaths

        def dying(method: Any) -> Any:
            def call(self: Storage, uri: str, *rest: Any) -> Any:
                nonlocal left
                if "_lease" not in uri and left == 0:
                    raise _Died
                left -= "_lease" not in uri
                return method(self, uri, *rest)

            return call

        with monkeypatch.context() as patch:
            for name in changes:
                patch.setattr(Storage, name, dying(getattr(Storage, name)))
            try:
                forget(output, *words)
                break
            except _Died:
                deaths += 1
        if not [name for name in files_below(output) if name.endswith(".pending.json")]:
            assert _texts(output) == before or _texts(output) == expected
            continue
        finished += 1
        forget(output)
        assert quoting(output, *TRACES, "dora-4") == []
        assert quoting(f"{root}/exports", *TRACES, "dora-4") == []
        assert _texts(output) == expected
        assert {name: data for name, data in files_below(output).items() if "transcripts/" in name} == kept
    assert finished > 10
    assert "verdict        no differences" in _verify(output)


def test_rows_of_a_redo_that_has_not_ended_go_too(output: str, run_on: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(redo_module, "replace_rows", lambda *_: (_ for _ in ()).throw(_Died))
        with pytest.raises(_Died):
            run_on(FIRST + timedelta(2), redo=FIRST)
    redo = f"{output}/runs/{FIRST}.2/redo"
    Storage().put(f"{redo}/runs/{FIRST}.2/parts/0/0", f"said in {SECRET}".encode())  # of a task of several parts
    assert [name for name in quoting(output, SECRET) if "/redo/" in name]
    late = files_below(f"{redo}/transcripts")
    forget(output, f"recordings={SECRET}.wav")
    assert quoting(output, *TRACES) == []
    for name, data in late.items():  # the last task of the redo that died
        Storage().put(f"{redo}/transcripts/{name}", data)
    with monkeypatch.context() as patch:  # the run that follows would remove such rows too, at its start
        patch.setattr(runner, "transcribe", lambda *_, **__: (_ for _ in ()).throw(_Died))
        with pytest.raises(_Died):
            run_on(FIRST + timedelta(3))  # replaces the rows of the date
    assert quoting(output, *TRACES) == []
    assert "bob-1.wav" in _texts(output)


def test_it_waits_for_no_run_and_refuses_what_is_wrong(output: str, tmp_path: Path) -> None:
    with acquire_lease(output, "someone", 300, Storage()), pytest.raises(SettingsError, match="writes to this output"):
        forget(output, f"recordings={SECRET}.wav")
    for words, message in (
        ((), "no recording is named"),
        ((f"file={tmp_path}/none.txt",), "must be a text file"),
        (("recordings=a**b",), "can only be a whole component"),
        (("deleted_sources=true",), "needs input.uri"),
        (("recordings=*", "allow=true"), "without wildcards"),
    ):
        with pytest.raises(SettingsError, match=message):
            forget(output, *words)
    with pytest.raises(SettingsError, match="selects the recordings itself"):
        forget(output, "recordings=a", "deleted_sources=true")


def test_deleted_sources_are_forgotten_if_they_are_not_too_many(output: str, tmp_path: Path) -> None:
    (tmp_path / "audio" / f"{SECRET}.wav").unlink()
    words = ("deleted_sources=true", f"input.uri={tmp_path}/audio")
    with pytest.raises(SettingsError, match="max_deleted_fraction"):
        forget(output, *words)
    forget(output, *words, "output.max_deleted_fraction=0.5")
    assert quoting(output, *TRACES) == []
    assert len(_texts(output)) == 6


def test_recordings_of_a_shard_that_cannot_be_read_are_not_forgotten(output: str, tmp_path: Path) -> None:
    """They may be there still; a request would keep runs from transcribing them for good."""
    (tmp_path / "audio" / f"{SECRET}.wav").unlink()
    (tmp_path / "audio" / "shard.tar").write_bytes(b"no archive at all")
    forget(output, "deleted_sources=true", f"input.uri={tmp_path}/audio", "output.max_deleted_fraction=0.5")
    assert _texts(output).keys() == set(ALL) - {f"{SECRET}.wav"}


def test_an_export_at_the_same_time_has_the_rows_before_or_after(
    output: str, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[set[str]] = []

    def export_between(step: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> int:
            target = f"{root}/between-{len(found)}"
            run_export(output, target, "format=txt")
            found.append(set(files_below(target)))
            return int(step(*arguments, **options))

        return call

    everything = {f"{name}.txt" for name in _texts(output) if "eve" not in name}
    monkeypatch.setattr(job, "STEPS", {name: export_between(step) for name, step in job.STEPS.items()})
    forget(output, f"recordings={SECRET}.wav")
    assert found[0] == everything
    assert found[-1] == everything - {f"{SECRET}.wav.txt"}
    assert all(names in (found[0], found[-1]) for names in found)
