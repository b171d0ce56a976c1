"""The single places, over files made up: names, messages, groups, the ledger's index, hashes, exports."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from distil_ray.errors import RunError, SettingsError
from distil_ray.forget.exports import ExportCleaner
from distil_ray.forget.request import Request
from distil_ray.forget.rows import clear_transcripts
from distil_ray.forget.run_folders import clear_groups, clear_messages
from distil_ray.forget.selection import Names
from distil_ray.forget.tree import list_outputs
from distil_ray.output import block_index
from distil_ray.output.forgotten import Forgotten, Remembered, allow_again, rows_forgotten_since, source_key
from distil_ray.output.ledger import Ledger
from distil_ray.output.ledger_index import IndexUpdate, read_index
from distil_ray.storage.storage import Storage
from distil_ray.types import AudioLocation, Recording
from tests.support.transcripts import transcript_row, write_transcripts


def _request(*ids: str, **more: object) -> Request:
    return Request("r", "2026-11-22T00:00:00+00:00", ids, [f"/audio/{one}" for one in ids], {}, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "matching", "others"),
    [
        ("a.wav", [("a.wav", "s3://b/x")], [("b/a.wav", "s3://b/b/a.wav"), ("a.wav2", "s3://b/2")]),
        ("s3://b/x", [("a", "s3://b/x")], [("a", "s3://b/xy")]),
        ("s3://b/cust/", [("a", "s3://b/cust/7/a.wav"), ("b", "s3://b/cust/b")], [("c", "s3://b/customer/c")]),
        ("cust-*", [("cust-1", "u"), ("cust-", "u")], [("cust-1/a", "u"), ("xcust-1", "u")]),
        ("**/7/*.wav", [("a/7/b.wav", "u"), ("z", "s3://b/7/x.wav")], [("a/71/b.wav", "u")]),
    ],
)
def test_names_are_ids_uris_prefixes_and_patterns(
    name: str, matching: list[tuple[str, str]], others: list[tuple[str, str]]
) -> None:
    names = Names([name])
    assert names.unmatched == [name]
    assert [names(*pair, None) for pair in others] == [False] * len(others)
    assert [names(*pair, None) for pair in matching] == [True] * len(matching)
    assert names.unmatched == []


def test_names_of_a_file_have_no_wildcards() -> None:
    names = Names([], ["a*"])
    assert (names("a*", "", None), names("ab", "", None)) == (True, False)


def test_messages_lose_the_names_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "1"
    folder.mkdir(parents=True)
    event = {"task_id": "7", "error": "7: cannot read /audio/7, but 77 and x/7a", "warnings": ["a 7"], "device": "7"}
    (folder / "events.jsonl").write_text(json.dumps(event) + "\n" + '{"error": null,  "at_s": 7}\n')
    (folder / "outcome.json").write_text(json.dumps({"exit_code": 7, "text": "1 of 7 has no row: 7"}))
    (folder / "config.yaml").write_text("input:\n  uri: [/audio/7, /audio/8]\nrun_id: '7'\n")
    [tree] = list_outputs(str(tmp_path), Storage())
    assert clear_messages(_request("7"), tree, Storage(), apply=False) == 4
    assert clear_messages(_request("7"), tree, Storage(), apply=True) == 4
    first, second = (folder / "events.jsonl").read_text().splitlines()
    assert json.loads(first) == event | {
        "error": "[forgotten]: cannot read [forgotten], but 77 and x/7a",
        "warnings": ["a [forgotten]"],
    }
    assert second == '{"error": null,  "at_s": 7}'
    assert json.loads((folder / "outcome.json").read_text())["exit_code"] == 7
    assert "'[forgotten]'\n  - /audio/8" in (folder / "config.yaml").read_text()


def test_a_speaker_whom_nobody_else_names_disappears_from_the_groups(tmp_path: Path) -> None:
    write_transcripts(tmp_path, [transcript_row("b", metadata={"speaker": "bob"})])
    folder = tmp_path / "runs" / "1"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"wer": 0.1, "groups": {"speaker": {"alice": {}, "bob": {}}}}))
    (folder / "groups.csv").write_text("group_by,value,wer\nspeaker,alice,0.1\nspeaker,bob,0.2\n")
    [tree] = list_outputs(str(tmp_path), Storage())
    request = _request("a", groups=[["speaker", "alice"], ["speaker", "bob"]])
    assert clear_groups(request, tree, Storage(), apply=True) == 1
    assert json.loads((folder / "summary.json").read_text()) == {"wer": 0.1, "groups": {"speaker": {"bob": {}}}}
    assert (folder / "groups.csv").read_text() == "group_by,value,wer\nspeaker,bob,0.2\n"


def test_the_index_of_the_ledger_loses_the_entries_of_recordings_whose_rows_have_gone_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that dies after it has removed the rows leaves entries with hashes of their ids to the next one."""
    monkeypatch.setattr(block_index, "MIN_BLOCKS", 1)
    monkeypatch.setattr(block_index, "RACY_S", -10.0)
    output, storage = str(tmp_path), Storage()
    write_transcripts(output, [transcript_row("a")], [transcript_row("b")])
    update = IndexUpdate()
    Ledger.read(output, storage, update=update)
    update.write(output, storage)
    entries = list(storage.list_files(f"{output}/transcripts"))
    assert sum(len(rows.files) for rows in read_index(entries, output, storage)) == 2
    [tree] = list_outputs(output, storage)
    storage.delete_file(f"{output}/transcripts/task-0.parquet")
    assert clear_transcripts(_request("a"), tree, storage, apply=True) == 0
    [rows] = read_index(entries, output, storage)
    assert [entries[number].uri.rsplit("/")[-1] for number in rows.files] == ["task-1.parquet"]
    assert clear_transcripts(_request("b"), tree, storage, apply=True) == 1
    assert list(storage.list_files(f"{output}/ledger")) == []


