"""The plan holds what is left to do, once, in tasks of bounded audio, longest first."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distil_ray.config import InputConfig, PlanConfig
from distil_ray.errors import InputError, RunError
from distil_ray.output.ledger import FAILED, FINAL, KEY, RETRYABLE, Keys, Ledger, find_ids, id_keys, recording_keys
from distil_ray.pipeline.planner import TASKS_PER_FILE, Plan, make_plan, parse_recordings, read_task
from distil_ray.readers.listing import list_recordings
from distil_ray.schema import PLAN
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE, AudioLocation, Prompt, Recording, SpeakerTurn
from tests.support import ledgers
from tests.support.clips import load_manifest

EMPTY = ledgers.ledger_of(np.empty(0, KEY))


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "plan") if request.param == "local" else str(request.getfixturevalue("bucket")) + "/plan"


def recording(number: int, duration_s: float | None) -> Recording:
    return Recording(f"id-{number}", f"/in/{number}.wav", 32_000 * (number % 7), f"v{number}", duration_s=duration_s)


def keys_of(recordings: list[Recording], fingerprint: str) -> Keys:
    return recording_keys(
        [one.recording_id for one in recordings],
        [one.source_size for one in recordings],
        [one.source_version for one in recordings],
        [fingerprint] * len(recordings),
    )


def ledger_of(recordings: list[Recording], fingerprint: str) -> Ledger:
    return ledgers.ledger_of(keys_of(recordings, fingerprint))


def tasks_of(plan: Plan) -> list[list[Recording]]:
    return [parse_recordings(read_task(plan.uri, number, Storage())) for number in range(plan.num_tasks)]


def test_every_field_of_a_recording_comes_back_from_its_task(folder: str) -> None:
    place = AudioLocation("a/1.wav", 1536, 5, None, None, 0.5, 2.25, 1)
    turns = SpeakerTurn(0.0, 1.5, "a"), SpeakerTurn(1.25, 2.0, "b")
    metadata = {"speaker": "s", "empty": ""}
    full = Recording("ä/1.wav", "s3://b/ä.tar", 5, "etag", place, 9.5, "de", "Grüße", metadata)
    full = replace(full, call_id="7", rttm_uri="s3://b/ä.rttm", speaker_turns=turns)
    full = replace(full, prompt=Prompt("Grüße.", ("ä", "b")))
    bare = Recording("b", "/b.wav")
    plan = make_plan([bare, full], EMPTY, "f", PlanConfig(), folder, Storage())
    assert tasks_of(plan) == [[full, bare]]


def test_the_plan_counts_what_is_listed_done_and_left(folder: str) -> None:
    recordings = [recording(number, 10.0 if number % 2 else None) for number in range(50)]
    ledger = ledger_of(recordings[:20], "f")
    plan = make_plan(iter(recordings), ledger, "f", PlanConfig(task_audio_s=30), folder, Storage())
    assert (plan.num_listed, plan.num_done, plan.num_recordings) == (50, 20, 30)
    left = [one for task in tasks_of(plan) for one in task]
    assert sorted(left, key=lambda one: one.uri) == sorted(recordings[20:], key=lambda one: one.uri)
    assert plan.known_s == 150
    assert plan.estimated_s == 150 + sum(number % 7 for number in range(20, 50, 2))
    assert plan.tasks["num_recordings"].to_pylist() == [len(task) for task in tasks_of(plan)]
    assert len(plan.listed_keys) == 50
    shorter = sum(2 if number % 7 > 4 else 1 for number in range(20, 50, 2))
    assert plan.num_chunks(4 * SAMPLE_RATE) == 15 * 3 + shorter
    assert make_plan(recordings, ledger, "g", PlanConfig(), None, Storage()).num_done == 0


def test_a_plan_that_is_only_shown_writes_nothing(tmp_path: Path) -> None:
    recordings = [recording(number, 10.0) for number in range(5)]
    shown = make_plan(recordings, EMPTY, "f", PlanConfig(), None, Storage())
    written = make_plan(recordings, EMPTY, "f", PlanConfig(), str(tmp_path / "plan"), Storage())
    assert shown.uri == ""
    assert shown.tasks == written.tasks
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]


def test_nothing_left_to_do_is_a_plan_without_tasks(tmp_path: Path) -> None:
    recordings = [recording(number, 10.0) for number in range(5)]
    plan = make_plan(recordings, ledger_of(recordings, "f"), "f", PlanConfig(), str(tmp_path / "plan"), Storage())
    assert (plan.num_listed, plan.num_done, plan.num_tasks, plan.estimated_s) == (5, 5, 0, 0)
    assert list(tmp_path.iterdir()) == []


def test_task_ids_depend_on_contents_and_fingerprint_alone() -> None:
    recordings = [recording(number, float(number % 3)) for number in range(40)]

    def ids(recordings: list[Recording], fingerprint: str) -> list[str]:
        plan = make_plan(recordings, EMPTY, fingerprint, PlanConfig(task_audio_s=5), None, Storage())
        return list(plan.tasks["task_id"].to_pylist())

    first = ids(recordings, "f")
    assert len(set(first)) == len(first)
    assert ids(recordings[::-1], "f") == first
    assert not set(ids(recordings, "g")) & set(first)
    changed = [Recording("id-0", "/in/0.wav", 0, "changed", duration_s=0.0), *recordings[1:]]
    assert len(set(ids(changed, "f")) - set(first)) == 1


def test_a_plan_over_many_files_reads_task_by_task_and_as_one_table(folder: str) -> None:
    recordings = [recording(number, 60.0 + number / 100) for number in range(2 * TASKS_PER_FILE + 5)]
    plan = make_plan(recordings, EMPTY, "f", PlanConfig(task_audio_s=30), folder, Storage())
    assert plan.num_tasks == len(recordings)
    for number in (0, TASKS_PER_FILE - 1, TASKS_PER_FILE, plan.num_tasks - 1):
        assert parse_recordings(read_task(folder, number, Storage())) == [recordings[-1 - number]]
    with pytest.raises(RunError, match=f"no task {plan.num_tasks}"):
        read_task(folder, plan.num_tasks, Storage())
    if not folder.startswith("s3"):
        table = pq.read_table(folder)
        assert table.schema.equals(PLAN)
        assert pa.compute.sum(table["estimated_s"]).as_py() == pytest.approx(plan.estimated_s)
        assert table["task_id"].to_pylist() == plan.tasks["task_id"].to_pylist()


def test_a_listing_that_ends_in_an_error_leaves_no_plan(tmp_path: Path) -> None:
    for name in ("in/a/1.wav", "in/b/1.wav"):
        Storage().put(str(tmp_path / name), b"1")
    listing = list_recordings(InputConfig(uri=(f"{tmp_path}/in/a", f"{tmp_path}/in/b")), Storage())
    with pytest.raises(InputError, match="duplicate id"):
        make_plan(listing, EMPTY, "f", PlanConfig(), str(tmp_path / "plan"), Storage())
    assert not (tmp_path / "plan").exists()


def test_what_was_listed_and_not_delivered_is_named_from_the_plan(folder: str) -> None:
    recordings = [recording(number, 10.0) for number in range(10)]
    plan = make_plan(recordings, EMPTY, "f", PlanConfig(task_audio_s=30), folder, Storage())
    missing = ledger_of(recordings[:7] + recordings[8:], "f").missing(plan.listed_keys)
    assert find_ids(missing, plan.uri, "f", Storage()) == ["id-7"]


def test_real_speech_is_planned_whole(clips: Path, tmp_path: Path) -> None:
    listing = list_recordings(InputConfig(uri=(str(clips / "manifest.jsonl"),)), Storage())
    plan = make_plan(listing, EMPTY, "f", PlanConfig(task_audio_s=30), str(tmp_path), Storage())
    tasks = tasks_of(plan)
    assert sorted(one.recording_id for task in tasks for one in task) == sorted(one.recording_id for one in listing)
    assert plan.estimated_s == pytest.approx(sum(row["duration_s"] for row in load_manifest().values()), rel=0.05)
    seconds = plan.tasks["estimated_s"].to_pylist()
    assert seconds == sorted(seconds, reverse=True)
    assert [len(task) for task, length in zip(tasks, seconds, strict=True) if length > 30] == [1]


def test_twenty_thousand_recordings_against_a_ledger_of_as_many(tmp_path: Path) -> None:
    recordings = [recording(number, 3.0 + number % 17) for number in range(20_000)]
    ledger = ledger_of(recordings[::2] + [recording(number, 1.0) for number in range(20_000, 30_000)], "f")
    plan = make_plan(iter(recordings), ledger, "f", PlanConfig(), str(tmp_path), Storage())
    assert (plan.num_done, plan.num_recordings) == (10_000, 10_000)
    planned = {one.recording_id for task in tasks_of(plan) for one in task}
    assert planned == {one.recording_id for one in recordings[1::2]}


def test_what_is_tried_again_is_a_task_of_another_name_and_leaves_new_recordings_alone() -> None:
    known = [recording(number, 10.0) for number in range(3)]
    keys, ids = keys_of(known, "f"), id_keys([one.recording_id for one in known])

    def plan(times: list[int], retry_failed: bool) -> Plan:
        grades = np.array([FAILED, RETRYABLE, FINAL], np.uint8)
        ledger = ledgers.ledger_of(keys, ids, grades, np.array(times))
        listing = [*known, recording(9, 5.0)]
        return make_plan(listing, ledger, "f", PlanConfig(), None, Storage(), retry_failed=retry_failed)

    again, later = plan([1, 1, 1], True), plan([2, 2, 2], True)
    assert (again.num_listed, again.num_skipped, again.num_done, again.num_recordings) == (3, 1, 1, 2)
    assert again.tasks["task_id"].to_pylist() == plan([1, 1, 1], True).tasks["task_id"].to_pylist()
    assert again.tasks["task_id"].to_pylist() != later.tasks["task_id"].to_pylist()
    usual = plan([1, 1, 1], False)
    assert (usual.num_listed, usual.num_skipped, usual.num_done, usual.num_recordings) == (4, 0, 3, 1)
