"""Lhotse manifests; unsupported cuts are errors that name the field."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from distil_ray.errors import ErrorKind, InputError
from distil_ray.types import AudioLocation as Part
from tests.readers.conftest import Place, listed

Row = dict[str, Any]


def recording(name: str = "r", channels: int = 1, **more: Any) -> Row:
    """As lhotse 1.3x writes it, 10 s long."""
    source = {"type": "file", "channels": list(range(channels)), "source": "audio/a.wav"}
    facts = {"id": name, "sources": [source], "sampling_rate": 16000, "num_samples": 160000, "duration": 10.0}
    return facts | {"channel_ids": list(range(channels))} | more


def supervision(text: str | None, start: Any = 0.0, **more: Any) -> Row:
    return {"id": "s", "recording_id": "r", "start": start, "duration": 1.0, "channel": 0, "text": text} | more


def cut(name: str, start: Any = 0.0, duration: float = 10.0, **more: Any) -> Row:
    plain = {"id": name, "start": start, "duration": duration, "channel": 0, "supervisions": []}
    return plain | {"recording": recording(), "type": "MonoCut"} | more


def lines(*rows: Row) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_cuts_are_segments_with_the_text_of_their_supervisions(place: Place) -> None:
    one = supervision("GO", language="English", speaker="s1", gender="f", custom={"snr": 7.5, "codes": [1]})
    two = [supervision("ON", 1.5, speaker="s2"), supervision("HOLD", 0.5, speaker="s1"), supervision(None, 3.0)]
    across = [supervision("AND", -0.25), supervision("SO", 1.0, speaker="s2")]
    rows = [
        cut("whole", supervisions=[one], custom={"room": "a"}),
        cut("part", 2.25, 2.5, supervisions=two[:2]),
        cut("window", 2.0, 4.0, supervisions=across),
        cut("tail", 2.0, 1.5, supervisions=across[1:]),
        cut("left", recording=recording(channels=2), channel=1),
        cut("mix", recording=recording(channels=2), channel=[0, 1], type="MultiCut"),
    ]
    root = place({"audio/a.wav": b"12345", "cuts.jsonl.gz": gzip.compress(lines(*rows)), "cuts.jsonl": lines(*rows)})
    for name in ("cuts.jsonl", "cuts.jsonl.gz"):
        whole, part, window, tail, left, mix = listed(f"{root}/{name}")
        assert (whole.recording_id, whole.location, whole.source_size, whole.duration_s) == ("whole", None, 5, 10.0)
        assert (whole.reference, whole.language) == ("GO", "en")
        assert whole.metadata == {"speaker": "s1", "gender": "f", "snr": "7.5", "room": "a"}
        assert (part.location, part.duration_s) == (Part(start_s=2.25, length_s=2.5), 2.5)
        assert (part.reference, part.metadata) == ("HOLD ON", {"speaker": "s1, s2"})
        # A window of a recording, as `CutSet.cut_into_windows` makes it, has a part of a supervision at its edges.
        assert (window.error, window.reference, window.location) == (None, None, Part(start_s=2.0, length_s=4.0))
        assert (tail.error, tail.reference, tail.metadata) == (None, None, {"speaker": "s2"})
        assert (left.location, left.reference) == (Part(channel=1), None)
        assert mix.location is None
        assert {one.uri for one in (whole, part, window, tail, left, mix)} == {f"{root}/audio/a.wav"}


def test_one_channel_of_several_files_is_the_file_that_holds_it(tmp_path: Path) -> None:
    sources = [{"type": "file", "channels": [number], "source": f"{number}.wav"} for number in (0, 1)]
    (tmp_path / "cuts.jsonl").write_bytes(lines(cut("b", channel=1, recording=recording() | {"sources": sources})))
    (found,) = listed(str(tmp_path / "cuts.jsonl"))
    assert (found.uri, found.location) == (str(tmp_path / "1.wav"), None)


def test_supervisions_are_read_from_the_same_folder(place: Place) -> None:
    supervisions = lines(supervision("ON", 5.0), supervision("GO", 1.0), supervision("X", recording_id="other"))
    root = place(
        {
            "audio/a.wav": b"12345",
            "x_recordings_dev.jsonl.gz": gzip.compress(lines(recording(), recording("stereo", 2))),
            "x_supervisions_dev.jsonl.gz": gzip.compress(supervisions),
            "alone.jsonl": lines(recording()),
        }
    )
    mono, stereo = listed(f"{root}/x_recordings_dev.jsonl.gz")
    assert (mono.recording_id, mono.reference, mono.location, mono.duration_s) == ("r", "GO ON", None, 10.0)
    assert (stereo.reference, stereo.location) == (None, None)
    assert [one.reference for one in listed(f"{root}/alone.jsonl")] == [None]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "m", "tracks": [], "type": "MixedCut"}, "line 1: is a MixedCut, which is no stretch of one file"),
        (cut("p") | {"type": "PaddingCut"}, "line 1: is a PaddingCut"),
        ({"id": "f", "start": 0, "duration": 1, "features": {}, "type": "MonoCut"}, "no recording .only features"),
        (
            cut("c", recording=recording(sources=[{"type": "command", "channels": [0], "source": "sox x |"}])),
            "its audio is of the type 'command', not file or url",
        ),
        (
            cut("c", recording=recording(sources=[{"type": "memory", "channels": [0], "source": "AAAA"}])),
            "its audio is of the type 'memory', not file or url",
        ),
        (
            cut("c", recording=recording(transforms=[{"name": "Resample"}, {"name": "Speed"}])),
            r"its recording is changed while it is loaded \(Speed\)",
        ),
        (
            cut("c", recording=recording(channels=3), channel=[0, 2], type="MultiCut"),
            r"channels \[0, 2\] are neither one nor all of one file",
        ),
        (
            cut("c", recording=recording(sources=[{"type": "file", "channels": [0], "source": "../x"}])),
            "lies outside of",
        ),
    ],
)
def test_an_unsupported_cut_is_an_error_that_names_it(tmp_path: Path, row: Row, message: str) -> None:
    (tmp_path / "cuts.jsonl").write_bytes(lines(row))
    with pytest.raises(InputError, match=message):
        listed(str(tmp_path / "cuts.jsonl"))
    if "outside" not in message:  # of several cuts those that can be had are had
        (tmp_path / "cuts.jsonl").write_bytes(lines(row, cut("good")))
        wrong, good = listed(str(tmp_path / "cuts.jsonl"))
        assert (wrong.recording_id, wrong.error_kind, good.error) == (row["id"], ErrorKind.INVALID_ROW, None)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (cut("c", -1.0, 3.0), "a number out of range"),
        (cut("c", 1.0, float("nan")), "duration None s"),
        (cut("c", 1.0, -2.0), "a number out of range"),
        (cut("c", recording={"id": "r"}), "KeyError"),
        (cut("c", supervisions=[supervision("x", "soon")]), "could not convert string to float"),
        (cut("c", "abc"), "could not convert string to float"),
    ],
)
def test_a_cut_with_a_wrong_value_fails_alone(tmp_path: Path, row: Row, words: str) -> None:
    (tmp_path / "cuts.jsonl").write_bytes(b"{broken\n" + lines(row, cut("good", -1e-9, 1.5)) + b"[]\n")
    broken, wrong, good, array = listed(str(tmp_path / "cuts.jsonl"))
    assert (wrong.recording_id, wrong.error_kind) == ("c", ErrorKind.INVALID_ROW)
    assert str(wrong.error).startswith(f"{tmp_path}/cuts.jsonl line 2: not readable as lhotse writes it")
    assert words in str(wrong.error)
    assert (good.error, good.location) == (None, Part(start_s=0.0, length_s=1.5))
    assert [one.recording_id for one in (broken, array)] == [f"{tmp_path}/cuts.jsonl line {n}" for n in (1, 4)]


def test_a_supervision_without_a_recording_is_a_failed_row(tmp_path: Path) -> None:
    (tmp_path / "recordings.jsonl").write_bytes(lines(recording()))
    (tmp_path / "supervisions.jsonl").write_bytes(lines(supervision("GO"), {"id": "s", "text": "NAN"}))
    found, wrong = listed(str(tmp_path / "recordings.jsonl"))
    assert (found.reference, found.error) == ("GO", None)
    assert wrong.recording_id == f"{tmp_path}/supervisions.jsonl line 2"
    assert "it has no recording_id" in str(wrong.error)
