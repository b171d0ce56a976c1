"""Each quality flag is set where it applies, and none on clean speech."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.config.base import UnreliableTextFlag
from distil_ray.config.recognition import DecodingConfig
from distil_ray.recognition import quality_flags
from distil_ray.recognition.base import RecognizerOptions
from distil_ray.types import Word

TEXT = "He doubted whether the painting was really Greek after all."
CALM: dict[str, Any] = {
    "tokens": list(range(100, 114)),
    "text": TEXT,
    "ended": True,
    "mean_logprob": -0.2,
    "ratio": 1.0,
    "no_speech_prob": 0.01,
    "duration_s": 4.0,
    "options": RecognizerOptions(),
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ()),
        ({"ended": False}, (quality_flags.MAX_TOKENS_REACHED,)),
        ({"tokens": [7, 8, 9] * 5}, (quality_flags.REPETITION_LOOP,)),
        ({"ratio": 2.5}, (quality_flags.HIGH_COMPRESSION_RATIO,)),
        ({"ratio": 2.5, "options": RecognizerOptions(compression_ratio_threshold=3.0)}, ()),
        ({"mean_logprob": -1.1}, (quality_flags.LOW_LOGPROB,)),
        ({"mean_logprob": -1.1, "options": RecognizerOptions(logprob_threshold=-2.0)}, ()),
        ({"duration_s": 1.5}, (quality_flags.HIGH_CHAR_RATE,)),
        ({"text": "Thanks for watching!"}, (quality_flags.HALLUCINATION_PHRASE,)),
        (
            {"ended": False, "ratio": 4.0, "duration_s": 1.5},
            (quality_flags.MAX_TOKENS_REACHED, quality_flags.HIGH_COMPRESSION_RATIO, quality_flags.HIGH_CHAR_RATE),
        ),
    ],
)
def test_a_sign_raises_its_flag_and_no_other(change: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert quality_flags.text_flags(**{**CALM, **change}) == expected


@pytest.mark.parametrize(
    ("text", "letters"), [("It's 5.", 4), ("Größe", 5), ("东京 2020", 10), ("東京タワー", 15), ("서울", 6), ("!?", 0)]
)
def test_a_sign_that_is_a_syllable_counts_as_several_letters(text: str, letters: int) -> None:
    assert quality_flags.count_letters(text) == letters


@pytest.mark.parametrize(
    "text",
    [
        "Thank you for watching.",
        "THANKS FOR WATCHING!!!",
        "ご視聴ありがとうございました。",
        "Untertitel der Amara.org-Community",
        "Sous-titres réalisés par la communauté d'Amara.org",
    ],
)
def test_credits_of_subtitled_videos_are_hallucination_phrases(text: str) -> None:
    assert quality_flags.is_hallucination_phrase(text, 0.0)


def test_ordinary_phrases_are_flagged_only_with_a_high_no_speech_probability() -> None:
    assert not quality_flags.is_hallucination_phrase("Thank you.", 0.1)
    assert quality_flags.is_hallucination_phrase("Thank you.", 0.9)
    assert not quality_flags.is_hallucination_phrase("Thank you for watching the children on Friday.", 0.9)
    assert not quality_flags.is_hallucination_phrase("", 0.9)


@given(
    st.lists(st.integers(0, 50_000), max_size=30),
    st.lists(st.integers(0, 50_000), min_size=1, max_size=quality_flags.MAX_LOOP_PERIOD),
    st.integers(0, quality_flags.MAX_LOOP_PERIOD),
)
def test_a_loop_is_noticed_wherever_it_is_cut(prefix: list[int], loop: list[int], cut: int) -> None:
    times = 3 + quality_flags.MIN_LOOP_TOKENS // len(loop)
    assert quality_flags.has_repetition_loop([*prefix, *loop * times, *loop[: cut % len(loop)]])


@given(
    st.lists(st.integers(0, 5), max_size=30),
    st.lists(st.integers(0, 5), min_size=1, max_size=quality_flags.MAX_LOOP_PERIOD),
    st.integers(0, quality_flags.MAX_LOOP_PERIOD),
)
def test_a_loop_is_cut_to_the_same_tokens_however_long_it_is(prefix: list[int], loop: list[int], cut: int) -> None:
    times = 3 + quality_flags.MIN_LOOP_TOKENS // len(loop)
    written = [*prefix, *loop * times, *loop[: cut % len(loop)]]
    kept = quality_flags.cut_repetition_loop(written)
    assert kept == written[: len(kept)] and 0 < len(kept) <= len(prefix) + len(loop)
    assert quality_flags.cut_repetition_loop([*prefix, *loop * (times + 1)]) == kept


@given(st.lists(st.integers(0, 50_000), max_size=60, unique=True))
def test_tokens_that_never_repeat_are_no_loop(tokens: list[int]) -> None:
    assert not quality_flags.has_repetition_loop(tokens)
    assert quality_flags.cut_repetition_loop(tokens) == tokens


@pytest.mark.parametrize("stumble", [[12, 25461], [12, 64, 12], []])
def test_a_loop_that_skips_a_part_of_itself_is_cut_at_its_first_round(stumble: list[int]) -> None:
    """whisper-base with 5 beams and times wrote "a half" a hundred times, with one "half" more in the middle."""
    half = [12, 64, 12, 25461]
    written = [1128, 528, 472, *half * 50, *stumble, *half * 55]
    kept = quality_flags.cut_repetition_loop(written)
    assert kept == [1128, 528, 472, *half]


def test_a_loop_with_a_few_tokens_behind_it_is_found_in_a_text_that_nobody_could_say() -> None:
    loop, tail = [1400, 345, 329, 1719, 502, 13], [1400, 345, 13, 8406, 13]
    text = "Thank you for having me. " * 27 + "Thank you. Bye."
    assert not quality_flags.has_repetition_loop([*loop * 27, *tail])
    assert quality_flags.find_unspeakable_loop([*loop * 27, *tail]) == len(loop) * 27 + 2, "it begins once more"
    assert quality_flags.find_unspeakable_loop([*range(60)]) is None
    common: dict[str, Any] = {"ended": True, "mean_logprob": -0.1, "ratio": 1.0, "no_speech_prob": 0.0}
    for duration_s, expected in ((0.9, {"repetition_loop", "high_char_rate"}), (60.0, set())):
        flags = quality_flags.text_flags(
            [*loop * 27, *tail], text, duration_s=duration_s, options=RecognizerOptions(), **common
        )
        assert set(flags) == expected


def test_a_word_said_three_times_is_no_loop() -> None:
    assert not quality_flags.has_repetition_loop([440, 2068, 11, 1400, 1400, 1400])
    assert not quality_flags.has_repetition_loop([1400, 11, 1400, 11, 1400, 11])
    assert quality_flags.has_repetition_loop([440, *[1400, 11] * 6])


def spoken(*words: tuple[float, float]) -> list[Word]:
    """Words of these lengths in seconds and probabilities, one after the other."""
    found, start_s = [], 0.0
    for length_s, probability in words:
        found.append(Word(start_s, start_s + length_s, " word", probability))
        start_s += length_s
    return found


WELL = (0.4, 0.9)


@pytest.mark.parametrize(
    ("words", "is_odd"),
    [
        ([], False),
        ([WELL] * 20, False),
        ([(0.4, 0.1)], True),  # the only word there is, and an unlikely one
        ([(0.4, 0.1), WELL], False),
        ([*[WELL] * 10, *[(0.4, 0.1)] * 3], True),
        ([*[WELL] * 10, *[(0.4, 0.1)] * 2], False),
        ([(0.4, 0.1), *[WELL] * 7] * 3, False),  # as many, far apart
        ([*[WELL] * 3, *[(0.02, 0.9)] * 3], True),  # 20 ms each
        ([*[WELL] * 3, (5.5, 0.9)], True),  # drawn over a pause
    ],
)
def test_words_that_were_hardly_spoken_are_odd(words: list[tuple[float, float]], is_odd: bool) -> None:
    assert quality_flags.has_anomalous_words(spoken(*words)) is is_odd


def test_punctuation_alone_is_no_word() -> None:
    assert not quality_flags.has_anomalous_words([Word(0.0, 0.0, " -", 0.05), *spoken(WELL)])


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([(30.0, "text", ())], False),
        ([(12.0, "text", ("low_logprob", "high_char_rate"))], True),
        ([(12.0, "text", ("untranscribed_speech",))], False),
        ([(30.0, "text", ())] * 9 + [(30.0, "text", ("repetition_loop",))], True),
        ([(30.0, "text", ())] * 10 + [(30.0, "text", ("repetition_loop",))], False),
        ([(30.0, "text", ())] * 10 + [(0.3, "text" * 2, ("repetition_loop",))], True),
        ([], False),
    ],
)
def test_a_recording_is_doubtful_if_flagged_chunks_have_a_tenth_of_its_audio_or_of_its_text(
    chunks: list[tuple[float, str, tuple[str, ...]]], expected: bool
) -> None:
    assert quality_flags.is_doubtful(chunks, DecodingConfig().doubtful_flags) == expected


def test_doubtful_flags_are_flags_that_say_that_a_text_may_be_wrong() -> None:
    assert set(DecodingConfig().doubtful_flags) <= set(quality_flags.UNRELIABLE_TEXT_FLAGS)
    assert set(get_args(UnreliableTextFlag)) == {*quality_flags.UNRELIABLE_TEXT_FLAGS, quality_flags.REDECODED}
