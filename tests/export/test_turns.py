"""Turns have every word once, in the order of time, with the speaker that said it."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from distil_ray.export.turns import PHRASE_PAUSE_S, Phrase, build_turns, split_phrases
from distil_ray.types import Segment, Word

PAUSE_S = 2.0


def words_from(*edges: float, speaker: str | None = None) -> list[Word]:
    """Words between pairs of times, each with its own text."""
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [Word(start, end, f" {start:g}", 1.0, speaker=speaker) for start, end in pairs]


TIMES = st.lists(st.integers(0, 400).map(lambda tenths: tenths / 10), max_size=24, unique=True).map(sorted)
SPEAKERS = st.sampled_from([None, "a", "b"])


@st.composite
def recordings(draw: st.DrawFn) -> tuple[list[Segment], list[Word]]:
    """Words, and segments that begin and end with some of them."""
    times = draw(TIMES)
    words = [
        Word(start, end, f" {start:g}", 1.0, speaker=draw(SPEAKERS))
        for start, end in zip(times[::2], times[1::2], strict=False)
    ]
    segments: list[Segment] = []
    rest = words
    while rest:
        own, rest = rest[: (size := draw(st.integers(1, 4)))], rest[size:]
        segments.append(Segment(own[0].start_s, own[-1].end_s, "".join(word.text for word in own).strip()))
    return segments, words


@given(st.lists(recordings(), max_size=3), st.sampled_from([0.0, PAUSE_S]))
def test_turns_have_every_word_once_and_in_order(made: list[tuple[list[Segment], list[Word]]], pause_s: float) -> None:
    phrases = [
        phrase
        for number, (segments, words) in enumerate(made)
        for phrase in split_phrases(number, segments, words, "x")
    ]
    turns = build_turns(phrases, pause_s)
    assert all(before.start_s <= after.start_s for before, after in pairwise(turns))
    for number, (_, words) in enumerate(made):
        own = [turn for turn in turns if turn.recording == number]
        assert [word for turn in own for word in turn.spans] == words
        assert all((word.speaker or "x") == turn.speaker for turn in own for word in turn.spans)
    for turn in turns:
        assert all(after.start_s - before.end_s <= pause_s for before, after in pairwise(turn.phrases))


@given(recordings())
def test_a_phrase_ends_at_a_pause_a_segment_or_another_speaker(made: tuple[list[Segment], list[Word]]) -> None:
    segments, words = made
    starts = {segment.start_s for segment in segments}
    phrases = split_phrases(0, segments, words, None)
    for before, after in pairwise([(number, word) for number, one in enumerate(phrases) for word in one.spans]):
        is_new = (
            after[1].start_s in starts
            or after[1].speaker != before[1].speaker
            or after[1].start_s - before[1].end_s > PHRASE_PAUSE_S
        )
        assert (after[0] != before[0]) == is_new


def test_a_turn_is_divided_where_another_speaker_begins_only_at_a_pause() -> None:
    long = words_from(0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 4.0, 5.0)
    short = words_from(0.5, 1.2)
    phrases = [*split_phrases(0, [], long, "agent"), *split_phrases(1, [], short, "customer")]
    turns = [(turn.speaker, turn.start_s, turn.end_s) for turn in build_turns(phrases, PAUSE_S)]
    assert turns == [("agent", 0.0, 3.0), ("customer", 0.5, 1.2), ("agent", 4.0, 5.0)]


def test_a_pause_beyond_the_limit_begins_a_turn() -> None:
    phrases = split_phrases(0, [], words_from(0.0, 1.0, 2.9, 3.0, 5.1, 6.0), None)
    assert [(turn.start_s, turn.end_s) for turn in build_turns(phrases, PAUSE_S)] == [(0.0, 3.0), (5.1, 6.0)]


def test_segments_are_phrases_where_there_are_no_words() -> None:
    segments = [Segment(0.0, 4.0, "Good morning."), Segment(4.0, 6.0, "How are you?", speaker="b")]
    assert split_phrases(0, segments, [], "a") == [
        Phrase(0, "a", (segments[0],), has_words=False),
        Phrase(0, "b", (segments[1],), has_words=False),
    ]