def test_a_request_that_has_stored_no_hashes_yet_counts_all_the_same(tmp_path: Path) -> None:
    """Else a run before the command is finished would transcribe the recordings again and count them."""
    sources = {source_key("s3://b/x.wav", None).hex(): "a"}
    request = Request("r", "2026-11-22T00:00:00+00:00", ["a"], [], sources)
    request.store(str(tmp_path), Storage())
    forgotten = Forgotten.read(str(tmp_path), Storage())
    listed = [Recording("a", "s3://b/elsewhere.wav"), Recording("b", "s3://b/x.wav"), Recording("c", "s3://b/c.wav")]
    assert forgotten.mask(listed).tolist() == [True, True, False]
    assert forgotten.pending == ("r",)
    (tmp_path / "forgotten" / "r.pending.json").write_text("{")
    with pytest.raises(RunError, match=r"r\.pending\.json: is damaged"):
        Forgotten.read(str(tmp_path), Storage())


def test_hashes_know_ids_and_sources_whatever_the_version(tmp_path: Path) -> None:
    member = AudioLocation(member="a.flac", byte_start=512, num_bytes=9)
    request = Request(
        request_id="r",
        requested_at="2026-11-22T00:00:00+00:00",
        ids=["a"],
        uris=[],
        sources={
            source_key("s3://b/t.tar", {"member": "a.flac"}).hex(): "a",
            source_key("s3://b/x.wav", None).hex(): "",
        },
    )
    request.store_hashes(str(tmp_path), Storage())
    forgotten = Forgotten.read(str(tmp_path), Storage())
    listed = [
        Recording("a", "s3://b/elsewhere.wav"),
        Recording("b", "s3://b/t.tar", location=member, source_version="2"),
        Recording("c", "s3://b/t.tar", location=AudioLocation(member="b.flac")),
        Recording("d", "s3://user:secret@b/x.wav"),
        Recording("e", "s3://b/x.wav"),
    ]
    assert forgotten.mask(listed).tolist() == [True, True, False, False, True]
    remembered = Remembered(listed, forgotten)
    assert [one.recording_id for one in remembered] == ["c", "d"]
    assert remembered.num_forgotten == 3
    assert not Forgotten.read(str(tmp_path / "none"), Storage()).mask(listed).any()


