"""Subtitles of transcripts: where the words come from, and the files as FFmpeg and other parsers read them."""

import html
import io
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import av
import pysubs2
import pytest
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st

from distil_ray.errors import SettingsError
from distil_ray.export.cues import Cue, CueSettings
from distil_ray.export.formats.ass import STEP_MS, render_ass
from distil_ray.export.formats.srt import render_srt
from distil_ray.export.formats.tsv import render_tsv
from distil_ray.export.formats.vtt import render_vtt
from distil_ray.export.subtitles import build_transcript_cues, one_line, time_words
from distil_ray.export.transcripts import NotExportableError, Transcript
from distil_ray.types import Segment, Word
from tests.support.transcripts import transcript_row

Parsed = list[tuple[int, int, str]]
UNLIMITED = CueSettings(0, 0, 0, 0, 0, 0)
# fmt: off
NASTY = [
    "-->", "00:00:01,000 --> 00:00:02,000", "1", "WEBVTT", "NOTE x", "STYLE", "<i>", "</b>", "&amp;", "&lt;", "& < >",
    "a\n\nb", "a\r\nb", "\n", " ", "\x00", "a\u2028b", "a\x85b", "{\\an8}x", "\ufeff", "%s", "\\N", "🙂", "אבג", "日本",
]
# fmt: on
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(NASTY)
SECONDS = st.floats(-1, 40, allow_nan=False)
SPANS = st.lists(st.builds(Segment, SECONDS, SECONDS, TEXTS), max_size=8)


def transcript(duration_s: float = 10.0, text: str | None = None, **spans: tuple[Segment, ...]) -> Transcript:
    """A transcript whose text is that of its segments, chunks or words, unless it is given."""
    whole = spans.get("segments") or spans.get("chunks") or spans.get("words") or ()
    text = " ".join(span.text for span in whole) if text is None else text
    made: dict[str, Any] = {"duration_s": duration_s, "chunks": (), "text": text, **spans}
    return replace(Transcript.from_row(transcript_row("a"), "mix"), **made)


def words_of(text: str, step_s: float = 0.4) -> tuple[Word, ...]:
    """A word every `step_s`, 0.3 s long."""
    return tuple(Word(step_s * n, step_s * n + 0.3, f" {word}", 0.9) for n, word in enumerate(text.split()))


def times_and_texts(cues: list[Cue]) -> Parsed:
    return [(cue.start, cue.end, cue.text) for cue in cues]


def read(text: str, form: str) -> Parsed:
    with av.open(io.BytesIO(text.encode()), "r", format=form) as container:
        packets = [packet for packet in container.demux(container.streams[0]) if packet.pts is not None]
        return [(packet.pts, packet.pts + packet.duration, bytes(packet).decode()) for packet in packets]  # type: ignore


@given(SPANS, st.floats(0, 36), st.sampled_from([CueSettings(), UNLIMITED]))
def test_cues_run_forward_within_the_recording_and_lose_no_text(
    spans: list[Segment], duration_s: float, limits: CueSettings
) -> None:
    found = build_transcript_cues(transcript(duration_s, segments=tuple(spans)), limits)
    assert all(cue.start < cue.end for cue in found)
    assert all(before.end <= after.start for before, after in pairwise(found))
    assert not found or (found[0].start >= 0 and found[-1].end <= duration_s * 1000)
    expected = "".join("".join(one_line(span.text).split()) for span in spans)
    assert "".join("".join(cue.text.split()) for cue in found) == (expected if duration_s >= 0.001 else "")


@settings(max_examples=60)
@given(SPANS)
def test_a_subrip_file_is_read_as_it_was_meant(spans: list[Segment]) -> None:
    cues = build_transcript_cues(transcript(36.0, segments=tuple(spans)), CueSettings())
    text = render_srt(cues)
    if not cues:
        assert text == ""
        return
    parsed = [(start, end, words.replace("\u2060", "")) for start, end, words in read(text, "srt")]
    assert parsed == [(start, end, words.replace("\u2060", "")) for start, end, words in times_and_texts(cues)]


@settings(max_examples=60)
@given(SPANS)
def test_a_webvtt_file_is_read_as_it_was_meant(spans: list[Segment]) -> None:
    cues = build_transcript_cues(transcript(36.0, segments=tuple(spans)), CueSettings())
    text = render_vtt(cues)
    assert [(start, end, html.unescape(words)) for start, end, words in read(text, "webvtt")] == times_and_texts(cues)
    for block in text.split("\n\n")[1:]:
        assert "-->" not in block.split("\n", 1)[1]
        assert "<" not in block


@settings(max_examples=60)
@given(SPANS)
def test_tables_and_substation_scripts_have_an_entry_per_cue(spans: list[Segment]) -> None:
    cues = build_transcript_cues(transcript(36.0, segments=tuple(spans)), CueSettings())
    rows = [line.split("\t") for line in render_tsv(cues).split("\n")[1:-1]]
    assert [(int(start), int(end)) for start, end, _ in rows] == [(cue.start, cue.end) for cue in cues]
    assert ["".join(text.split()) for _, _, text in rows] == ["".join(cue.text.split()) for cue in cues]
    cues = build_transcript_cues(transcript(36.0, segments=tuple(spans)), CueSettings(), STEP_MS)
    events = [line for line in render_ass(cues).split("\n") if line.startswith("Dialogue: ")]
    assert len(events) == len(cues)
    assert [event.split(",", 9)[9].count("\\N") for event in events] == [len(cue.lines) - 1 for cue in cues]


