"""The benchmark of drafting: what it compares, and the model that predicts for other shapes."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.settings import PassesSettings, SpeculativeSettings
from benchmarks.speculative.command import measure_drafting
from benchmarks.speculative.cost import measure_passes
from distil_ray.cli.options import parse_options
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.recognition.native.speculation_cost import SpeculationCosts, predict_speedup, tokens_per_step
from tests.support.clips import manifest_rows


@pytest.mark.slow
def test_drafting_is_compared_with_none_and_with_transformers(whisper_tiny_en: Path, tmp_path: Path) -> None:
    (clip,) = manifest_rows("cards-005")
    (tmp_path / "clips.jsonl").write_text(json.dumps(clip) + "\n")
    words = [f"model={whisper_tiny_en}", f"clips={tmp_path / 'clips.jsonl'}", "assistants=dropped", "batch_sizes=2"]
    settings = parse_options(SpeculativeSettings, [*words, f"cache_dir={tmp_path / 'cache_dir'}", f"report={tmp_path}"])

    assert measure_drafting(settings, Console(file=io.StringIO())) == ExitCode.DONE

    found = json.loads((tmp_path / "speculative.json").read_text())["found"]
    assert [(each["program"], each["assistant"]) for each in found] == [
        ("native", "none"),
        ("native", "dropped"),
        ("transformers", "none"),
        ("transformers", "dropped"),
    ]
    alone, drafted, theirs, _ = found
    assert alone["steps"] == alone["tokens"] == theirs["tokens"]  # the first token is the prompt's, the last pass ends
    assert alone["drafts"] == 0 < drafted["proposed"] <= drafted["drafts"]
    assert all(each["cpu_s"] > 0 and each["differing"] == 0 for each in found[:2])


def test_costs_of_small_shapes_are_measured(tmp_path: Path) -> None:
    words = ["d_model=64", "heads=1", "layers=2", "vocabulary=300", "positions=20", "batch_sizes=1", "drafts=1,2"]

    assert (
        measure_passes(parse_options(PassesSettings, [*words, f"report={tmp_path}"]), Console(file=io.StringIO())) == 0
    )

    (found,) = json.loads((tmp_path / "passes.json").read_text())["found"]
    assert set(found["costs"]["step_s"]) == {"1", "2", "3"}
    assert found["drafts"] in (1, 2)


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SettingsError, match="device=cuda: there is no GPU"):
        measure_passes(parse_options(PassesSettings, ["device=cuda"]), Console())


@given(st.floats(0, 1), st.integers(1, 8))
def test_a_pass_gives_one_token_at_least_and_all_drafts_at_most(acceptance: float, drafts: int) -> None:
    assert 1 <= tokens_per_step(acceptance, drafts) <= drafts + 1 + 1e-9


def test_drafts_that_cost_nothing_and_are_always_kept_multiply_the_speed() -> None:
    costs = SpeculationCosts(prefill_s=0.0, step_s={1: 2.0, 4: 2.0}, assistant_prefill_s=0.0, draft_s=0.0)
    assert predict_speedup(costs, tokens_per_step(1.0, 3), 3, tokens=40) == pytest.approx(4.0)
    assert predict_speedup(costs, tokens_per_step(0.0, 3), 3, tokens=40) == pytest.approx(1.0)
