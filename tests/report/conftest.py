"""Outputs with a page, made once."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from distil_ray.config import Config
from distil_ray.nightly.history_page import write_history
from distil_ray.report.run_page import write_run_page
from distil_ray.storage.storage import Storage
from tests.report.generated import chunk, clip_of, drawn_rows, failed, transcript, write_night, write_output


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of a run with failures, flags, odd joints, groups, and a recording whose sound can be had."""
    folder = tmp_path_factory.mktemp("output")
    joined = "we went to the the sea and came back"
    rows = [
        *drawn_rows(150),
        transcript(
            "heard", "he does not work at all", "oh he does knot work at", **clip_of(), quality_flags=["low_logprob"],
            chunks=[chunk(0.0, 1.54, "oh he does knot work at", -2.5, ["low_logprob"])],
        ),
        transcript(
            "joined", "we went to the sea and never came back", joined, duration_s=20.0,
            chunks=[chunk(0, 10, "we went to the"), chunk(10, 16, "the sea and"), chunk(16, 20, "came back")],
        ),
        transcript(
            "early", "so it began and so it went on", "so it began", duration_s=20.0, unheard_s=7.5,
            quality_flags=["untranscribed_speech"], chunks=[
                chunk(0, 10, "so it", quality_flags=["untranscribed_speech"], unheard_s=2.25),
                chunk(10, 20, "began", quality_flags=["untranscribed_speech"], unheard_s=5.25),
            ],
        ),
        failed("<script>alert(1)</script>"),
    ]  # fmt: skip
    write_output(folder, rows, ("scoring", {"group_by": ["speaker"]}))
    return folder


@pytest.fixture(scope="session")
def page(output: Path) -> Path:
    """The page of its run."""
    return Path(write_run_page(str(output), "run", Config()))


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page of twelve nights: one broke off, one is out of line."""
    folder = tmp_path_factory.mktemp("nights")
    for number in range(12):
        day = date(2026, 11, 9) + timedelta(days=number)
        is_odd = number == 8
        write_night(folder, day, 0.12 if is_odd else 0.08 + number / 10_000, is_odd, code=int(number == 4))
    yield Path(write_history(str(folder), Storage()))
