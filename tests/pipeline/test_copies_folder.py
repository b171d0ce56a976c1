"""Folders for copies of audio: a process that was killed leaves its own only until the next one needs one."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from distil_ray.pipeline.copies_folder import MIN_AGE_S, temporary_copies_folder

HOLD = """
import sys, time
from distil_ray.pipeline.copies_folder import temporary_copies_folder
with temporary_copies_folder() as folder:
    (folder / "000000").write_bytes(b"sound")
    print(folder, flush=True)
    time.sleep(600)
"""


def _age(folder: Path) -> None:
    before_s = time.time() - 2 * MIN_AGE_S
    os.utime(folder, (before_s, before_s))


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_live_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            left = Path(process.stdout.readline().strip())
            _age(left)
            with temporary_copies_folder() as own:
                assert left.exists()  # in use
            assert not own.exists()
        finally:
            process.send_signal(signal.SIGKILL)
    assert (left / "000000").exists()
    with temporary_copies_folder():
        assert not left.exists()


def test_a_folder_that_may_not_be_locked_yet_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_copies_folder() as own:
        new = own.with_name(own.name[:-1] + "-")
        new.mkdir()
        with temporary_copies_folder():
            assert new.exists()
        _age(new)
        with temporary_copies_folder():
            assert not new.exists()
