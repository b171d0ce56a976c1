"""Commit: one file a task, whatever the order and however often its parts come."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.write_stage import write_parts
from distil_ray.recognition.quality_flags import UNTRANSCRIBED_SPEECH
from distil_ray.schema import COMMIT_RESULT, PART_RESULT, TRANSCRIPT
from distil_ray.types import SAMPLE_RATE
from tests.pipeline.conftest import Planned, pointers
from tests.support.fakes import EARLY_SAMPLES, UNHEARD_S, EchoRecognizer, EchoTranscribe

S = SAMPLE_RATE


def _results(run_plan: Planned) -> list[pa.Table]:
    run, plan = run_plan
    transcribe = EchoTranscribe(run)
    return [transcribe(part) for part in decode_tasks(pointers(plan), run)]


def _rows(run_plan: Planned) -> list[dict[str, object]]:
    files = list(Path(run_plan[0].transcripts_uri).glob("*"))
    assert [file.suffix for file in files] == [".parquet"]
    table = pq.read_table(files[0])
    assert table.schema.equals(TRANSCRIPT)
    rows: list[dict[str, object]] = table.drop_columns(["processed_at"]).to_pylist()
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_parts_in_any_order_and_repeated_give_the_same_file(seed: int, planned: Callable[..., Planned]) -> None:
    run_plan = planned({"long.wav": 100 * S}, "plan.part_audio_s=30", "decoding.language=en")
    results = _results(run_plan)
    assert len(results) >= 4
    deliveries = results + random.Random(seed).choices(results, k=3)
    random.Random(seed).shuffle(deliveries)
    receipts = [write_parts(result, run_plan[0]) for result in deliveries]
    assert all(receipt.schema == COMMIT_RESULT for receipt in receipts)
    rows = [receipt.to_pylist()[0] for receipt in receipts]
    assert [row["error"] for row in rows] == [None] * len(rows)
    assert sum(row["committed"] for row in rows) == 1
    (row,) = _rows(run_plan)
    assert row["recording_id"] == "long.wav"
    assert row["duration_s"] == 100
    expected = [h["text"] for result in results for h in result["hypotheses"][0].as_py()]
    assert row["text"] == " ".join(expected)


def test_a_row_names_the_dtypes_of_the_recognizers_of_its_parts(planned: Callable[..., Planned]) -> None:
    """Nodes with different processors compute int8 differently."""
    run_plan = planned({"long.wav": 100 * S}, "plan.part_audio_s=30", "decoding.language=en")
    column = PART_RESULT.get_field_index("dtype")
    for number, result in enumerate(_results(run_plan)):
        dtype = pa.array(["int8" if number % 2 else "float32"])
        write_parts(result.set_column(column, PART_RESULT.field(column), dtype), run_plan[0])
    assert [row["dtype"] for row in _rows(run_plan)] == ["float32, int8"]


def test_a_task_waits_for_all_its_parts(planned: Callable[..., Planned]) -> None:
    run_plan = planned({"long.wav": 70 * S}, "plan.part_audio_s=30", "decoding.language=en")
    results = _results(run_plan)
    for result in results[1:]:
        assert not write_parts(result, run_plan[0])["committed"][0].as_py()
    assert not Path(run_plan[0].transcripts_uri).exists()
    assert write_parts(results[0], run_plan[0])["committed"][0].as_py()
    assert not list(Path(run_plan[0].parts_uri(results[0]["task_id"][0].as_py())).iterdir())


def test_every_recording_has_one_row_with_its_status(planned: Callable[..., Planned]) -> None:
    run, plan = planned({"good.wav": 2 * S, "gone.wav": S, "text.wav": S}, "decoding.language=en")
    folder = Path(run.config.input.uri[0])
    (folder / "gone.wav").unlink()
    (folder / "text.wav").write_text("this is not audio\n")
    receipt = write_parts(_results((run, plan))[0], run).to_pylist()[0]
    rows = {row["recording_id"]: row for row in _rows((run, plan))}
    assert {name: (row["status"], row["error_kind"]) for name, row in rows.items()} == {
        "good.wav": ("ok", None),
        "gone.wav": ("failed", "not_found"),
        "text.wav": ("failed", "not_audio"),
    }
    assert "gone.wav" in str(rows["gone.wav"]["error"])
    assert rows["gone.wav"]["text"] is None
    assert (receipt["num_ok"], receipt["num_failed"]) == (1, 2)
    assert dict(receipt["failures_by_kind"]) == {"not_found": 1, "not_audio": 1}


def test_what_goes_wrong_with_a_task_is_a_receipt(planned: Callable[..., Planned]) -> None:
    run, plan = planned({"a.wav": S}, "decoding.language=en")
    (result,) = _results((run, plan))
    Path(run.transcripts_uri).write_text("a file where the folder should be")
    receipt = write_parts(result, run).to_pylist()[0]
    assert run.transcripts_uri in receipt["error"]
    assert not receipt["committed"]


def test_a_recording_with_a_failed_chunk_is_partial(planned: Callable[..., Planned]) -> None:
    run, plan = planned({"a.wav": 25 * S, "b.wav": S}, "decoding.language=en")
    result = _results((run, plan))[0]
    hypotheses = result["hypotheses"][0].as_py()
    hypotheses[0] |= {"error": "RuntimeError: lost", "error_kind": "inference_error", "text": ""}
    row = result.to_pylist()[0] | {"hypotheses": hypotheses}
    write_parts(pa.Table.from_pylist([row], schema=PART_RESULT), run)
    rows = {row["recording_id"]: row for row in _rows((run, plan))}
    assert (rows["a.wav"]["status"], rows["a.wav"]["error_kind"]) == ("partial", "inference_error")
    assert "1 of 3 chunks could not be recognized: RuntimeError: lost" in str(rows["a.wav"]["error"])
    assert rows["b.wav"]["status"] == "ok"


def test_the_echo_is_the_recording_s_own(planned: Callable[..., Planned]) -> None:
    """The fake's text depends on the audio, so a mixed-up chunk would show."""
    run, plan = planned({f"{i}.wav": (i + 1) * S for i in range(6)}, "decoding.language=en")
    write_parts(_results((run, plan))[0], run)
    for row in _rows((run, plan)):
        samples = int(float(str(row["duration_s"])) * S)
        assert str(row["text"]).split()[1] == str(samples)
    assert EchoRecognizer.languages == run.languages


