"""The error for an output with rows of other settings lists the settings that differ."""

from pathlib import Path

import pyarrow as pa
import pytest

from distil_ray.config.loader import dump_config, load_config
from distil_ray.errors import SettingsError
from distil_ray.output.run_context import ChunkingPlan, Run
from distil_ray.pipeline.setup import check_output
from distil_ray.schema import TRANSCRIPT, to_parquet_bytes
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import SAMPLE_RATE

MODEL = "sha256:1234"
NOW = "f" * 16


@pytest.fixture
def output(tmp_path: Path) -> str:
    return str(tmp_path / "out")


def _run(output: str, *overrides: str) -> Run:
    config = load_config(None, ["input.uri=/in", f"output.uri={output}", *overrides])
    return Run(config, "now", NOW, MODEL, None, ("en", "de"), ChunkingPlan("quiet", 30 * SAMPLE_RATE, 0, 0, ""))


def _rows(output: str, fingerprint: str, run_id: str, model: str = MODEL, number: int = 1) -> None:
    columns = {field.name: pa.nulls(number, field.type) for field in TRANSCRIPT}
    told = {"fingerprint": fingerprint, "run_id": run_id, "model": model, "status": "ok"}
    columns |= {name: pa.array([value] * number) for name, value in told.items()}
    columns["recording_id"] = pa.array([f"{run_id}-{row}" for row in range(number)])
    data = to_parquet_bytes(pa.table(columns, schema=TRANSCRIPT))
    Storage().put(join(output, "transcripts", f"task-{run_id}.parquet"), data)


def _settings(output: str, run_id: str, text: str) -> None:
    Storage().put(join(output, "runs", run_id, "config.yaml"), text.encode())


def _refusal(run: Run) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        check_output(run)
    return [line.strip() for line in str(caught.value).splitlines()]


def test_only_settings_that_can_change_a_transcript_are_listed(output: str) -> None:
    theirs = load_config(None, ["decoding.language=de", "decoding.batch_size=4", "decoding.timestamps=segment"])
    _rows(output, "old", "then")
    _settings(output, "then", dump_config(theirs))
    lines = _refusal(_run(output, "decoding.language=de", "plan.part_audio_s=60", "model.name=somewhere/else"))
    assert lines[1] == "1 by run then (fingerprint old)"
    assert lines[2:-1] == ["decoding.timestamps: was segment, is none"]


def test_settings_of_the_language_detection_are_listed_if_it_is_used(output: str) -> None:
    _rows(output, "old", "then")
    _settings(output, "then", dump_config(load_config(None, ["decoding.language_detection_chunks=5"])))
    assert _refusal(_run(output))[2:-1] == ["decoding.language_detection_chunks: was 5, is 3"]


def test_models_are_compared_by_their_weights(output: str) -> None:
    _rows(output, "old", "then", model="sha256:abcd")
    _settings(output, "then", dump_config(_run(output).config))
    name = _run(output).config.model.name
    changed = f"model.name={name}: its weights have changed, from sha256:abcd to sha256:1234"
    assert _refusal(_run(output))[2:-1] == [changed]


def test_another_model_is_reported_by_the_name_that_was_set(output: str) -> None:
    _rows(output, "old", "then", model="sha256:abcd")
    _settings(output, "then", dump_config(load_config(None, ["model.name=small"])))
    told = _refusal(_run(output, "model.name=base"))[2:-1]
    assert told == ["model.name: was small (sha256:abcd), is base (sha256:1234)"]


def test_a_config_of_another_version_of_this_program_can_be_compared(output: str) -> None:
    _rows(output, "old", "then")
    text = dump_config(_run(output).config)
    _settings(output, "then", text.replace("decoding:\n", "decoding:\n  beams: 5\n"))
    assert _refusal(_run(output))[2:-1] == ["decoding.beams: was 5, is (not set)"]
    older = text.replace("  repetition_penalty: 1.0\n", "")
    assert older != text
    _settings(output, "then", older)  # from before the setting existed
    changed = _refusal(_run(output, "decoding.repetition_penalty=1.1"))[2:-1]
    assert changed == ["decoding.repetition_penalty: was 1.0, is 1.1"]
    assert "no setting differs" in _refusal(_run(output))[2]
    _settings(output, "then", text)
    assert "no setting differs" in _refusal(_run(output))[2]


@pytest.mark.parametrize("text", [None, "]", "words"])
def test_a_missing_or_damaged_config_is_named(output: str, text: str | None) -> None:
    _rows(output, "old", "then")
    if text is not None:
        _settings(output, "then", text)
    (line,) = _refusal(_run(output))[2:-1]
    assert line.endswith("runs/then/config.yaml)")


def test_groups_of_rows_are_listed_the_largest_first(output: str) -> None:
    for number in range(5):
        _rows(output, f"old-{number}", f"run-{number}", number=number + 1)
    _rows(output, NOW, "now", number=9)
    lines = _refusal(_run(output))
    assert "contains 15 rows that were made with other settings" in lines[0]
    assert [line for line in lines if " by run " in line] == [
        f"{number + 1} by run run-{number} (fingerprint old-{number})" for number in (4, 3, 2)
    ]


@pytest.mark.parametrize("choice", ["keep", "redo"])
def test_redo_and_keep_accept_rows_of_other_settings(output: str, choice: str) -> None:
    _rows(output, "old", "then")
    assert check_output(_run(output, f"output.on_settings_change={choice}")).num_rows == 1
