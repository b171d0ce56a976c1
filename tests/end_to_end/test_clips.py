"""The recordings of tests/data from file to scored row: formats, recognition, merging, timestamps and scores."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode
from distil_ray.pipeline import runner
from tests.support.clips import load_manifest, load_segments
from tests.support.without_ray import run_stages_in_process

Rows = dict[str, dict[str, Any]]

# Of whisper-base in float32, in words; characters for Japanese and Mandarin.
MAX_EDITS = {"austen-0870": 0, "austen-0880-8khz": 2, "austen-0890": 2, "austen-0920": 0, "austen-0930": 0}
MAX_EDITS |= {"kennedy": 1, "librispeech-61": 2, "sonnet-1": 22, "spanish": 12, "swedish": 9, "mandarin": 3}


@pytest.fixture(scope="module")
def rows(clips: Path, whisper_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    """The rows of one run over all recordings, by id."""
    output = tmp_path_factory.mktemp("clips")
    settings = [f"input.uri={clips / 'manifest.jsonl'}", f"output.uri={output}", f"model.name={whisper_base}"]
    settings += ["decoding.timestamps=word", "model.dtype=float32", "chunking.length_s=28", "resources.actors=1"]
    with pytest.MonkeyPatch.context() as patch:
        run_stages_in_process(patch)
        assert runner.transcribe(load_config(None, settings), Console(file=io.StringIO())) == ExitCode.DONE
    yield {row["recording_id"]: row for row in pq.read_table(output / "transcripts").to_pylist()}


def test_every_format_is_decoded_to_its_whole_length(rows: Rows) -> None:
    manifest = load_manifest()
    assert set(rows) == set(manifest)
    lengths = {name: (row["duration_s"], manifest[name]["duration_s"]) for name, row in rows.items()}
    assert {name: both for name, both in lengths.items() if abs(both[0] - both[1]) > 0.08} == {}


def test_words_are_recognized_and_scored_against_the_references(rows: Rows) -> None:
    edits = {name: sum(rows[name][kind] for kind in ("substitutions", "deletions", "insertions")) for name in MAX_EDITS}
    assert {name: count for name, count in edits.items() if count > MAX_EDITS[name]} == {}
    assert all(rows[name]["wer"] == edits[name] / rows[name]["num_ref_words"] for name in MAX_EDITS)
    assert rows["two-speakers-stereo"]["wer"] is None  # it has no reference


def test_languages_are_detected(rows: Rows) -> None:
    manifest = load_manifest()
    wrong = {name: row["language"] for name, row in rows.items() if row["language"] != manifest[name]["language"]}
    assert set(wrong) <= {"swedish-room-noise"}  # nobody speaks there


def test_a_recording_without_speech_is_empty(rows: Rows) -> None:
    row = rows["swedish-room-noise"]
    assert (row["status"], row["text"], row["quality_flags"]) == ("empty", "", ["no_speech"])


def test_a_recording_longer_than_a_window_is_cut_in_a_pause_and_merged(rows: Rows) -> None:
    row = rows["sonnet-1"]
    assert len(row["chunks"]) > 1
    phrases = load_segments()["sonnet-1"]
    for chunk in row["chunks"][1:]:
        assert not any(start_s + 0.05 < chunk["start_s"] < end_s - 0.05 for start_s, end_s, _ in phrases)
    assert " ".join(word["text"].strip() for word in row["words"]).split()[:2] == row["text"].split()[:2]
    assert all(
        before["end_s"] <= after["start_s"] for before, after in zip(row["words"], row["words"][1:], strict=False)
    )


@pytest.mark.parametrize("name", ["kennedy", "sonnet-1"])
def test_words_begin_and_end_with_the_phrases_that_were_measured(rows: Rows, name: str) -> None:
    """No word lies in a pause, and most phrases have a word at both of their edges."""
    phrases = load_segments()[name]
    middles = [(word["start_s"] + word["end_s"]) / 2 for word in rows[name]["words"]]
    assert all(any(start_s - 0.2 < middle < end_s + 0.2 for start_s, end_s, _ in phrases) for middle in middles)
    starts = [min(abs(word["start_s"] - start_s) for word in rows[name]["words"]) for start_s, _, _ in phrases]
    ends = [min(abs(word["end_s"] - end_s) for word in rows[name]["words"]) for _, end_s, _ in phrases]
    assert sum(starts) / len(starts) < 0.2
    assert sum(ends) / len(ends) < 0.2
