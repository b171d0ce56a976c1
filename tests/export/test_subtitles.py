"""Subtitles as FFmpeg reads them: every cue, its times and its text."""

import html
import io
from dataclasses import replace
from itertools import pairwise

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distil_ray.export.formats.srt import render_srt
from distil_ray.export.formats.vtt import render_vtt
from distil_ray.export.subtitles import Cue, build_cues, one_line
from distil_ray.export.transcripts import NotExportableError, Transcript
from distil_ray.types import Segment, Word
from tests.support.transcripts import transcript_row

Parsed = list[tuple[int, int, str]]
NASTY = [
    *(
        "-->",
        "00:00:01,000 --> 00:00:02,000",
        "1",
        "WEBVTT",
        "NOTE x",
        "STYLE",
        "<i>",
        "</b>",
        "&amp;",
        "&lt;",
        "& < >",
    ),
    *(
        "a\n\nb",
        "a\r\nb",
        "\n",
        " ",
        "\x00",
        "a\u2028b",
        "a\x85b",
        "{\\an8}x",
        "\ufeff",
        "%s",
        "\\N",
        "🙂",
        "אבג",
        "日本",
    ),
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(NASTY)
SECONDS = st.floats(-1, 40, allow_nan=False)
SPANS = st.lists(st.builds(Segment, SECONDS, SECONDS, TEXTS), max_size=8)


def transcript(duration_s: float = 10.0, **spans: tuple[Segment, ...]) -> Transcript:
    return replace(Transcript.from_row(transcript_row("a"), "mix"), **{"duration_s": duration_s, "chunks": (), **spans})  # type: ignore[arg-type]


def read(text: str, form: str) -> Parsed:
    with av.open(io.BytesIO(text.encode()), "r", format=form) as container:
        packets = [packet for packet in container.demux(container.streams[0]) if packet.pts is not None]
        return [(packet.pts, packet.pts + packet.duration, bytes(packet).decode()) for packet in packets]  # type: ignore


@given(SPANS, st.floats(0, 36))
def test_cues_run_forward_within_the_recording_and_lose_no_text(spans: list[Segment], duration_s: float) -> None:
    found = build_cues(transcript(duration_s, segments=tuple(spans)))
    assert all(cue.start < cue.end for cue in found)
    assert all(before.end <= after.start for before, after in pairwise(found))
    assert not found or (found[0].start >= 0 and found[-1].end <= duration_s * 1000)
    said = " ".join(one_line(span.text) for span in spans).split()
    assert " ".join(cue.text for cue in found).split() == (said if duration_s >= 0.001 else [])


@settings(max_examples=60)
@given(SPANS)
def test_a_subrip_file_is_read_as_it_was_meant(spans: list[Segment]) -> None:
    whole = transcript(36.0, segments=tuple(spans))
    text = render_srt(whole)
    if not build_cues(whole):
        assert text == ""
        return
    parsed = [(start, end, words.replace("\u2060", "")) for start, end, words in read(text, "srt")]
    assert parsed == [(cue.start, cue.end, cue.text.replace("\u2060", "")) for cue in build_cues(whole)]


@settings(max_examples=60)
@given(SPANS)
def test_a_webvtt_file_is_read_as_it_was_meant(spans: list[Segment]) -> None:
    whole = transcript(36.0, segments=tuple(spans))
    parsed = [(start, end, html.unescape(words)) for start, end, words in read(render_vtt(whole), "webvtt")]
    assert parsed == [(cue.start, cue.end, cue.text) for cue in build_cues(whole)]
    for block in render_vtt(whole).split("\n\n")[1:]:
        assert "-->" not in block.split("\n")[1]
        assert "<" not in block


def test_times_beyond_an_hour_are_written_in_full() -> None:
    whole = transcript(40_000.0, segments=(Segment(36_061.5, 36_062.25, "Late."),))
    assert render_srt(whole) == "1\n10:01:01,500 --> 10:01:02,250\nLate.\n"
    assert render_vtt(whole) == "WEBVTT\n\n10:01:01.500 --> 10:01:02.250\nLate.\n"


def test_words_are_gathered_to_phrases() -> None:
    said = "Good morning. How are you today? Fine"
    words = [Word(0.4 * i, 0.4 * i + 0.3, f" {word}", 0.9) for i, word in enumerate(said.split())]
    words[-1] = replace(words[-1], start_s=9.0, end_s=9.5)
    words.append(Word(9.5, 10.0, " thanks", 0.9))
    found = build_cues(transcript(10.0, words=tuple(words)))
    assert found == [
        Cue(0, 700, "Good morning."),
        Cue(800, 2300, "How are you today?"),
        Cue(9000, 10_000, "Fine thanks"),
    ]


def test_a_phrase_without_an_end_is_cut_where_a_cue_is_full() -> None:
    words = tuple(Word(0.5 * i, 0.5 * i + 0.5, f" {'so' * 5}", 0.9) for i in range(40))
    found = build_cues(transcript(20.0, words=words))
    assert all(cue.end - cue.start <= 7000 and len(cue.text) <= 84 for cue in found)
    assert sum(len(cue.text.split()) for cue in found) == 40


def test_chunks_are_cues_where_there_is_nothing_better() -> None:
    chunks = (Segment(0.0, 15.0, "One."), Segment(15.0, 20.0, ""), Segment(20.0, 31.0, "Two."))
    found = build_cues(transcript(31.0, chunks=chunks))
    assert found == [Cue(0, 15_000, "One."), Cue(20_000, 31_000, "Two.")]


def test_overlapping_chunks_are_not_shown_as_if_each_word_were_said_twice() -> None:
    chunks = (Segment(0.0, 15.0, "One two"), Segment(10.0, 25.0, "two three"))
    with pytest.raises(NotExportableError, match="timestamps=segment"):
        build_cues(transcript(25.0, chunks=chunks))
