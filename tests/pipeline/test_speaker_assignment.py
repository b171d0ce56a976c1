"""Words and segments get the speakers of the turns that they lie in."""

from hypothesis import given
from hypothesis import strategies as st

from distil_ray.pipeline.speaker_assignment import MAX_DISTANCE_S, assign_speakers
from distil_ray.types import Segment, SpeakerTurn, Word

TENTHS = st.integers(0, 100).map(lambda tenths: tenths / 10)
TURNS = st.lists(st.builds(SpeakerTurn, TENTHS, TENTHS, st.sampled_from("abc")), max_size=6).map(
    lambda turns: sorted((turn for turn in turns if turn.start_s < turn.end_s), key=lambda turn: turn.start_s)
)


def word(start_s: float, end_s: float) -> Word:
    return Word(start_s, end_s, " so", 1.0)


def speakers(words: list[Word], *turns: SpeakerTurn) -> list[str | None]:
    _, spoken = assign_speakers(None, words, turns)
    return [one.speaker for one in spoken or []]


def test_a_word_belongs_to_the_turn_that_overlaps_it_longest() -> None:
    turns = SpeakerTurn(0.0, 2.0, "a"), SpeakerTurn(1.8, 3.0, "b")
    assert speakers([word(0.0, 0.5), word(1.5, 1.9), word(1.9, 2.2)], *turns) == ["a", "a", "b"]


def test_a_word_outside_of_all_turns_belongs_to_a_near_one() -> None:
    turns = SpeakerTurn(1.0, 2.0, "a"), SpeakerTurn(4.0, 5.0, "b")
    assert speakers([word(0.0, 0.4), word(0.7, 0.9), word(2.8, 3.2), word(3.5, 3.7)], *turns) == [None, "a", None, "b"]


def test_a_segment_belongs_to_the_speaker_of_most_of_its_words() -> None:
    turns = SpeakerTurn(0.0, 1.0, "a"), SpeakerTurn(1.0, 3.0, "b")
    words = [word(0.6, 1.0), word(1.0, 1.5), word(1.5, 2.0), word(9.0, 9.5)]
    segments, _ = assign_speakers([Segment(0.6, 2.0, "so so so"), Segment(9.0, 9.5, "so")], words, turns)
    assert [one.speaker for one in segments or []] == ["b", None]


def test_a_segment_without_words_belongs_to_the_turn_that_overlaps_it_longest() -> None:
    segments, words = assign_speakers([Segment(0.0, 4.0, "so")], None, [SpeakerTurn(0, 1, "a"), SpeakerTurn(1, 3, "b")])
    assert words is None
    assert [one.speaker for one in segments or []] == ["b"]


@given(st.lists(TENTHS, min_size=2, max_size=12, unique=True).map(sorted), TURNS)
def test_the_speaker_is_the_best_of_all_turns(edges: list[float], turns: list[SpeakerTurn]) -> None:
    words = [word(start, end) for start, end in zip(edges[::2], edges[1::2], strict=False)]
    for one, speaker in zip(words, speakers(words, *turns), strict=True):
        overlap = {
            name: sum(max(min(t.end_s, one.end_s) - max(t.start_s, one.start_s), 0) for t in turns if t.speaker == name)
            for name in "abc"
        }
        if max(overlap.values()) > 0:
            assert speaker is not None
            assert overlap[speaker] == max(overlap.values())
        else:
            reach: set[str | None] = {
                turn.speaker
                for turn in turns
                if max(turn.start_s - one.end_s, one.start_s - turn.end_s) <= MAX_DISTANCE_S
            }
            assert speaker in (reach or {None})
