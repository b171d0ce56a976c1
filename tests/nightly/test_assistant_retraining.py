"""Training after a nightly run: when it is started, and that its failure does not fail the nightly run."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from distil_ray.config import AssistantConfig
from distil_ray.config.loader import load_config
from distil_ray.nightly.assistant_retraining import retrain_assistant, retraining_reason
from distil_ray.storage.storage import Storage
from tests.assistant_training.factories import MAIN, make_current_assistant


@pytest.mark.parametrize(
    ("settings", "acceptance", "expected"),
    [
        ({"nightly_below": 0.6}, 0.55, "the acceptance rate of its drafts was 55.0 %, below"),
        ({"nightly_below": 0.6}, 0.65, None),
        ({"nightly_below": 0.6}, None, None),  # nothing was drafted
        ({"nightly_first": True}, None, None),  # there is one already
        ({"nightly_first": True, "nightly_below": 0.6}, 0.5, "the acceptance rate of its drafts was 50.0 %"),
        ({}, 0.1, None),
    ],
)
def test_a_low_acceptance_rate_is_a_reason_for_training(
    settings: dict[str, object], acceptance: float | None, expected: str | None, tmp_path: Path
) -> None:
    (tmp_path / "current.json").write_bytes(make_current_assistant("x", MAIN).encode())
    config = AssistantConfig.model_validate({"uri": str(tmp_path), **settings})

    found = retraining_reason(config, acceptance, Storage(), lambda: MAIN)

    assert (found or "").startswith(expected or "") and bool(found) == bool(expected)


def test_nightly_first_trains_if_there_is_no_assistant(tmp_path: Path) -> None:
    config = AssistantConfig(uri=str(tmp_path), nightly_first=True)

    assert "there is no assistant at assistant.uri" in (retraining_reason(config, None, Storage(), lambda: MAIN) or "")


def test_nightly_first_trains_if_the_assistant_belongs_to_another_model(tmp_path: Path) -> None:
    (tmp_path / "current.json").write_bytes(make_current_assistant("x", "sha256:former").encode())
    config = AssistantConfig(uri=str(tmp_path), nightly_first=True, nightly_below=0.6)

    found = retraining_reason(config, None, Storage(), lambda: MAIN)  # nothing drafted, so no acceptance rate
    assert found is not None and found.startswith("there is no assistant for this model yet")
    assert "sha256:former" in found


def test_a_failed_training_is_logged_and_recorded(tmp_path: Path, whisper_tiny_en: Path) -> None:
    words = [f"assistant.uri={tmp_path}/assistants", "assistant.nightly_first=true", f"model.name={whisper_tiny_en}"]
    config = load_config(None, [*words, f"output.uri={tmp_path}/nothing"])
    console = Console(file=io.StringIO(), width=200)

    entry = retrain_assistant(
        config, f"{tmp_path}/nothing/transcripts/date=2026-11-22", {"acceptance_rate": None}, console
    )

    assert entry is not None and entry["outcome"] == "failed" and "there are no transcripts" in entry["error"]
    assert "no assistant was trained" in console.file.getvalue()  # type: ignore[attr-defined]