def test_other_parsers_read_the_same_cues() -> None:
    text = "Tom & Jerry said {nothing} at all, although everybody in the large old house was waiting for a word."
    cues = build_transcript_cues(transcript(20.0, words=words_of(text), segments=(Segment(0, 9, text),)), CueSettings())
    assert len(cues) > 1
    assert any("\n" in cue.text for cue in cues)
    parsed = webvtt.from_string(render_vtt(cues))
    assert [(cue.start, html.unescape(cue.text)) for cue in parsed.captions] == [
        (f"00:00:{cue.start / 1000:06.3f}", cue.text) for cue in cues
    ]
    for rendered, form in ((render_srt(cues), "srt"), (render_ass(cues), "ass")):
        found = pysubs2.SSAFile.from_string(rendered, format_=form)
        assert [(one.start // 10, one.end // 10) for one in found] == [(one.start // 10, one.end // 10) for one in cues]
        assert [one.text.replace("\\N", "\n").replace("\\{", "{").replace("\\}", "}") for one in found] == [
            cue.text for cue in cues
        ]


def test_highlighted_words_have_their_times_in_webvtt_and_substation() -> None:
    text = "Good morning. How are you?"
    whole = transcript(10.0, words=words_of(text), segments=(Segment(0.0, 2.0, text),))
    (cue,) = build_transcript_cues(whole, CueSettings(max_line_width=15, highlight_words=True))
    lines = render_vtt([cue]).strip().split("\n")[-2:]
    assert lines == [
        "<c>Good</c> <00:00:00.400><c>morning.</c>",
        "<00:00:00.800><c>How</c> <00:00:01.200><c>are</c> <00:00:01.600><c>you?</c>",
    ]
    (caption,) = webvtt.from_string(render_vtt([cue])).captions
    assert caption.text == "Good morning.\nHow are you?"
    assert [text for _, _, text in read(render_vtt([cue]), "webvtt")] == ["\n".join(lines)]
    (event,) = pysubs2.SSAFile.from_string(render_ass([cue]))
    assert event.text == r"{\k40}Good{\k40} morning.\N{\k40}How{\k40} are{\k30} you?"
    assert event.plaintext == "Good morning.\nHow are you?"


def test_highlighting_without_word_times_is_an_error_that_names_the_setting() -> None:
    whole = transcript(10.0, segments=(Segment(0.0, 2.0, "Good morning."),))
    with pytest.raises(SettingsError, match=r"highlight_words=true: a .*decoding\.timestamps=word"):
        build_transcript_cues(whole, CueSettings(highlight_words=True))


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["a", "b<", "&c", "日本"])), min_size=1, max_size=12))
def test_webvtt_timestamps_increase_within_their_cue(words: list[tuple[int, str]]) -> None:
    spans = tuple(Word(start / 4, start / 4 + 0.2, f" {text}", 1.0) for start, text in sorted(words))
    for cue in build_transcript_cues(transcript(10.0, words=spans), CueSettings(highlight_words=True)):
        times = [int(mark.replace(".", "")) for mark in re.findall(r"<00:00:(\d\d\.\d{3})>", render_vtt([cue]))]
        assert all(cue.start < time < cue.end for time in times)
        assert all(before < after for before, after in pairwise(times))


def test_times_beyond_an_hour_are_written_in_full() -> None:
    cues = build_transcript_cues(transcript(40_000.0, segments=(Segment(36_061.5, 36_062.5, "Late."),)), CueSettings())
    assert render_srt(cues) == "1\n10:01:01,500 --> 10:01:02,500\nLate.\n"
    assert render_vtt(cues) == "WEBVTT\n\n10:01:01.500 --> 10:01:02.500\nLate.\n"
    assert "Dialogue: 0,10:01:01.50,10:01:02.50,Default," in render_ass(cues)
    assert render_tsv(cues) == "start\tend\ttext\n36061500\t36062500\tLate.\n"


@pytest.mark.parametrize("limits", [CueSettings(max_words=1, min_cue_s=0), CueSettings(max_words=1), CueSettings()])
@given(spans=SPANS)
def test_events_of_a_substation_script_do_not_overlap_in_its_coarse_times(
    spans: list[Segment], limits: CueSettings
) -> None:
    rushed = Segment(3.0, 3.05, "and so on and so on and so on and so on")
    whole = transcript(36.0, segments=(*spans, rushed))
    cues = build_transcript_cues(whole, limits, STEP_MS)
    events = pysubs2.SSAFile.from_string(render_ass(cues))
    assert all(before.end <= after.start for before, after in pairwise(events))
    assert all(event.start < event.end <= 36_000 for event in events)
    assert "".join("".join(event.plaintext.split()) for event in events).endswith("andsoon" * 4)


