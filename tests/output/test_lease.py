"""The lease: one writing run at a time, expiry after a crash, and takeover by force."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from distil_ray.errors import ErrorKind, ExitCode, RunError, SettingsError
from distil_ray.output.lease import CLOCK_MARGIN_S, LEASE, Lease, LeaseHolder, acquire_lease
from distil_ray.storage.process_identity import Process, parse_process_label, this_process
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join
from tests.support.waiting import wait_until

ELSEWHERE = Process("other-host", "0" * 8, 4711, 1)


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "local" else str(request.getfixturevalue("bucket")) + "/out"


@pytest.fixture
def local(tmp_path: Path) -> str:
    return str(tmp_path / "out")


def holder(process: Process, left_s: float) -> LeaseHolder:
    now = datetime.now(UTC)
    return LeaseHolder("earlier", process, now - timedelta(minutes=10), now + timedelta(seconds=left_s))


def leave(output: str, process: Process, left_s: float) -> bytes:
    """Writes the lease file of a run that has crashed."""
    data = holder(process, left_s).encode()
    Storage().put(join(output, LEASE), data)
    return data


def dead_process() -> Process:
    program = "from distil_ray.storage.process_identity import this_process; print(this_process().label)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    process = parse_process_label(told)
    assert process
    return replace(process, host="this-host")


def test_a_second_run_is_an_error_that_names_the_first(output: str) -> None:
    storage = Storage()
    with acquire_lease(output, "first", 60, storage):
        told = json.loads(storage.read(join(output, LEASE)))
        assert (told["run_id"], told["pid"]) == ("first", os.getpid())
        with pytest.raises(SettingsError) as caught, acquire_lease(output, "second", 60, storage):
            pass
        words = str(caught.value)
        assert f"run first, process {os.getpid()} on {this_process().host}, since " in words
        assert "--force" in words
        assert caught.value.exit_code == ExitCode.BAD_SETTINGS
    assert storage.stat(join(output, LEASE)) is None
    with acquire_lease(output, "third", 60, storage):
        pass


def test_one_of_sixteen_simultaneous_runs_gets_the_lease(output: str) -> None:
    together, refused = threading.Barrier(16), threading.Barrier(16)

    def run(number: int) -> int | None:
        together.wait()
        try:
            with acquire_lease(output, f"run-{number}", 60, Storage()):
                refused.wait(60)
                return number
        except SettingsError:
            refused.wait(60)
            return None

    with ThreadPoolExecutor(16) as pool:
        got = [number for number in pool.map(run, range(16)) if number is not None]
    assert len(got) == 1


def test_the_lease_of_a_dead_process_is_taken_over_at_once(output: str) -> None:
    leave(output, dead_process(), left_s=250)
    with acquire_lease(output, "next", 60, Storage()) as lease:
        assert lease.forced_from is None
        assert json.loads(Storage().read(join(output, LEASE)))["run_id"] == "next"


def test_a_lease_of_another_machine_is_taken_over_after_expiry_and_clock_margin(local: str) -> None:
    for left_s in (100, 0, 1 - CLOCK_MARGIN_S):
        left = leave(local, ELSEWHERE, left_s)
        with (
            pytest.raises(SettingsError, match="run earlier, process 4711 on other-host"),
            acquire_lease(local, "x", 9, Storage()),
        ):
            pass
        assert Storage().read(join(local, LEASE)) == left
    leave(local, ELSEWHERE, -1 - CLOCK_MARGIN_S)
    with acquire_lease(local, "next", 60, Storage()):
        pass


def test_a_lease_is_renewed_while_it_is_held(output: str) -> None:
    storage = Storage()
    with acquire_lease(output, "long", 0.6, storage) as lease:
        first = storage.read(join(output, LEASE))
        wait_until(lambda: storage.read(join(output, LEASE)) != first)
        before, after = LeaseHolder.decode(first), LeaseHolder.decode(storage.read(join(output, LEASE)))
        assert after == replace(before, until=after.until)
        assert after.until > before.until
        lease.check()


def test_a_run_that_loses_its_lease_by_force_stops_and_does_not_delete_it(output: str) -> None:
    storage = Storage()
    told: list[RunError] = []
    with (
        acquire_lease(output, "first", 1.5, storage, on_lost=told.append) as first,
        acquire_lease(output, "second", 60, storage, force=True) as second,
    ):
        assert second.forced_from == "first"
        wait_until(lambda: bool(told))
        with pytest.raises(RunError, match="was taken over by run second"):
            first.check()
        first.release()
        assert json.loads(storage.read(join(output, LEASE)))["run_id"] == "second"
        second.check()
    assert len(told) == 1


def test_a_run_whose_lease_was_taken_and_released_since_stops(output: str) -> None:
    """`--force` of a short command: the file is gone before the first run looks again."""
    storage = Storage()
    told: list[RunError] = []
    with acquire_lease(output, "first", 0.3, storage, on_lost=told.append) as first:
        with acquire_lease(output, "second", 60, storage, force=True):
            pass
        wait_until(lambda: bool(told))
        with pytest.raises(RunError, match="is gone: another run took it and has ended since"):
            first.check()
    assert storage.stat(join(output, LEASE)) is None


def test_a_process_that_was_suspended_looks_before_it_changes_anything(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer of its thread stood still, and the lease has expired by the clock."""
    monkeypatch.setattr(Lease, "_keep", lambda lease: None)
    storage = Storage()
    with acquire_lease(output, "first", 0.2, storage) as first:
        time.sleep(0.3)
        first.check()  # nobody took it: it is renewed
        renewed = LeaseHolder.decode(storage.read(join(output, LEASE)))
        assert renewed.run_id == "first" and renewed.until > datetime.now(UTC)
        with acquire_lease(output, "second", 60, storage, force=True):
            time.sleep(0.3)
            with pytest.raises(RunError, match="was taken over by run second"):
                first.check()


