"""Cues: no overlap, no lost word, and the limits kept, on made-up words and on recognized speech."""

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.export.cues import Cue, CueSettings, Passage, build_cues
from distil_ray.export.line_breaks import CueWord, line_text, text_width
from distil_ray.export.settings import ExportSettings
from distil_ray.export.subtitles import build_transcript_cues
from distil_ray.export.transcripts import Transcript
from distil_ray.pipeline import runner
from tests.support.clips import CLIPS
from tests.support.transcripts import stored_rows
from tests.support.without_ray import run_stages_in_process

LIMITS = st.builds(
    CueSettings,
    max_line_width=st.sampled_from([0, 12, 42]),
    max_lines=st.sampled_from([0, 1, 2, 3]),
    max_words=st.sampled_from([0, 1, 4]),
    max_chars_per_s=st.sampled_from([0.0, 5.0, 17.0]),
    min_cue_s=st.sampled_from([0.0, 0.833]),
    max_cue_s=st.sampled_from([0.0, 2.0, 7.0]),
)


@st.composite
def spoken(draw: st.DrawFn) -> list[Passage]:
    """Passages of words with pauses between some of them."""
    passages, time = [], 0
    for speaker in draw(st.lists(st.sampled_from([None, "ann"]), max_size=4)):
        words = []
        for number, text in enumerate(draw(st.lists(st.text("ab,.", min_size=1, max_size=9), min_size=1, max_size=30))):
            start = time + draw(st.sampled_from([0, 0, 50, 1500]))
            time = start + draw(st.integers(40, 900))
            words.append(CueWord(start, time, f" {text}" if number else text))
        passages.append(Passage(tuple(words), speaker))
    return passages


def texts_of(words: list[CueWord]) -> list[str]:
    return [word.text.strip() for word in words]


def require_sound(cues: list[Cue], duration: int) -> None:
    assert all(0 <= cue.start < cue.end <= duration for cue in cues)
    assert all(before.end <= after.start for before, after in pairwise(cues))


@settings(max_examples=150)
@given(spoken(), LIMITS)
def test_no_cue_overlaps_no_word_is_lost_and_limits_are_kept(passages: list[Passage], limits: CueSettings) -> None:
    words = [word for passage in passages for word in passage.words]
    duration = words[-1].end + 500 if words else 1000
    cues = build_cues(passages, limits, duration)
    require_sound(cues, duration)
    assert texts_of([word for cue in cues for line in cue.lines for word in line]) == texts_of(words)
    for cue in cues:
        num_words = sum(map(len, cue.lines))
        assert not limits.max_cue_s or cue.end - cue.start <= limits.max_cue_s * 1000
        assert not limits.max_words or num_words <= limits.max_words
        assert not limits.max_lines or len(cue.lines) <= limits.max_lines
        label = limits.speaker_width(cue.speaker)
        for number, line in enumerate(cue.lines):
            width = text_width(line_text(line)) + (0 if number else label)
            assert not limits.max_line_width or width <= limits.max_line_width or len(line) == 1


@given(spoken())
def test_a_cue_is_too_short_or_too_fast_only_where_the_next_one_leaves_no_room(passages: list[Passage]) -> None:
    words = [word for passage in passages for word in passage.words]
    limits, duration = CueSettings(), words[-1].end + 500 if words else 1000
    cues = build_cues(passages, limits, duration)
    for cue, following in zip(cues, [*(cue.start for cue in cues[1:]), duration], strict=False):
        needed = min(limits.reading_ms(text_width(cue.one_line_text)), 7000)
        assert cue.end - cue.start >= needed or cue.end == following


def test_a_passage_is_divided_after_sentences_then_clauses_then_pauses() -> None:
    def divide(text: str, pause_after: str = "") -> list[str]:
        words, time = [], 0
        for number, word in enumerate(text.split()):
            words.append(CueWord(time, time + 400, f" {word}" if number else word))
            time += 1000 if word == pause_after else 400
        return [cue.one_line_text for cue in build_cues([Passage(tuple(words))], CueSettings(20, 1), time)]

    assert divide("it is late. we go home now") == ["it is late.", "we go home now"]
    assert divide("if it is late, we go home now") == ["if it is late,", "we go home now"]
    assert divide("when it is late we go home now", "late") == ["when it is late", "we go home now"]


def test_a_short_cue_is_joined_with_its_neighbor_of_the_same_speaker() -> None:
    def join(speaker: str | None) -> list[tuple[int, int, str]]:
        passages = [
            Passage((CueWord(0, 300, "Yes."),)),
            Passage((CueWord(300, 900, "Of"), CueWord(900, 1500, " course.")), speaker),
        ]
        return [(cue.start, cue.end, cue.text) for cue in build_cues(passages, CueSettings(), 5000)]

    assert join(None) == [(0, 1500, "Yes. Of course.")]
    assert join("ann") == [(0, 300, "Yes."), (300, 1500, "Of course.")]


def test_a_cue_stays_until_it_can_be_read() -> None:
    text = "a" * 34
    (cue,) = build_cues([Passage((CueWord(0, 500, text),))], CueSettings(), 10_000)
    assert (cue.start, cue.end) == (0, 2000)


@pytest.mark.parametrize("limits", [{"max_lines": -1}, {"min_cue_s": 2.0, "max_cue_s": 1.0}])
def test_limits_that_no_cue_can_keep_are_an_error(limits: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=next(iter(limits))):
        ExportSettings("srt", "to", **limits)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def recognized(tmp_path_factory: pytest.TempPathFactory, whisper_tiny_en: Path) -> list[Transcript]:
    """Clips of English speech with word times, recognized by tiny.en."""
    folder = tmp_path_factory.mktemp("cues")
    (folder / "audio").mkdir()
    for name in ("austen-0870.opus", "librispeech-61.flac", "kennedy.m4a"):
        (folder / "audio" / name).symlink_to(CLIPS / name)
    words = [f"input.uri={folder}/audio", f"output.uri={folder}/out", f"model.name={whisper_tiny_en}"]
    config = load_config(None, [*words, "decoding.timestamps=word", "model.dtype=float32", "resources.actors=1"])
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_stages_in_process(monkeypatch)
        assert runner.transcribe(config, Console(file=io.StringIO())) == ExitCode.DONE
    return [Transcript.from_row(row | {"chunks": None}, "mix") for row in stored_rows(folder / "out")]


@pytest.mark.parametrize(
    "limits", [CueSettings(), CueSettings(max_words=3, max_line_width=20), CueSettings(0, 0, 0, 0)]
)
def test_recognized_speech_becomes_cues_with_every_word(recognized: list[Transcript], limits: CueSettings) -> None:
    assert recognized
    for transcript in recognized:
        for source in (transcript, replace(transcript, words=None)):
            cues = build_transcript_cues(source, limits)
            require_sound(cues, round(transcript.duration_s * 1000))
            assert " ".join(cue.one_line_text for cue in cues).split() == transcript.text.split()
            assert all(not limits.max_words or sum(map(len, cue.lines)) <= limits.max_words for cue in cues)
