"""RTTM files beside the audio and in manifests become speaker turns; a wrong line fails the recording by name."""

import json

import pytest

from distil_ray.errors import ErrorKind
from distil_ray.readers.row_errors import RowError
from distil_ray.readers.rttm import parse_rttm, select_turns
from distil_ray.types import AudioLocation, Recording, SpeakerTurn
from tests.readers.conftest import Place, listed
from tests.readers.test_channels import call

LINES = """;; a comment
SPKR-INFO a 1 <NA> <NA> <NA> unknown bob <NA> <NA>

SPEAKER a 1 0.00 2.50 <NA> <NA> alice <NA> <NA>
SPEAKER a 2 2.25 1.00 <NA> <NA> bob <NA> <NA>
"""
TURNS = (SpeakerTurn(0.0, 2.5, "alice"), SpeakerTurn(2.25, 3.25, "bob"))


def test_a_file_beside_the_audio_gives_its_turns(place: Place) -> None:
    root = place({"a.wav": call(1), "a.rttm": LINES, "b.wav": call(1), "c.rttm": LINES})
    a, b = listed(root)
    assert a.speaker_turns == TURNS
    assert a.rttm_uri == f"{root}/a.rttm"
    assert (b.speaker_turns, b.rttm_uri) == (None, None)
    assert listed(f"{root}/*.wav")[0].speaker_turns == listed(f"{root}/a.wav")[0].speaker_turns == TURNS
    assert [one.speaker_turns for one in listed(root, speakers="none")] == [None, None]


def test_a_manifest_names_the_file_of_a_recording(place: Place) -> None:
    lines: list[dict[str, object]] = [
        {"id": "a", "uri": "a.wav", "rttm": "turns/all.rttm"},
        {"id": "part", "uri": "a.wav", "offset": 2.0, "duration": 1.0, "rttm": "turns/all.rttm"},
        {"id": "none", "uri": "a.wav"},
        {"id": "gone", "uri": "a.wav", "rttm": "turns/gone.rttm"},
        {"id": "b", "uri": "b.wav", "rttm": "turns/all.rttm", "call_id": "7"},
    ]
    both = LINES + "SPEAKER b <NA> 1 1 <NA> <NA> carol <NA> <NA>\n"
    root = place({"a.wav": call(1), "b.wav": call(1), "turns/all.rttm": both, "m.jsonl": _lines(lines)})
    found = {one.recording_id: one for one in listed(f"{root}/m.jsonl")}
    assert found["a"].speaker_turns == TURNS
    assert found["part"].speaker_turns == (SpeakerTurn(0.0, 0.5, "alice"), SpeakerTurn(0.25, 1.0, "bob"))
    assert found["none"].speaker_turns is None
    assert found["gone"].error_kind == ErrorKind.NOT_FOUND
    assert found["b"].speaker_turns == (SpeakerTurn(1.0, 2.0, "carol"),)
    assert found["b"].call_id == "7"
    assert not any("rttm" in one.metadata or "call_id" in one.metadata for one in found.values())


def test_a_channel_has_the_turns_of_its_number(place: Place) -> None:
    root = place({"a.wav": call(2), "a.rttm": LINES})
    assert [one.speaker_turns for one in listed(root, channels="split")] == [TURNS[:1], TURNS[1:]]


def test_a_wrong_file_fails_its_recording_and_no_other(place: Place) -> None:
    wrong = LINES + "SPEAKER a 1 later 2.50 <NA> <NA> alice <NA> <NA>\n"
    root = place({"a.wav": call(1), "a.rttm": wrong, "b.wav": call(1)})
    a, b = listed(root)
    assert a.error_kind == ErrorKind.INVALID_ROW
    assert a.error == f"{root}/a.rttm line 6: the start must be seconds from 0, found 'later'"
    assert b.error is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("SPEAKER a 1 0 1 <NA> <NA> x", "9 or 10 fields, found 8"),
        ("SPEAKER a 1 0 1 <NA> <NA> x y <NA> <NA>", "9 or 10 fields, found 11"),
        ("SPAEKER a 1 0 1 <NA> <NA> x <NA> <NA>", "SPAEKER"),
        ("SPEAKER a left 0 1 <NA> <NA> x <NA> <NA>", "channel"),
        ("SPEAKER a -1 0 1 <NA> <NA> x <NA> <NA>", "channel"),
        ("SPEAKER a 1 -1 1 <NA> <NA> x <NA> <NA>", "start"),
        ("SPEAKER a 1 0 nan <NA> <NA> x <NA> <NA>", "duration"),
        ("SPEAKER a 1 0 1 <NA> <NA> <NA> <NA> <NA>", "speaker"),
    ],
)
def test_a_wrong_line_is_named(line: str, reason: str) -> None:
    with pytest.raises(RowError, match=rf"a\.rttm line 1: .*{reason}"):
        parse_rttm([line], "a.rttm")


def test_a_file_about_other_recordings_is_an_error() -> None:
    turns = parse_rttm(["SPEAKER x 1 0 1 <NA> <NA> s <NA> <NA>", "SPEAKER y 1 0 1 <NA> <NA> s <NA> <NA>"], "a.rttm")
    assert select_turns(turns[:1], Recording("1", "/a.wav"), "a.rttm")
    assert select_turns(turns, Recording("1", "/x.wav"), "a.rttm")
    assert select_turns(turns, Recording("1", "/t.tar", location=AudioLocation(member="in/y.flac")), "a.rttm")
    with pytest.raises(RowError, match="none of them is named 'a'"):
        select_turns(turns, Recording("1", "/a.wav"), "a.rttm")


def _lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("ending", [" <NA> <NA>", " <NA>"], ids=["10 fields", "9 fields"])
def test_files_of_kaldi_and_speechbrain_name_no_channel(place: Place, ending: str) -> None:
    """Both write channel 0 in each line; older files have nine fields."""
    lines = "".join(f"SPEAKER a 0 {start} 0.5 <NA> <NA> {who}{ending}\n" for start, who in ((0, "x"), (1, "y")))
    root = place({"a.wav": call(2), "a.rttm": lines})
    turns = (SpeakerTurn(0.0, 0.5, "x"), SpeakerTurn(1.0, 1.5, "y"))
    assert [one.speaker_turns for one in listed(root, channels="split")] == [turns, turns]


def test_channels_0_and_1_in_one_file_are_an_error() -> None:
    lines = ["SPEAKER a 0 0 1 <NA> <NA> x <NA> <NA>", "SPEAKER a 1 0 1 <NA> <NA> y <NA> <NA>"]
    with pytest.raises(RowError, match=r"a\.rttm line 2: channels count from 1, but a\.rttm line 1 has channel 0"):
        parse_rttm(lines, "a.rttm")