def test_without_limits_every_segment_is_a_cue() -> None:
    text = "So " * 60
    spans = (Segment(0.0, 20.0, text), Segment(20.0, 20.1, "Yes."), Segment(25.0, 26.0, "No."))
    found = build_transcript_cues(transcript(40.0, segments=spans), UNLIMITED)
    assert times_and_texts(found) == [(0, 20_000, text.strip()), (20_000, 20_100, "Yes."), (25_000, 26_000, "No.")]


def test_words_without_segments_are_grouped_by_sentences_and_pauses() -> None:
    words = words_of("Good morning. How are you today? Fine")
    words = (*words[:-1], replace(words[-1], start_s=9.0, end_s=9.5), Word(9.5, 10.0, " thanks", 0.9))
    found = build_transcript_cues(transcript(10.0, words=words), UNLIMITED)
    assert times_and_texts(found) == [
        (0, 700, "Good morning."),
        (800, 2300, "How are you today?"),
        (9000, 10_000, "Fine thanks"),
    ]


def test_words_that_do_not_make_up_the_segments_are_not_used() -> None:
    whole = transcript(10.0, words=words_of("Good"), segments=(Segment(2.0, 4.0, "Good morning."),))
    assert times_and_texts(build_transcript_cues(whole, UNLIMITED)) == [(2000, 4000, "Good morning.")]


def test_a_word_belongs_to_the_segment_that_has_its_text() -> None:
    words = words_of("One two three")
    spans = (Segment(0.0, 0.9, "One two"), Segment(0.3, 1.2, "three"))
    assert [cue.text for cue in build_transcript_cues(transcript(10.0, words=words, segments=spans), UNLIMITED)] == [
        "One two",
        "three",
    ]


@pytest.mark.parametrize(
    "texts", [["Good", " morning"], ["Good ", "morning"], ["Good", " ", "morning"], ["สวัสดี ", "ครับ"]]
)
def test_blanks_between_words_stay_wherever_the_recognizer_puts_them(texts: list[str]) -> None:
    words = tuple(Word(0.5 * n, 0.5 * n + 0.4, text, 0.9) for n, text in enumerate(texts))
    found = build_transcript_cues(transcript(10.0, words=words), CueSettings())
    assert [cue.text for cue in found] == ["".join(texts)]


def test_words_of_a_segment_share_its_time_by_their_widths() -> None:
    found = time_words([Segment(1.0, 2.0, "ab abcdef")])
    assert [(word.start, word.end, word.text) for word in found] == [(1000, 1222, "ab"), (1222, 2000, " abcdef")]


def test_chunks_are_cues_where_there_is_nothing_better() -> None:
    chunks = (Segment(0.0, 15.0, "One."), Segment(15.0, 20.0, ""), Segment(20.0, 31.0, "Two."))
    whole = transcript(31.0, chunks=chunks)
    assert times_and_texts(build_transcript_cues(whole, UNLIMITED)) == [(0, 15_000, "One."), (20_000, 31_000, "Two.")]
    assert times_and_texts(build_transcript_cues(whole, CueSettings())) == [(0, 7000, "One."), (20_000, 27_000, "Two.")]


HALVES = (Segment(0.0, 5.0, "Good morning."), Segment(5.0, 10.0, "How are you?"))


@pytest.mark.parametrize(
    ("spans", "times"),
    [
        ({"segments": HALVES[:1]}, [(0, 5000), (5000, 10_000)]),
        ({"segments": HALVES[:1], "words": words_of("Good morning.")}, [(0, 5000), (5000, 10_000)]),
        ({"segments": HALVES[:1], "words": words_of("Good morning. How are you?")}, [(0, 700), (800, 1900)]),
        ({"words": words_of("Good morning.")}, [(0, 5000), (5000, 10_000)]),
    ],
)
def test_times_of_a_part_of_the_text_cost_no_words(
    spans: dict[str, tuple[Segment, ...]], times: list[tuple[int, int]]
) -> None:
    whole = transcript(10.0, text="Good morning. How are you?", chunks=HALVES, **spans)
    texts = ["Good morning.", "How are you?"]
    assert times_and_texts(build_transcript_cues(whole, UNLIMITED)) == [
        (*time, text) for time, text in zip(times, texts, strict=True)
    ]


def test_a_text_that_no_times_cover_has_no_subtitles() -> None:
    whole = transcript(10.0, text="Good morning. How are you?", segments=HALVES[:1], chunks=HALVES[1:])
    with pytest.raises(NotExportableError, match="lack a part of its text"):
        build_transcript_cues(whole, CueSettings())


def test_overlapping_chunks_are_not_shown_as_if_each_word_were_said_twice() -> None:
    chunks = (Segment(0.0, 15.0, "One two"), Segment(10.0, 25.0, "two three"))
    with pytest.raises(NotExportableError, match="timestamps=segment"):
        build_transcript_cues(transcript(25.0, chunks=chunks), CueSettings())
