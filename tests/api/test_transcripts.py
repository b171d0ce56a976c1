"""`dr.read_transcripts` returns the current row of each recording."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

import distil_ray as dr
from distil_ray.schema import TRANSCRIPT
from tests.support.transcripts import transcript_row, write_transcripts

TIME = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def output(tmp_path: Path) -> str:
    """An output in which the recording `b` was retried by a second run."""
    failed = transcript_row("b", run_id="first", status="failed", text=None, processed_at=TIME)
    retried = transcript_row("b", run_id="second", text="Hello.", processed_at=TIME + timedelta(days=1))
    return write_transcripts(tmp_path, [transcript_row("a", run_id="first"), failed], [retried])


def test_one_row_per_recording(output: str) -> None:
    table = dr.read_transcripts(output)
    assert isinstance(table, pd.DataFrame)
    assert dict(zip(table["recording_id"], table["text"], strict=True)) == {"a": "Good morning.", "b": "Hello."}
    assert dr.read_transcripts(output, format="arrow").schema.names == TRANSCRIPT.names


def test_columns_and_runs_are_selected(output: str) -> None:
    table = dr.read_transcripts(output, ["text", "status"], run_id="second", format="arrow")
    assert table.to_pylist() == [{"text": "Hello.", "status": "ok"}]
    assert dr.read_transcripts(output, ["text"], run_id="third").empty


def test_wrong_arguments_are_refused(output: str, tmp_path: Path) -> None:
    with pytest.raises(dr.SettingsError, match="columns: there is no transcript"):
        dr.read_transcripts(output, ["transcript"])
    with pytest.raises(dr.SettingsError, match="format=polars"):
        dr.read_transcripts(output, format="polars")  # type: ignore[call-overload]
    with pytest.raises(dr.InputError, match="there are no transcripts"):
        dr.read_transcripts(tmp_path / "nothing")
