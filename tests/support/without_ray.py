"""The stages of a run one after the other in this process, without Ray: a tenth of the time."""

import pytest

from benchmarks.scale.run import replace_ray


def run_stages_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the Ray Data graph by the stages themselves until the test ends."""
    replace_ray(monkeypatch.setattr)
