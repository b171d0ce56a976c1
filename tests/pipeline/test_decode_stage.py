"""Tasks become parts of bounded audio; what is wrong with a recording is an entry, never an exception."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from distil_ray.pipeline import decode_stage
from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.fault_isolation import FaultIsolatedStage
from distil_ray.pipeline.language_detection import choose_detection_chunks
from distil_ray.pipeline.planner import parse_recordings, read_task
from distil_ray.pipeline.write_stage import write_parts
from distil_ray.schema import PART
from distil_ray.types import SAMPLE_RATE
from tests.pipeline.conftest import Planned, plan_run, pointers
from tests.support.fakes import EchoTranscribe, LocalWorker, Values

S = SAMPLE_RATE


def _decoded(run_plan: Planned) -> list[pa.Table]:
    run, plan = run_plan
    return list(decode_tasks(pointers(plan), run))


def test_a_long_recording_leaves_in_parts_that_hold_every_sample_once(planned: Callable[..., Planned]) -> None:
    run, plan = planned({"long.wav": 95 * S + 17}, "plan.part_audio_s=30", "decoding.language=en")
    parts = _decoded((run, plan))
    assert len(parts) > 3
    assert all(part.schema == PART for part in parts)
    assert all(len(part["pcm"][0].as_py()) <= 30 * S * 2 for part in parts)
    assert [part["is_last"][0].as_py() for part in parts] == [False] * (len(parts) - 1) + [True]
    heard = np.concatenate([np.frombuffer(part["pcm"][0].as_buffer(), np.int16) for part in parts])
    original, _ = soundfile.read(run.config.input.uri[0] + "/long.wav", dtype="int16")
    assert np.array_equal(heard, original)
    chunks = [chunk for part in parts for chunk in part["chunks"][0].as_py()]
    assert [chunk["index"] for chunk in chunks] == list(range(len(chunks)))
    assert parts[-1]["decoded"][0].as_py()[0]["num_chunks"] == len(chunks)


def test_chunks_of_short_recordings_share_a_part(planned: Callable[..., Planned]) -> None:
    parts = _decoded(planned({f"{i}.wav": (i + 1) * S for i in range(5)}))
    assert len(parts) == 1
    assert sorted(chunk["recording"] for chunk in parts[0]["chunks"][0].as_py()) == [0, 1, 2, 3, 4]


def test_voters_are_spread_over_a_recording_and_are_its_loud_chunks() -> None:
    def chosen(levels: list[int], votes: int) -> list[int]:
        return choose_detection_chunks([np.full(100, level, np.int16) for level in levels], votes)

    assert chosen([900, 800, 700, 100, 200, 300], 2) == [0, 5]  # the three loudest are all in the first half
    assert chosen([900, 800, 700, 100, 200, 300], 3) == [0, 2, 5]
    assert chosen([900, 10, 10, 10, 300, 200], 3) == [0, 4, 5]  # quiet ones do not vote
    assert chosen([500, 400], 3) == [0, 1]
    assert chosen([7], 3) == [0]
    assert chosen([0, 0, 0, 0], 3) == [0, 1, 2]


def test_the_loudest_chunks_of_the_first_part_vote_in_every_part(planned: Callable[..., Planned]) -> None:
    parts = _decoded(planned({"long.wav": 70 * S}, "plan.part_audio_s=30", "decoding.language_detection_chunks=2"))
    voters = [[c for c in part["chunks"][0].as_py() if c["detects_language"]] for part in parts]
    assert all(len(mine) == 2 for mine in voters)
    first = {chunk["start"] for chunk in voters[0]}
    assert all({chunk["start"] for chunk in mine} == first for mine in voters)
    assert not any(chunk["detection_only"] for chunk in voters[0])
    assert all(chunk["detection_only"] for mine in voters[1:] for chunk in mine)


def test_a_given_language_is_not_voted_on(planned: Callable[..., Planned]) -> None:
    (part,) = _decoded(planned({"a.wav": S}, "decoding.language=de"))
    assert [(c["language"], c["detects_language"]) for c in part["chunks"][0].as_py()] == [("de", False)]


def test_languages_of_a_manifest_are_understood_in_any_spelling(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(S, np.int16), S)
    spellings = ["eng-US", "English (US)", "deu", "German", "fr_fr", "unknown", "en,de", "nb_no", "Klingon"]
    rows = [{"id": str(number), "uri": "a.wav", "language": one} for number, one in enumerate(spellings)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run, plan = plan_run(tmp_path / "m.jsonl", tmp_path / "out")
    (part,) = _decoded((run, plan))
    planned = [spellings[int(one.recording_id)] for one in parse_recordings(read_task(run.plan_uri, 0, run.storage))]
    languages = {planned[chunk["recording"]]: chunk["language"] for chunk in part["chunks"][0].as_py()}
    assert languages == dict(zip(spellings, ["en", "en", "de", "de", "fr", None, None], strict=False))
    failed = {planned[row["recording"]]: row for row in part["decoded"][0].as_py() if row["error_kind"]}
    assert {written: failed[written]["error_kind"] for written in failed} == {
        "nb_no": "unsupported_language",
        "Klingon": "unsupported_language",
    }
    assert "language 'no' is not one that" in failed["nb_no"]["error"]
    assert "language 'Klingon' is not one that" in failed["Klingon"]["error"]


def test_a_file_that_vanished_is_an_entry_and_its_neighbors_are_decoded(planned: Callable[..., Planned]) -> None:
    run, plan = planned({"a.wav": 3 * S, "b.wav": 2 * S, "c.wav": S})
    Path(run.config.input.uri[0], "b.wav").unlink()
    (part,) = _decoded((run, plan))
    endings = {entry["recording"]: entry for entry in part["decoded"][0].as_py()}
    assert [endings[i]["error_kind"] for i in range(3)] == [None, "not_found", None]
    assert "b.wav" in endings[1]["error"]
    assert [endings[i]["num_samples"] for i in range(3)] == [3 * S, 0, S]


def test_a_committed_task_that_is_repeated_leaves_in_the_same_parts_and_is_not_recognized_again(
    planned: Callable[..., Planned],
) -> None:
    """Ray ends a run if a task that it repeats for a lost output has another number of outputs than before."""
    run, plan = planned({"long.wav": 70 * S, "short.wav": 2 * S}, "plan.part_audio_s=30", "decoding.language=en")
    before = _decoded((run, plan))
    (task,) = plan.tasks["task_id"].to_pylist()
    run.storage.put(run.task_uri(task), b"stands here already")
    parts = list(decode_tasks(pointers(plan), run, is_retry=lambda: True))
    assert [part.drop_columns(["already_committed", "decode_s"]) for part in parts] == [
        part.drop_columns(["already_committed", "decode_s"]) for part in before
    ]
    assert len(parts) == 3
    for part in parts:
        result = FaultIsolatedStage(EchoTranscribe, run, LocalWorker(), Values())(part)
        assert result["hypotheses"][0].as_py() == []
        (written,) = write_parts(result, run).to_pylist()
        assert written["already_committed"]
        assert (written["error"], written["audio_s"]) == (None, 0)
    assert run.storage.read(run.task_uri(task)) == b"stands here already"


def test_a_task_that_cannot_be_read_is_a_result_with_an_error_and_does_not_end_the_run(
    planned: Callable[..., Planned],
) -> None:
    """Ray would end the run at an exception: that of one task of millions, while the store was away for a minute."""
    run, plan = planned({"a.wav": S, "b.wav": 2 * S}, "plan.task_recordings=1", "decoding.language=en")
    missing = pa.table({"task_id": ["gone"], "row_group": pa.array([100], pa.int32())})  # of a file that is not there
    rows = pa.concat_tables([missing, pointers(plan)])
    stage = FaultIsolatedStage(EchoTranscribe, run, LocalWorker(), Values())
    results = [write_parts(stage(part), run).to_pylist()[0] for part in decode_tasks(rows, run)]
    assert [(row["part_index"], row["committed"]) for row in results] == [(0, False), (0, True), (0, True)]
    assert "tasks-00001.parquet" in results[0]["error"]
    assert not results[0]["already_committed"]
    assert [row["error"] for row in results[1:]] == [None, None]


def test_a_task_that_fails_between_two_parts_is_not_written(
    planned: Callable[..., Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plan = planned({"a.wav": 40 * S}, "plan.part_audio_s=30", "decoding.language=en")
    part, _ = _decoded((run, plan))

    def decode(*_: object) -> Iterator[pa.Table]:
        yield part
        raise OSError("no space left on device")

    monkeypatch.setattr(decode_stage, "decode_recordings", decode)
    transcribe = EchoTranscribe(run)
    results = [write_parts(transcribe(one), run).to_pylist()[0] for one in _decoded((run, plan))]
    assert [row["error"] for row in results] == [None, "OSError: no space left on device"]
    assert [row["part_index"] for row in results] == [0, 1]
    assert not list(run.storage.list_files(run.transcripts_uri))
