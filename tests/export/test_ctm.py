"""Word times for sclite: six fields a line, whatever stands in an id or a word."""

from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.errors import SettingsError
from distil_ray.export.formats.ctm import render_ctm
from distil_ray.export.transcripts import Transcript
from tests.export.conftest import run_export
from tests.support.transcripts import transcript_row, write_transcripts

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(
    [";;x", ";", "a b"]
)
WORDS = [
    {"start_s": 0.0, "end_s": 0.48, "text": " Good", "probability": 0.98},
    {"start_s": 0.48, "end_s": 1.0, "text": " morning.", "probability": 0.5},
]


def test_a_line_a_word(tmp_path: Path) -> None:
    write_transcripts(
        f"{tmp_path}/out", [transcript_row("call 1", words=WORDS), transcript_row("silent", text="", words=[])]
    )
    run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=ctm")
    assert (tmp_path / "to/words.ctm").read_text() == (
        "call%201 1 0.000 0.480 Good 0.980\ncall%201 1 0.480 0.520 morning. 0.500\n"
    )


def test_a_word_without_a_probability_has_five_fields(tmp_path: Path) -> None:
    words = [WORDS[0] | {"probability": None}, WORDS[1]]
    write_transcripts(f"{tmp_path}/out", [transcript_row("a", words=words)])
    run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=ctm")
    assert (tmp_path / "to/words.ctm").read_text() == "a 1 0.000 0.480 Good\na 1 0.480 0.520 morning. 0.500\n"


def test_a_recording_without_word_times_names_the_setting_that_gives_them(tmp_path: Path) -> None:
    write_transcripts(f"{tmp_path}/out", [transcript_row("a", words=WORDS), transcript_row("b")])
    with pytest.raises(SettingsError, match=r"b has no word times.*decoding\.timestamps=word"):
        run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=ctm")
    assert not list((tmp_path / "to").iterdir())


def test_a_recording_whose_words_lack_a_part_of_its_text_is_skipped(tmp_path: Path) -> None:
    write_transcripts(f"{tmp_path}/out", [transcript_row("a", words=WORDS), transcript_row("b", words=WORDS[:1])])
    _, printed = run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=ctm", "max_failed_fraction=0.5")
    assert "skipped        1 recording, for example b: its words, segments or chunks lack a part" in printed
    assert (tmp_path / "to/words.ctm").read_text().startswith("a 1 0.000")
    assert "b 1" not in (tmp_path / "to/words.ctm").read_text()


@given(TEXTS, TEXTS)
def test_every_line_has_six_fields_and_no_line_is_a_comment(recording_id: str, word: str) -> None:
    said = {"start_s": 1.0, "end_s": 1.5, "text": word, "probability": 1.0}
    for line in render_ctm(
        Transcript.from_row(transcript_row(recording_id, words=[said], text=word), "mix")
    ).splitlines():
        assert not line.startswith(";;")
        fields = line.split()
        assert len(fields) == 6
        assert unquote(fields[0]) == recording_id
        assert fields[1:4] == ["1", "1.000", "0.500"]
