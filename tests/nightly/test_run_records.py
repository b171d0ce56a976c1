"""Records of nightly runs: run IDs, figures of a partition, history, and old run folders."""

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.config import NightlyConfig
from distil_ray.errors import RunError
from distil_ray.nightly.run_records import (
    Attempt,
    compute_figures,
    describe_normalizer_change,
    find_attempts,
    next_attempt,
    old_attempts,
    parse_run_id,
    read_history,
)
from distil_ray.schema import TRANSCRIPT
from distil_ray.storage.storage import Storage
from tests.support.transcripts import transcript_row

DAY = date(2026, 11, 22)
ATTEMPTS = st.builds(Attempt, st.dates(date(2026, 1, 1), date(2026, 3, 1)), st.integers(1, 999))


@given(ATTEMPTS)
def test_a_run_id_contains_date_and_attempt(attempt: Attempt) -> None:
    assert parse_run_id(attempt.run_id) == attempt


@pytest.mark.parametrize("name", ["20261122T010203004Z", "2026-11-22", "2026-11-22.0", "2026-13-01.1", "x2026-11-22.1"])
def test_other_run_ids_are_not_nightly_runs(name: str) -> None:
    assert parse_run_id(name) is None


@given(st.sets(ATTEMPTS), st.integers(1, 40))
def test_all_run_folders_of_the_latest_dates_are_kept(attempts: set[Attempt], keep: int) -> None:
    old = old_attempts({one: set() for one in attempts}, keep)
    stay = {one.day for one in attempts} - {one.day for one in old}

    assert len(stay) == min(keep, len({one.day for one in attempts}))
    assert all(one.day < day for one in old for day in stay)


def test_attempts_of_a_date_are_numbered(tmp_path: Path) -> None:
    for name in (
        "2026-11-22.1/plan/tasks-00000.parquet",
        "2026-11-22.2/nightly_run.json",
        "20261122T010203004Z/_SUCCESS",
    ):
        path = tmp_path / "runs" / name
        path.parent.mkdir(parents=True)
        path.touch()
    attempts = find_attempts(str(tmp_path), Storage())

    assert attempts == {Attempt(DAY, 1): {"plan/tasks-00000.parquet"}, Attempt(DAY, 2): {"nightly_run.json"}}
    assert next_attempt(DAY, attempts).run_id == "2026-11-22.3"
    assert next_attempt(DAY + timedelta(1), attempts).run_id == "2026-11-23.1"


def _row(**values: Any) -> dict[str, Any]:
    return transcript_row("a", **{"text": None, "language": None, "duration_s": 1.0} | values)


def test_the_figures_of_a_date_include_all_files_of_its_partition(tmp_path: Path) -> None:
    ok = {"num_ref_words": 10, "substitutions": 1, "deletions": 0, "insertions": 1, "normalizer": "unicode (version 1)"}
    files = [
        [_row(**ok, duration_s=9.0, chars_per_s=10.0, avg_logprob=-0.1), _row(status="failed", duration_s=None)],
        [
            _row(duration_s=1.0, chars_per_s=20.0, avg_logprob=-0.5, acceptance_rate=0.5),
            _row(status="empty", chars_per_s=0.0),
        ],
    ]
    for number, rows in enumerate(files):
        pq.write_table(pa.Table.from_pylist(rows, schema=TRANSCRIPT), tmp_path / f"task-{number}.parquet")
    figures = compute_figures(str(tmp_path), Storage())

    assert figures == {
        "num_recordings": 4,
        "audio_s": 11.0,
        **{"num_ok": 2, "num_doubtful": 0, "num_empty": 1, "num_partial": 0, "num_failed": 1},
        "empty_fraction": 0.25,
        "failed_fraction": 0.25,
        "num_ref_words": 10,
        "wer": 0.2,
        "normalizer": "unicode (version 1)",
        "chars_per_s": pytest.approx(11.0),  # weighted by seconds of audio; empty recordings are not included
        "avg_logprob": pytest.approx(-0.14),
        "acceptance_rate": pytest.approx(0.5),  # of the one row that has a value
    }


def test_earlier_wers_of_another_normalizer_are_noted() -> None:
    current = {"wer": 0.1, "normalizer": "unicode (version 2)"}
    assert describe_normalizer_change(current, [current, {"wer": None, "normalizer": None}]) is None
    note = describe_normalizer_change(
        current, [current, {"wer": 0.1, "normalizer": "unicode (version 1)"}, {"wer": 0.1}]
    )
    assert note is not None and note.startswith("2 of 3 earlier WERs used another normalizer than unicode")
    assert describe_normalizer_change({"wer": None, "normalizer": None}, [current]) is None


def test_a_date_without_transcripts_has_empty_figures(tmp_path: Path) -> None:
    figures = compute_figures(str(tmp_path / "nothing"), Storage())

    assert figures["num_recordings"] == 0
    assert {figures[name] for name in ("wer", "empty_fraction", "chars_per_s", "avg_logprob")} == {None}


def _write_report(folder: Path, attempt: Attempt, recordings: int, exit_code: int = 0) -> None:
    path = folder / "runs" / attempt.run_id / "nightly_run.json"
    path.parent.mkdir(parents=True)
    figures = {"num_recordings": recordings, "from": attempt.run_id}
    path.write_text(json.dumps({"exit_code": exit_code, "figures": figures if exit_code != 1 else {}}))


def test_the_history_has_the_last_complete_attempt_of_each_earlier_date(tmp_path: Path) -> None:
    days = [DAY - timedelta(age) for age in range(8)]
    _write_report(tmp_path, Attempt(days[0], 1), 90)  # the first attempt of the date itself
    _write_report(tmp_path, Attempt(days[1], 2), 90)
    _write_report(tmp_path, Attempt(days[1], 10), 90, exit_code=4)  # has drift, but is complete
    _write_report(tmp_path, Attempt(days[2], 1), 90)
    _write_report(tmp_path, Attempt(days[2], 2), 0, exit_code=1)  # failed
    _write_report(tmp_path, Attempt(days[3], 1), 19)  # too small
    (tmp_path / "runs" / Attempt(days[4], 1).run_id).mkdir()  # killed
    _write_report(tmp_path, Attempt(days[5], 1), 90)
    _write_report(tmp_path, Attempt(days[6], 1), 90)
    storage = Storage()
    attempts = find_attempts(str(tmp_path), storage)
    config = NightlyConfig(history_runs=3, min_history_runs=1)

    history = read_history(DAY, attempts, config, str(tmp_path), storage)
    assert [one["from"] for one in history] == [f"{days[1]}.10", f"{days[2]}.1", f"{days[5]}.1"]
    assert read_history(days[6], attempts, config, str(tmp_path), storage) == []


def test_an_invalid_report_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "runs/2026-11-21.1/nightly_run.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    attempts = find_attempts(str(tmp_path), Storage())
    with pytest.raises(RunError, match=r"2026-11-21\.1/nightly_run\.json: is not the report of a nightly run"):
        read_history(DAY, attempts, NightlyConfig(), str(tmp_path), Storage())
