"""What Ray writes by itself: its warnings are kept, in the job's form and place; what means nothing is not shown."""

import logging
import os
import sys

import pytest

from distil_ray.pipeline.ray_logging import filter_stderr, shorten_traceback

ARGUMENTS_LINE = (
    b"[2026-11-22 16:19:35,390 E 7377 7692] core_worker.cc:2465: Actor with class name: 'MapWorker' and ID: 'ab' has"
    b" constructor arguments in the object store and max_restarts > 0. If the arguments go out of scope\n"
)


def test_a_warning_of_ray_s_core_is_reported_and_the_meaningless_line_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    with filter_stderr(told.append):
        os.write(2, ARGUMENTS_LINE)
        os.write(2, b"[raylet] low on memory: \xff\n")
        print("python's own words", file=sys.stderr)
    os.write(2, b"afterwards\n")
    assert told == ["[raylet] low on memory: \ufffd"]
    assert capfd.readouterr().err == "python's own words\nafterwards\n"


def test_standard_error_is_given_back_when_a_run_breaks_off(capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.stderr
    with pytest.raises(KeyboardInterrupt), filter_stderr(logging.getLogger().warning):
        raise KeyboardInterrupt
    assert sys.stderr is before
    os.write(2, ARGUMENTS_LINE)
    assert "max_restarts" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("message", "short"),
    [
        ("3 workers were killed:\nthe node is low on memory", "3 workers were killed: the node is low on memory"),
        (
            "Task f failed. Error: Traceback (most recent call last):\n  File x\n\nValueError: no weights\n",
            "Task f failed. Error: ValueError: no weights",
        ),
    ],
)
def test_what_a_raylet_reports_is_one_line(message: str, short: str) -> None:
    assert shorten_traceback(message) == short
