"""Environments of the peers, without a network."""

import sys
from pathlib import Path

import pytest

from benchmarks.comparison.environments import INSTALLED, UnavailableError, ensure_environment, is_installed, run_tool


def test_an_environment_that_is_there_is_taken_as_it_is_and_another_requirement_makes_it_anew(tmp_path: Path) -> None:
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / INSTALLED).write_text("one==1\ntwo==2\n")

    assert is_installed("peer", ["one==1", "two==2"], tmp_path)
    assert ensure_environment("peer", ["one==1", "two==2"], tmp_path) == tmp_path / "peer" / "bin" / "python"
    assert not is_installed("peer", ["one==1", "two==3"], tmp_path)
    assert not is_installed("other", ["one==1"], tmp_path)


def test_a_program_that_fails_is_reported_in_one_line() -> None:
    failing = [sys.executable, "-c", "import sys; print('first', file=sys.stderr); sys.exit('no such package')"]

    with pytest.raises(UnavailableError, match=r"^peer: pip could not: no such package$"):
        run_tool(failing, "peer: pip could not")


def test_a_program_that_is_not_there_or_takes_too_long_is_reported() -> None:
    with pytest.raises(UnavailableError, match="No such file"):
        run_tool(["/no/such/program"], "peer")
    with pytest.raises(UnavailableError, match="not done after"):
        run_tool([sys.executable, "-c", "import time; time.sleep(60)"], "peer", limit_s=0.1)
