"""The benchmark of planning plans what it says it does."""

import io
import json
from pathlib import Path

from rich.console import Console

from benchmarks.planning.command import measure_planning
from benchmarks.settings import PlanningSettings
from distil_ray.errors import ExitCode


def test_half_of_what_is_listed_is_done_and_the_rest_is_planned(tmp_path: Path) -> None:
    printed = io.StringIO()
    settings = PlanningSettings(recordings=(3000,), folder=str(tmp_path), report=str(tmp_path))
    assert measure_planning(settings, Console(file=printed, width=120)) == ExitCode.DONE
    (result,) = json.loads((tmp_path / "planning.json").read_text())["results"]
    assert (result["rows"], result["done"], result["to_do"]) == (3000, 1500, 1500)
    assert result["tasks"] > 1
    assert 0 < result["plan"]["before_mib"] <= result["plan"]["peak_mib"]
    assert "3,000" in printed.getvalue()