@pytest.mark.parametrize(
    ("names", "removed", "left"),
    [
        (["t.tar/a.flac"], (1, 1), ["b", "c"]),  # the source of a member has no other name
        (["s3://b/b.wav"], (1, 1), ["a", "c"]),
        (["b"], (1, 1), ["a", "c"]),
        (["s3://b/c.wav"], (0, 1), ["a", "b"]),
        (["unknown"], (0, 0), ["a", "b", "c"]),
        (None, (2, 3), []),
    ],
)
def test_a_recording_is_allowed_again_by_its_id_or_its_uri(
    tmp_path: Path, names: list[str] | None, removed: tuple[int, int], left: list[str]
) -> None:
    """Recordings that a request knew from rows, and one by its URI alone."""
    member = {"member": "a.flac"}
    sources = {
        source_key("s3://b/t.tar", member).hex(): "t.tar/a.flac",
        source_key("s3://b/b.wav", None).hex(): "b",
        source_key("s3://b/c.wav", None).hex(): "",
    }
    Request("r", "2026-11-22T00:00:00+00:00", ["t.tar/a.flac", "b"], [], sources).store_hashes(str(tmp_path), Storage())
    assert allow_again(names, str(tmp_path), Storage()) == removed
    listed = [
        Recording("t.tar/a.flac", "s3://b/t.tar", location=AudioLocation(member="a.flac")),
        Recording("b", "s3://b/b.wav"),
        Recording("c", "s3://b/c.wav"),
    ]
    gone = Forgotten.read(str(tmp_path), Storage()).mask(listed)
    assert [name for name, is_gone in zip("abc", gone.tolist(), strict=True) if is_gone] == left


def test_a_line_of_an_export_ends_at_a_line_feed_only(tmp_path: Path) -> None:
    """Texts are not escaped, and may contain characters that Unicode takes for the end of a line."""
    lines = [{"recording_id": "a", "text": "first\u2028second\x85third"}, {"recording_id": "b", "text": "x\u2029y"}]
    path = tmp_path / "transcripts.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), newline="")
    assert ExportCleaner(_request("a"), Storage()).clear(str(tmp_path), apply=True) == 1
    assert json.loads(path.read_text()) == lines[1]


def test_a_damaged_file_of_hashes_stops_a_run(tmp_path: Path) -> None:
    (tmp_path / "forgotten").mkdir()
    (tmp_path / "forgotten" / "r.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(Exception, match="would be transcribed again"):
        Forgotten.read(str(tmp_path), Storage())
    with pytest.raises(SettingsError, match="can only be"):
        Names(["a**b"])


def test_calls_of_a_recording_and_examples_of_a_data_set_leave_exports(tmp_path: Path) -> None:
    lines = [{"call_id": "call-1", "turns": []}, {"call_id": "call-2", "turns": []}]
    (tmp_path / "calls.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    nemo = [{"audio_filepath": "a%2F1@0%2E000+1.flac", "shard_id": 0}, {"audio_filepath": "b.flac", "shard_id": 0}]
    (tmp_path / "tarred_audio_manifest.json").write_text("".join(json.dumps(line) + "\n" for line in nemo))
    (tmp_path / "words.ctm").write_text("a/1 1 0.0 0.1 hello 1\nb%20c 1 0.0 0.1 hello 1\n")
    request = _request("a/1", "b c", call_ids=["call-1"], examples=["a/1@0.000+1"])
    assert ExportCleaner(request, Storage()).clear(str(tmp_path), apply=True) == 4
    assert json.loads((tmp_path / "calls.jsonl").read_text()) == lines[1]
    assert json.loads((tmp_path / "tarred_audio_manifest.json").read_text()) == nemo[1]
    assert (tmp_path / "words.ctm").read_text() == ""


def test_removed_rows_are_counted_by_the_time_of_their_request(tmp_path: Path) -> None:
    request = _request("a")
    record = {"requested_at": request.requested_at, "rows_by_fingerprint": {"f": 2}}
    request.finish(record, str(tmp_path), Storage())
    assert rows_forgotten_since(datetime(2026, 11, 21, tzinfo=UTC), str(tmp_path), Storage()) == {"f": 2}
    assert not rows_forgotten_since(datetime(2026, 11, 23, tzinfo=UTC), str(tmp_path), Storage())
