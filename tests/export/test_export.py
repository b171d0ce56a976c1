"""The whole command: which recordings, where to, what it refuses, how it ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from distil_ray.errors import ExitCode, RunError, SettingsError
from distil_ray.output.ledger import Ledger
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from tests.export.conftest import TRANSCRIPT_FORMATS, files_below, run_export
from tests.support.transcripts import transcript_row, write_transcripts

ROOT = Path(__file__).resolve().parents[2]

MIXED = [
    transcript_row(
        "a/1.flac",
        text="One.",
        dtype="int8",
        metadata={"speaker": "7"},
        quality_flags=["repetition_loop"],
        languages=[{"language": "en", "share": 0.7}, {"language": "de", "share": 0.3}],
    ),
    transcript_row("b", text="Zwei.", language="de", status="partial", error_kind="truncated"),
    transcript_row("c#1", text="", status="empty"),
    transcript_row("d", text=None, status="failed", error_kind="not_audio", duration_s=0.0, chunks=[]),
]


def test_every_recording_with_a_transcript_becomes_a_file(root: str) -> None:
    out, target = join(root, "out"), join(root, "text")
    write_transcripts(out, MIXED[:2], MIXED[2:])
    code, words = run_export(out, target, "format=txt")
    assert code == ExitCode.DONE
    assert files_below(target) == {"a/1.flac.txt": b"One.\n", "b.txt": b"Zwei.\n", "c#1.txt": b"\n"}
    assert f"exported       3 recordings, 0.5 min of audio, as txt: 3 files in {target}" in words
    assert "left out       1 recordings: status failed 1" in words


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("status=ok", {"a/1.flac.srt"}),
        ("status=partial,empty", {"b.srt", "c#1.srt"}),
        ("where=language:de", {"b.srt"}),
        ("where=language:German", {"b.srt"}),
        ("where=speaker:7", {"a/1.flac.srt"}),
        ("where=quality_flags:repetition_loop,language:en", {"a/1.flac.srt"}),
        ("where=-language:German", {"a/1.flac.srt", "c#1.srt"}),
        ("where=languages:German", {"a/1.flac.srt", "b.srt"}),
        ("where=languages:de,-languages:en", {"b.srt"}),
        ("where=-quality_flags:repetition_loop", {"b.srt", "c#1.srt"}),
        ("where=dtype:int8", {"a/1.flac.srt"}),
        ("where=-dtype:int8", {"b.srt", "c#1.srt"}),
    ],
)
def test_recordings_are_chosen_by_status_columns_and_metadata(tmp_path: Path, word: str, names: set[str]) -> None:
    write_transcripts(f"{tmp_path}/out", MIXED)
    run_export(f"{tmp_path}/out", f"{tmp_path}/srt", "format=srt", word)
    assert set(files_below(f"{tmp_path}/srt")) == names


def test_a_choice_that_leaves_nothing_is_an_error_that_counts_why(tmp_path: Path) -> None:
    write_transcripts(f"{tmp_path}/out", MIXED)
    for form in TRANSCRIPT_FORMATS:
        with pytest.raises(SettingsError, match=r"not language:xx 3, status failed 1"):
            run_export(f"{tmp_path}/out", f"{tmp_path}/to", f"format={form}", "where=language:xx")
    assert not Path(f"{tmp_path}/to").exists() or files_below(f"{tmp_path}/to") == {}


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("speaker:7,-speeker:7", r"where=-speeker:7: speeker is neither a column .* Did you mean speaker\?"),
        ("-langauge:de", r"langauge is neither a column .* Did you mean language\?"),
        ("-zz:1", r"zz is neither a column .* Keys of the metadata: speaker"),
        ("-words:hello", "the column words has several values"),
    ],
)
def test_a_condition_on_a_name_that_no_recording_has_is_an_error(tmp_path: Path, condition: str, reason: str) -> None:
    write_transcripts(f"{tmp_path}/out", MIXED)
    for words in ([], ["group=call"]):
        with pytest.raises(SettingsError, match=reason):
            run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=txt", f"where={condition}", *words)
    assert not Path(f"{tmp_path}/to").exists()


def test_a_key_of_the_metadata_of_one_recording_is_known(tmp_path: Path) -> None:
    words = transcript_row("w", metadata={"words": "12"})
    write_transcripts(f"{tmp_path}/out", MIXED, [words, transcript_row("last", metadata={"room": "A"})])
    run_export(f"{tmp_path}/out", f"{tmp_path}/txt", "format=srt", "where=-room:A,-words:12,-speaker:7")
    assert set(files_below(f"{tmp_path}/txt")) == {"b.srt", "c#1.srt"}


def test_of_several_rows_of_a_recording_the_present_one_is_exported(tmp_path: Path) -> None:
    old, new = (
        transcript_row("a", text=text, source_version=version) for text, version in (("old", "1"), ("new", "2"))
    )
    new["processed_at"] = new["processed_at"].replace(hour=1)
    failed = {**new, "status": "failed", "text": None, "processed_at": new["processed_at"].replace(hour=2)}
    write_transcripts(f"{tmp_path}/out", [new, transcript_row("b")], [old], [failed])
    run_export(f"{tmp_path}/out", f"{tmp_path}/txt", "format=txt")
    assert files_below(f"{tmp_path}/txt") == {"a.txt": b"new\n", "b.txt": b"Good morning.\n"}


@pytest.mark.parametrize("form", ["txt", "jsonl"])
def test_existing_files_at_the_target_are_replaced_only_with_overwrite(root: str, form: str) -> None:
    out, target = join(root, "out"), join(root, "to")
    write_transcripts(out, [transcript_row("a")])
    name = {"txt": "a.txt", "jsonl": "transcripts.jsonl"}[form]
    Storage().put(join(target, name), b"somebody's own")
    with pytest.raises(SettingsError, match=rf"the file {name} exists already.*overwrite=true"):
        run_export(out, target, f"format={form}")
    assert files_below(target) == {name: b"somebody's own"}
    run_export(out, target, f"format={form}", "overwrite=true")
    assert b"Good morning." in files_below(target)[name]


def test_the_same_export_may_be_run_again(root: str) -> None:
    out, target = join(root, "out"), join(root, "to")
    write_transcripts(out, MIXED)
    run_export(out, target, "format=vtt")
    before = files_below(target)
    assert run_export(out, target, "format=vtt")[0] == ExitCode.DONE
    assert files_below(target) == before


def test_ids_with_parent_folders_stay_inside_the_target(tmp_path: Path) -> None:
    write_transcripts(
        f"{tmp_path}/out",
        [transcript_row(name) for name in ("../../x", "/etc/x", "a/../../../x", "..", "a\x00b", "C:\\x")],
    )
    run_export(f"{tmp_path}/out", f"{tmp_path}/deep/er/txt", "format=txt")
    assert len(files_below(f"{tmp_path}/deep/er/txt")) == 6
    assert {path.name for path in tmp_path.iterdir()} == {"out", "deep"}


def test_recordings_of_several_settings_are_reported(tmp_path: Path) -> None:
    write_transcripts(f"{tmp_path}/out", [transcript_row("a"), transcript_row("b", fingerprint="e" * 16)])
    _, words = run_export(f"{tmp_path}/out", f"{tmp_path}/txt", "format=txt")
    assert f"fingerprint:{'e' * 16} 1, fingerprint:{'f' * 16} 1" in words


def test_too_many_recordings_without_a_place_in_the_form_are_an_exit_code(tmp_path: Path) -> None:
    chunks = [{"start_s": 0.0, "end_s": 6.0, "text": "a b"}, {"start_s": 4.0, "end_s": 10.0, "text": "b c"}]
    write_transcripts(f"{tmp_path}/out", [transcript_row("a"), transcript_row("b", text="a b c", chunks=chunks)])
    code, words = run_export(f"{tmp_path}/out", f"{tmp_path}/srt", "format=srt", "max_failed_count=0")
    assert code == ExitCode.TOO_MANY_FAILED
    assert "skipped        1 recording, for example b: recognized in overlapping chunks" in words
    code, _ = run_export(f"{tmp_path}/out", f"{tmp_path}/srt", "format=srt", "max_failed_fraction=0.5")
    assert code == ExitCode.DONE


@pytest.mark.parametrize("names", ["b", "ba", "xb"])
def test_a_file_that_changes_while_it_is_exported_stops_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    write_transcripts(f"{tmp_path}/out", [transcript_row("a"), transcript_row("b")])
    read = Ledger.read

    def read_then_change(output: str, storage: Storage) -> Ledger:
        ledger = read(output, storage)
        write_transcripts(output, [transcript_row(name) for name in names])
        return ledger

    monkeypatch.setattr(Ledger, "read", read_then_change)
    with pytest.raises(RunError, match="has changed since it was listed"):
        run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=jsonl")
    assert files_below(f"{tmp_path}/to") == {}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["format=srtt"], "Did you mean srt"),
        (["format=srt", "status=failed"], r"failed\.csv"),
        (["format=srt", "where=language"], "must be column:value"),
        (["format=srt", "to="], "to=: must name a folder"),
        ([], "format=… must be given"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_do(tmp_path: Path, words: list[str], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        run_export(f"{tmp_path}/out", f"{tmp_path}/to", *words)


def test_an_output_without_transcripts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="has no transcripts"):
        run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=srt")


def test_the_job_takes_its_settings_beside_those_of_a_run(tmp_path: Path) -> None:
    write_transcripts(f"{tmp_path}/out", MIXED)
    job = [sys.executable, str(ROOT / "jobs/export.py"), f"output.uri={tmp_path}/out"]
    done = subprocess.run([*job, "format=srt", f"to={tmp_path}/srt"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(files_below(f"{tmp_path}/srt")) == {"a/1.flac.srt", "b.srt", "c#1.srt"}
    wrong = subprocess.run([*job, "fromat=srt", f"to={tmp_path}/x"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "error: fromat: unknown setting" in wrong.stderr
