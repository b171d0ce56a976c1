"""Every encoding, segments and channels, from the listing through the decode stage to the row."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.write_stage import write_parts
from distil_ray.types import SAMPLE_RATE
from tests.audio.recordings import noise, write_container
from tests.pipeline.conftest import plan_run, pointers
from tests.support.audio_formats import DURATION_S, EXPECTED, PADDED_S
from tests.support.fakes import EchoTranscribe

S = SAMPLE_RATE
Rows = dict[str, dict[str, Any]]


def sounds_of(uri: Path, output: Path, *overrides: str) -> dict[str, Any]:
    """The samples of each recording, by id."""
    run, plan = plan_run(uri, output, "decoding.language=en", *overrides)
    (file,) = Path(run.plan_uri).iterdir()
    ids = pq.read_table(file)["recording_id"].to_pylist()
    assert plan.num_tasks == 1
    heard: dict[str, list[Any]] = {name: [] for name in ids}
    for part in decode_tasks(pointers(plan), run):
        pcm = np.frombuffer(part["pcm"][0].as_buffer(), np.int16)
        for chunk in part["chunks"][0].as_py():
            heard[ids[chunk["recording"]]].append(pcm[chunk["offset"] : chunk["offset"] + chunk["num_samples"]])
    return {name: np.concatenate([np.zeros(0, np.int16), *pieces]) for name, pieces in heard.items()}


def rows_of(uri: Path, output: Path, *overrides: str) -> Rows:
    run, plan = plan_run(uri, output, "decoding.language=en", *overrides)
    transcribe = EchoTranscribe(run)
    for part in decode_tasks(pointers(plan), run):
        (receipt,) = write_parts(transcribe(part), run).to_pylist()
        assert receipt["error"] is None, receipt["error"]
    return {row["recording_id"]: row for row in pq.read_table(output / "transcripts").to_pylist()}


def test_a_folder_of_every_encoding_gives_a_row_each_that_ends_as_expected(audio_formats: Path, tmp_path: Path) -> None:
    statuses = {"ok": "ok", "partial": "partial", "error": "failed", "no samples": "empty"}
    rows = rows_of(audio_formats, tmp_path)
    assert {name: row["status"] for name, row in rows.items()} == {
        name: statuses[expected] for name, expected in EXPECTED.items()
    }
    lengths = {name: rows[name]["duration_s"] for name, expected in EXPECTED.items() if expected == "ok"}
    assert all(math.isclose(length_s, DURATION_S, abs_tol=PADDED_S) for length_s in lengths.values()), lengths
    assert {name for name, row in rows.items() if "antiphase" in row["quality_flags"]} == {"stereo-antiphase.wav"}


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A folder with a call of two sides, a mono file, and a manifest of segments of both."""
    folder = tmp_path / "calls"
    folder.mkdir()
    sides = np.random.default_rng(0).integers(-9000, 9000, (20 * S, 2)).astype(np.int16)
    soundfile.write(folder / "call.wav", sides, S, subtype="PCM_16")
    soundfile.write(folder / "note.flac", sides[:, 0], S, subtype="PCM_16")
    lines = [
        {"id": "a", "audio_filepath": "call.wav", "offset": 2.5, "duration": 3.25},
        {"id": "b", "audio_filepath": "note.flac", "offset": 11.0, "duration": 1.0},
        {"id": "late", "audio_filepath": "note.flac", "offset": 30.0, "duration": 1.0},
    ]
    (folder / "cuts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_segments_of_a_manifest_give_their_very_samples(calls: Path, tmp_path: Path) -> None:
    sides, _ = soundfile.read(calls / "call.wav", dtype="int16")
    heard = sounds_of(calls / "cuts.jsonl", tmp_path / "out", "input.channels=split")
    assert set(heard) == {"a#0", "a#1", "b", "late"}
    for channel in (0, 1):
        assert np.array_equal(heard[f"a#{channel}"], sides[int(2.5 * S) : int(5.75 * S), channel])
    assert np.array_equal(heard["b"], sides[11 * S : 12 * S, 0])
    assert len(heard["late"]) == 0


def test_a_row_says_which_part_of_which_channel_it_is(calls: Path, tmp_path: Path) -> None:
    rows = rows_of(calls / "cuts.jsonl", tmp_path / "out", "input.channels=split")
    place = rows["a#1"]["location"]
    assert (place["start_s"], place["length_s"], place["channel"]) == (2.5, 3.25, 1)
    assert (rows["a#1"]["status"], rows["a#1"]["duration_s"]) == ("ok", 3.25)
    late = rows["late"]
    assert (late["status"], late["error_kind"]) == ("failed", "truncated")
    assert "the segment begins at 30.00 s, the file ends at 20.00 s" in late["error"]


@pytest.mark.parametrize(("channels", "wanted"), [("first", [1, 0]), ("mix", [0.5, 0.5])])
def test_the_first_channel_or_the_mix_is_transcribed(
    calls: Path, tmp_path: Path, channels: str, wanted: list[float]
) -> None:
    sides, _ = soundfile.read(calls / "call.wav", dtype="int16")
    heard = sounds_of(calls / "call.wav", tmp_path / "out", f"input.channels={channels}")
    assert np.abs(heard["call.wav"] - sides @ np.array(wanted)).max() <= 0.5


def test_a_manifest_that_names_a_pipe_gets_a_failed_row_and_the_others_are_decoded(calls: Path, tmp_path: Path) -> None:
    os.mkfifo(calls / "live.wav")
    lines = [{"id": "live", "audio_filepath": "live.wav"}, {"id": "note", "audio_filepath": "note.flac"}]
    (calls / "live.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = rows_of(calls / "live.jsonl", tmp_path / "out")
    assert (rows["live"]["status"], rows["live"]["error_kind"]) == ("failed", "not_audio")
    assert (rows["note"]["status"], rows["note"]["duration_s"]) == ("ok", 20.0)


def test_a_segment_of_a_video_is_what_is_presented_at_its_time(tmp_path: Path) -> None:
    sound = noise(3)
    folder = tmp_path / "in"
    folder.mkdir()
    write_container(folder / "a.mkv", "flac", sound, lambda seconds: seconds + 5, video_s=10)
    lines = [
        {"id": "whole", "audio_filepath": "a.mkv"},
        {"id": "speech", "audio_filepath": "a.mkv", "offset": 5.0, "duration": 3.0},
        {"id": "before", "audio_filepath": "a.mkv", "offset": 1.0, "duration": 2.0},
    ]
    (folder / "cuts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = rows_of(folder / "cuts.jsonl", tmp_path / "out")
    assert {name: (row["status"], row["duration_s"]) for name, row in rows.items() if name != "before"} == {
        "whole": ("ok", 10.0),
        "speech": ("ok", 3.0),
    }
    heard = sounds_of(folder / "cuts.jsonl", tmp_path / "out2")
    assert np.array_equal(heard["speech"], sound)
    assert not heard["before"].any()