def test_a_recording_without_speech_is_empty_where_only_speech_is_kept(planned: Callable[..., Planned]) -> None:
    run, plan = planned({"noise.wav": 40 * S}, "decoding.language=en", "decoding.timestamps=word")
    run = replace(run, chunking=replace(run.chunking, strategy="vad"))
    (result,) = _results((run, plan))
    assert result["chunks"][0].as_py() == []
    write_parts(result, run)
    (row,) = _rows((run, plan))
    assert (row["status"], row["text"], row["duration_s"]) == ("empty", "", 40)
    assert (row["segments"], row["words"]) == ([], [])


def test_speech_after_the_end_of_a_text_is_a_column_and_a_flag(planned: Callable[..., Planned]) -> None:
    run_plan = planned({"early.wav": EARLY_SAMPLES, "whole.wav": 25 * S, "gone.wav": S}, "decoding.language=en")
    (Path(run_plan[0].config.input.uri[0]) / "gone.wav").unlink()
    write_parts(_results(run_plan)[0], run_plan[0])
    rows = {row["recording_id"]: row for row in _rows(run_plan)}
    assert {name: (row["unheard_s"], row["quality_flags"]) for name, row in rows.items()} == {
        "early.wav": (UNHEARD_S, [UNTRANSCRIBED_SPEECH]),
        "whole.wav": (0.0, []),
        "gone.wav": (None, []),
    }
    chunk = rows["early.wav"]["chunks"][0]  # type: ignore[index]
    assert (chunk["unheard_s"], chunk["quality_flags"]) == (UNHEARD_S, [UNTRANSCRIBED_SPEECH])


@pytest.mark.parametrize(
    ("settings", "statuses"), [((), ["doubtful", "ok"]), (("decoding.doubtful_flags=[low_logprob]",), ["ok", "ok"])]
)
def test_flags_of_wrong_text_make_a_recording_doubtful(
    planned: Callable[..., Planned], settings: tuple[str, ...], statuses: list[str]
) -> None:
    run, plan = planned({"a.wav": 20 * S, "b.wav": 10 * S}, "decoding.language=en", *settings)
    (result,) = _results((run, plan))
    rows = result.to_pylist()
    rows[0]["hypotheses"][0]["quality_flags"] = ["high_char_rate"]
    flagged = ("a.wav", "b.wav")[rows[0]["chunks"][0]["recording"]]
    (counts,) = write_parts(pa.Table.from_pylist(rows, schema=PART_RESULT), run).to_pylist()
    by_id = {row["recording_id"]: row["status"] for row in _rows((run, plan))}
    assert [by_id.pop(flagged), *by_id.values()] == statuses
    assert (counts["num_ok"], counts["num_doubtful"]) == (statuses.count("ok"), statuses.count("doubtful"))


@pytest.mark.parametrize(
    ("of_chunks", "of_recording"), [((4.2, None, 0.5), 4.7), ((None, None, None), None), ((0.0, 0.0, 2.0), 2.0)]
)
def test_what_is_unknown_of_a_chunk_does_not_hide_what_is_known_of_others(
    planned: Callable[..., Planned], of_chunks: tuple[float | None, ...], of_recording: float | None
) -> None:
    run_plan = planned({"a.wav": 25 * S}, "decoding.language=en")
    write_parts(_changed(_results(run_plan)[0], of_chunks), run_plan[0])
    (row,) = _rows(run_plan)
    assert row["unheard_s"] == (None if of_recording is None else pytest.approx(of_recording))
    assert (UNTRANSCRIBED_SPEECH in row["quality_flags"]) == ((of_recording or 0) > 1)  # type: ignore[operator]


def _changed(result: pa.Table, unheard_s: Sequence[float | None]) -> pa.Table:
    """The result of a part whose chunks end with so much speech without text."""
    hypotheses = result["hypotheses"][0].as_py()
    for hypothesis, seconds in zip(hypotheses, unheard_s, strict=True):
        flags = [UNTRANSCRIBED_SPEECH] if seconds is not None and seconds > 1 else []
        hypothesis |= {"unheard_s": seconds, "quality_flags": flags}
    return pa.Table.from_pylist([result.to_pylist()[0] | {"hypotheses": hypotheses}], schema=PART_RESULT)
