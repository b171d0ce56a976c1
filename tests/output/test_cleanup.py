"""Cleanup removes files of crashed runs, keeps those of runs that may be alive, and never changes data."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from distil_ray.output.cleanup import remove_orphans
from distil_ray.output.ledger import list_data_files
from distil_ray.storage.process_identity import this_process
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join

LEASE_S = 300.0
DEAD = replace(this_process(), pid=2**22 + 1)  # beyond the largest process number
ELSEWHERE = replace(this_process(), space="0" * 8)


def names(folder: str) -> set[str]:
    return {entry.uri.removeprefix(f"{folder}/") for entry in Storage().list_files(folder)}


@pytest.mark.parametrize("where", ["local", "s3"])
def test_temporary_folders_of_a_crashed_run_are_removed_and_its_records_are_kept(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    output = str(tmp_path / "out") if where == "local" else f"{request.getfixturevalue('bucket')}/out"
    kept = {
        *("transcripts/task-1.parquet", "transcripts/date=2026-11-22/parts/x.parquet"),
        *("runs/dead/config.yaml", "runs/dead/plan/tasks-00000.parquet", "runs/dead/events.jsonl"),
        "runs/mine/parts/b/000000.parquet",
        "runs/redone/redo/runs/redone/parts/b/000000.parquet",
    }
    for name in (*kept, "runs/dead/parts/b/000000.parquet", "runs/dead/parts/b/1", "runs/older/parts/b/2"):
        Storage().put(join(output, name), b".")
    assert remove_orphans(output, "mine", None, LEASE_S, Storage()) == "3 intermediate results of runs that did not end"
    assert names(output) == kept
    assert remove_orphans(output, "mine", None, LEASE_S, Storage()) is None


def test_recent_files_of_a_run_that_lost_its_lease_by_force_are_kept(tmp_path: Path) -> None:
    Storage().put(str(tmp_path / "runs/forced/parts/b/000000.parquet"), b".")
    assert remove_orphans(str(tmp_path), "mine", "forced", LEASE_S, Storage()) is None
    old = time.time() - LEASE_S - 60
    os.utime(tmp_path / "runs/forced/parts/b/000000.parquet", (old, old))
    assert remove_orphans(str(tmp_path), "mine", "forced", LEASE_S, Storage())
    assert names(str(tmp_path)) == set()


def test_temporary_files_are_removed_if_their_writer_is_dead_or_they_are_old(tmp_path: Path) -> None:
    folder = tmp_path / "transcripts"
    folder.mkdir()
    ages = {
        f".tmp-{DEAD.label}-aaaa": 0,
        f".tmp-{ELSEWHERE.label}-bbbb": LEASE_S + 60,
        ".tmp-lock-_lease.json": LEASE_S + 60,
        f".tmp-{ELSEWHERE.label}-cccc": 0,
        f".tmp-{this_process().label}-dddd": 0,
    }
    for name, age_s in ages.items():
        (folder / name).write_bytes(b"PAR1 and then nothing")
        os.utime(folder / name, (time.time() - age_s, time.time() - age_s))
    assert list(list_data_files(str(folder), Storage())) == []  # whatever they are, they are no data
    assert remove_orphans(str(tmp_path), "mine", None, LEASE_S, Storage()) == "3 temporary files"
    assert names(str(folder)) == set(list(ages)[3:])


def test_a_temporary_file_names_the_process_that_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(handle: int) -> None:
        os._exit(9)

    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(os, "fsync", die)
        Storage().put(str(tmp_path / "transcripts/task-1.parquet"), b"half a file")
    os.waitpid(pid, 0)
    (left,) = names(str(tmp_path))
    assert left.startswith("transcripts/.tmp-")
    assert remove_orphans(str(tmp_path), "mine", None, LEASE_S, Storage()) == "1 temporary files"
