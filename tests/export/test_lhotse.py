"""Cuts claim the rate and the channels that their files have: lhotse refuses to load what does not agree."""

import gzip
import json
from typing import Any

import numpy as np
import pytest
import soundfile

from distil_ray.errors import ExitCode
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from tests.export.conftest import files_below, run_export
from tests.support.transcripts import transcript_row, write_transcripts


def sound(rate: int, channels: int, seconds: float, form: str = "wav") -> bytes:
    import io

    file = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, (round(rate * seconds), channels))
    soundfile.write(file, noise, rate, format=form)
    return file.getvalue()


@pytest.fixture
def cuts(root: str) -> dict[str, dict[str, Any]]:
    """The cuts of an output over files of several kinds, by id."""
    storage = Storage()
    for name, data in (
        ("mono.wav", sound(16_000, 1, 2)),
        ("music.mp3", sound(44_100, 1, 2, "mp3")),
        ("call.flac", sound(8_000, 2, 2, "flac")),
    ):
        storage.put(join(root, "in", name), data)
    uri = {name: join(root, "in", name) for name in ("mono.wav", "music.mp3", "call.flac", "gone.wav")}
    words = [{"start_s": 0.5, "end_s": 0.75, "text": " Good", "probability": 0.5}]
    rows = [
        transcript_row(
            "mono", uri=uri["mono.wav"], duration_s=2.0, metadata={"speaker": "7", "room": "a"}, words=words
        ),
        transcript_row("part", uri=uri["mono.wav"], duration_s=0.5, location={"start_s": 0.25, "length_s": 0.5}),
        transcript_row("music", uri=uri["music.mp3"], duration_s=2.0),
        transcript_row("call", uri=uri["call.flac"], duration_s=2.0),
        transcript_row("call-1", uri=uri["call.flac"], duration_s=2.0, location={"channel": 1}),
        transcript_row("gone", uri=uri["gone.wav"]),
    ]
    write_transcripts(join(root, "out"), rows)
    code, printed = run_export(join(root, "out"), join(root, "to"), "format=lhotse", "max_failed_fraction=0.2")
    assert code == ExitCode.DONE
    assert "gone: its audio no longer exists" in printed
    lines = gzip.decompress(files_below(join(root, "to"))["cuts.jsonl.gz"]).decode().splitlines()
    return {cut["id"]: cut for cut in map(json.loads, lines)}


def test_cuts_say_what_their_files_are(cuts: dict[str, dict[str, Any]], root: str) -> None:
    assert set(cuts) == {"mono", "part", "music", "call", "call-1"}
    facts = {
        name: (cut["type"], cut["channel"], cut["recording"]["sampling_rate"], cut["recording"]["num_samples"])
        for name, cut in cuts.items()
    }
    assert facts == {
        "mono": ("MonoCut", 0, 16_000, 32_000),
        "part": ("MonoCut", 0, 16_000, 32_000),
        "music": ("MonoCut", 0, 44_100, 88_200),
        "call": ("MultiCut", [0, 1], 8_000, 16_000),
        "call-1": ("MonoCut", 1, 8_000, 16_000),
    }
    for cut in cuts.values():
        recording, (source,) = cut["recording"], cut["recording"]["sources"]
        assert source["channels"] == recording["channel_ids"]
        assert source["type"] == ("url" if root.startswith("s3://") else "file")
        assert source["source"].startswith(f"{root}/in/")
        assert cut["start"] + cut["duration"] <= recording["duration"] == 2.0
        assert recording["num_samples"] == round(recording["duration"] * recording["sampling_rate"])


def test_the_supervision_is_the_transcript(cuts: dict[str, dict[str, Any]]) -> None:
    (supervision,) = cuts["mono"]["supervisions"]
    assert supervision == {
        "id": "mono",
        "recording_id": "mono",
        "start": 0.0,
        "duration": 2.0,
        "channel": 0,
        "text": "Good morning.",
        "language": "en",
        "speaker": "7",
        "custom": {"room": "a"},
        "alignment": {"word": [["Good", 0.5, 0.25, 0.5]]},
    }
    assert (cuts["part"]["start"], cuts["part"]["duration"]) == (0.25, 0.5)
    assert cuts["part"]["supervisions"][0]["start"] == 0.0
