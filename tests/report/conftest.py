"""Outputs with a page, made once."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from distil_ray.config import Config
from distil_ray.nightly.history_page import write_history
from distil_ray.report.run_page import write_run_page
from distil_ray.storage.storage import Storage
from tests.report.generated import chunk, clip_source, drawn_rows, failed, transcript, write_nightly_run, write_output


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with failures, flags, boundary problems, groups, and one recording whose audio exists."""
    folder = tmp_path_factory.mktemp("output")
    text = "we went to the the sea and came back"
    rows = [
        *drawn_rows(150),
        transcript(
            "substituted", "he does not work at all", "oh he does knot work at", **clip_source(),
            quality_flags=["low_logprob"],
            chunks=[chunk(0.0, 1.54, "oh he does knot work at", -2.5, ["low_logprob"])],
        ),
        transcript(
            "boundary", "we went to the sea and never came back", text, duration_s=20.0,
            chunks=[chunk(0, 10, "we went to the"), chunk(10, 16, "the sea and"), chunk(16, 20, "came back")],
        ),
        transcript(
            "untranscribed", "so it began and so it went on", "so it began", duration_s=20.0, unheard_s=7.5,
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
    """The page of twelve nightly runs: one failed, one has drift."""
    folder = tmp_path_factory.mktemp("nightly")
    for number in range(12):
        day = date(2026, 11, 9) + timedelta(days=number)
        has_drifted = number == 8
        write_nightly_run(
            folder, day, 0.12 if has_drifted else 0.08 + number / 10_000, has_drifted, code=int(number == 4)
        )
    yield Path(write_history(str(folder), Storage()))