def test_a_renewal_whose_answer_is_lost_is_no_takeover(local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has done what it was asked for, and neither the answer nor a look at it arrives."""
    storage, swap = Storage(), Storage.replace_if_unchanged
    calls = 0

    def lose_answers(own: Storage, uri: str, old: bytes, new: bytes) -> bool:
        nonlocal calls
        calls += 1
        found = swap(own, uri, old, new)
        if calls <= 2:
            raise StorageError(ErrorKind.STORAGE, "read timeout")
        return found

    monkeypatch.setattr(Storage, "replace_if_unchanged", lose_answers)
    with acquire_lease(local, "run", 0.9, storage) as lease:
        wait_until(lambda: calls >= 5)
        lease.check()


def test_an_unexpected_error_does_not_end_the_renewal(local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    swap, calls = Storage.replace_if_unchanged, 0

    def fail_once(own: Storage, uri: str, old: bytes, new: bytes) -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise TypeError("an error of a library")
        return swap(own, uri, old, new)

    monkeypatch.setattr(Storage, "replace_if_unchanged", fail_once)
    with acquire_lease(local, "run", 0.9, Storage()) as lease:
        wait_until(lambda: calls >= 3)
        lease.check()


def test_a_lease_that_cannot_be_renewed_is_lost_when_it_expires(local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = 0

    def refuse(*_: object) -> bool:
        nonlocal failures
        failures += 1
        raise StorageError(ErrorKind.STORAGE, "SlowDown")

    monkeypatch.setattr(Storage, "replace_if_unchanged", refuse)
    told: list[RunError] = []
    with acquire_lease(local, "run", 1.0, Storage(), on_lost=told.append) as lease:
        wait_until(lambda: bool(told))
        assert failures > 1
        with pytest.raises(RunError, match=r"could not be renewed in time \(SlowDown\)"):
            lease.check()


def test_the_lease_is_released_when_the_run_fails(output: str) -> None:
    with pytest.raises(KeyboardInterrupt), acquire_lease(output, "run", 60, Storage()):
        raise KeyboardInterrupt
    assert Storage().stat(join(output, LEASE)) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"run_id": "x"}', b'{"process": "?", "run_id": "x"}'])
def test_an_invalid_lease_file_is_an_error(local: str, content: bytes) -> None:
    Storage().put(join(local, LEASE), content)
    with (
        pytest.raises(SettingsError, match=r"_lease\.json: not a valid lease"),
        acquire_lease(local, "x", 9, Storage()),
    ):
        pass
    with acquire_lease(local, "x", 9, Storage(), force=True) as lease:
        assert lease.forced_from is None


def test_an_output_that_cannot_be_written_is_a_settings_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(SettingsError, match=r"output\.uri=.*/file/out: cannot write"),
        acquire_lease(str(tmp_path / "file/out"), "x", 9, Storage()),
    ):
        pass
