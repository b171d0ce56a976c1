"""A text that ends before its chunk is continued in further passes, which are joined to one text."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distil_ray.chunking.merge import merge_chunks
from distil_ray.chunking.overlap_merge import ChunkHypothesis
from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native.chunk_decoding import (
    LAST_WORD,
    ChunkDecoding,
    DecodingPass,
    join_passes,
    may_end_early,
    text_end,
)
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.native.speech_activity import SpeechActivity
from distil_ray.recognition.quality_metrics import compose_hypothesis
from distil_ray.types import TokenAlignment
from distil_ray.whisper.features import SAMPLES_PER_POSITION
from distil_ray.whisper.tokenizer import Tokens
from tests.whisper.small import small_tokens

TOKENS = small_tokens()
RATE = 16_000
WORD = tuple(TOKENS.tokenizer.encode(" word", add_special_tokens=False).ids)


def at(time_s: float) -> int:
    """The timestamp token of a time."""
    return TOKENS.timestamp_begin + round(time_s / 0.02)


def decoded(*ids: int, ends_s: list[float] | None = None, last_s: float | None = None) -> DecodingResult:
    """`ends_s`: of each token; `last_s`: the end of the last word, by the attention."""
    alignment = None
    if ends_s is not None:
        alignment = TokenAlignment(tuple(round(end / 0.02) for end in ends_s), (0.5,) * len(ends_s))
    last = None if last_s is None else round((last_s - LAST_WORD / RATE) / 0.02)
    return DecodingResult(
        ids, sum_logprob=-1.0, no_speech_prob=0.1, ended=True, alignment=alignment, last_position=last
    )


def voice(*stretches: tuple[float, float], duration_s: float = 10.0) -> PCM16:
    """A buzz of 120 Hz at a fifth of full scale between the given seconds, and faint noise."""
    times = np.arange(round(duration_s * RATE)) / RATE
    wave = np.random.default_rng(3).normal(0, 10, len(times))
    for start_s, end_s in stretches:
        inside = (times >= start_s) & (times < end_s)
        wave[inside] += 6000 * np.sign(np.sin(2 * np.pi * 120 * times[inside]))
    return wave.astype(np.int16)


HALF_A_MINUTE = voice((0, 29.5), duration_s=30.0)


def chunk(pcm: PCM16, needed_s: float | None = None, continues: bool = True) -> ChunkDecoding:
    return ChunkDecoding(pcm, len(pcm) if needed_s is None else round(needed_s * RATE), TOKENS, continues)


def first_pass(decoded_pass: DecodingResult, start: int = 0, is_silent: bool = False) -> DecodingPass:
    return DecodingPass(start, decoded_pass, 3000, is_silent=is_silent)


def test_speech_after_the_last_timestamp_is_decoded_from_the_pause_on() -> None:
    decoding = chunk(voice((0, 4), (5, 9)))
    start = decoding.add(first_pass(decoded(at(0), *WORD, at(4.2), at(4.2))))
    assert start is not None and 4.0 <= start / RATE <= 4.4
    assert start % SAMPLES_PER_POSITION == 0, "timestamps of the next pass count in whole positions"
    assert decoding.unheard_s() == pytest.approx(4.0, abs=0.1)
    assert decoding.add(first_pass(decoded(at(0), *WORD, at(5.0)), start)) is None
    assert decoding.unheard_s() == 0.0


def test_a_timestamp_in_the_next_word_is_moved_to_the_end_of_the_aligned_one() -> None:
    """The word behind the pause would lose its beginning."""
    decoding = chunk(voice((0, 4), (4.3, 9)))
    late = decoded(at(0), *WORD, at(4.8), last_s=4.1)
    start = decoding.add(first_pass(late))
    assert start is not None and 4.0 <= start / RATE < 4.3


def test_attention_far_from_the_timestamp_is_ignored() -> None:
    for last_s, expected_s in ((5.0, 8.0), (7.3, 7.3), (8.8, 8.8), (9.9, 8.0)):
        decoded_pass = decoded(at(0), *WORD, at(8.0), last_s=last_s)
        assert text_end(decoded_pass, TOKENS) == round(expected_s * RATE)


def test_silence_after_the_text_is_not_decoded() -> None:
    assert chunk(voice((0, 4))).add(first_pass(decoded(at(0), *WORD, at(4)))) is None


def test_noise_of_one_loudness_is_not_decoded() -> None:
    pcm = np.random.default_rng(5).normal(0, 3000, 10 * RATE).astype(np.int16)
    decoding = chunk(pcm)
    assert decoding.add(first_pass(decoded(at(0), *WORD, at(2)))) is None
    assert decoding.unheard_s() == 0.0


def test_speech_that_the_next_chunk_covers_is_not_decoded() -> None:
    decoding = chunk(voice((0, 4), (8.5, 10)), needed_s=8.4)
    assert decoding.add(first_pass(decoded(at(0), *WORD, at(4)))) is None
    assert decoding.unheard_s() == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize(
    ("decoded_pass", "is_silent", "unheard_s"),
    [
        (decoded(at(0), *WORD, at(2)), True, 0.0),  # the model says that nobody speaks
        (decoded(at(0), at(0)), False, 4.0),  # no text, no reason: nothing more will come
        (decoded(at(0), at(1), *WORD), False, None),  # text without an end: unknown where it ends
    ],
)
def test_a_pass_without_a_known_end_is_the_last(
    decoded_pass: DecodingResult, is_silent: bool, unheard_s: float | None
) -> None:
    decoding = chunk(voice((0, 4), (5, 9)))
    start = decoding.add(first_pass(decoded(at(0), *WORD, at(4.2))))
    assert start is not None
    assert decoding.add(first_pass(decoded_pass, start, is_silent)) is None
    found = decoding.unheard_s()
    assert found is None if unheard_s is None else found == pytest.approx(unheard_s, abs=0.1)
    assert len(decoding.passes) == (2 if unheard_s is None else 1), "what has no text of its own changes nothing"


def test_without_timestamps_the_attention_shows_what_is_missing_and_nothing_is_decoded_again() -> None:
    decoding = chunk(voice((0, 4), (5, 9)), continues=False)
    assert decoding.add(first_pass(decoded(*WORD, last_s=4.0))) is None
    assert decoding.unheard_s() == pytest.approx(4.0, abs=0.1)


@settings(deadline=None, max_examples=30)
@given(steps=st.lists(st.floats(0.0, 2.0), min_size=1, max_size=40))
def test_passes_begin_at_least_a_second_apart_so_that_they_end(steps: list[float]) -> None:
    decoding = chunk(HALF_A_MINUTE)
    start: int | None = 0
    num_passes = 0
    while start is not None:
        end_s = steps[num_passes % len(steps)]
        before, start = start, decoding.add(first_pass(decoded(at(0), *WORD, at(end_s), at(end_s)), start))
        num_passes += 1
        assert start is None or start >= before + RATE
    assert num_passes <= 30
    joined = decoding.result()
    times = [token for token in joined.tokens if token >= TOKENS.timestamp_begin]
    assert times == sorted(times) and times[-1] <= at(30.0)
    assert TOKENS.decode(joined.tokens).split() == ["word"] * num_passes
    assert joined.num_passes == num_passes
    assert joined.sum_logprob == -num_passes


def test_joined_passes_have_one_pair_of_timestamps_between_them_and_shifted_times() -> None:
    early = decoded(at(0), *WORD, at(4), at(4.4), ends_s=[0.0, *[3.9] * len(WORD), 4.0, 4.4])
    rest = decoded(at(0.2), *WORD, at(3.0), ends_s=[0.2, *[2.9] * len(WORD), 3.0])
    joined = join_passes([first_pass(early), first_pass(rest, 4 * RATE)], TOKENS)
    assert joined.tokens == (at(0), *WORD, at(4), at(4.2), *WORD, at(7.0))
    assert TOKENS.segments(joined.tokens, 10.0) == [(0.0, 4.0, "word"), (pytest.approx(4.2), 7.0, "word")]
    assert joined.alignment is not None
    assert [round(end * 0.02, 2) for end in joined.alignment.ends] == [
        *[0.0, *[3.9] * len(WORD), 4.0],
        *[4.2, *[6.9] * len(WORD), 7.0],
    ]


def test_times_do_not_run_backwards_where_a_pass_begins_before_the_end_of_the_text() -> None:
    """Where overlapping chunks are merged, such times would be those of a further window, 30 s later."""
    early, rest = decoded(at(0), *WORD, at(5)), decoded(at(0), *WORD, at(4.2))
    joined = join_passes([first_pass(early), first_pass(rest, round(4.8 * RATE))], TOKENS)
    assert joined.tokens == (at(0), *WORD, at(5), at(5), *WORD, at(9))
    whole = ChunkHypothesis(0, 10 * RATE, 0, 0, "", joined.tokens)
    merged = merge_chunks([whole], 10 * RATE, TOKENS, timestamps=True, overlaps=True)
    assert [(each.start_s, each.end_s) for each in merged.segments or ()] == [(0, 5), (5, 9)]


def test_a_text_that_leaves_time_for_a_word_may_end_early() -> None:
    assert not may_end_early(decoded(), RATE, TOKENS)
    assert not may_end_early(decoded(at(0), *WORD, at(3.9)), 4 * RATE, TOKENS)
    assert may_end_early(decoded(at(0), *WORD, at(3.0)), 4 * RATE, TOKENS)
    assert may_end_early(decoded(*WORD), 4 * RATE, TOKENS)


def test_speech_activity_is_in_the_loud_parts_at_any_absolute_level() -> None:
    pcm = voice((1, 3), (6, 7.5))
    for scaled in (pcm, (pcm // 50).astype(np.int16)):
        activity = SpeechActivity.of(scaled)
        assert activity.seconds(0, len(pcm)) == pytest.approx(3.5, abs=0.15)
        assert activity.seconds(3 * RATE, 6 * RATE) == pytest.approx(0.0, abs=0.1)
    assert SpeechActivity.of(np.zeros(100, np.int16)).seconds(0, 100) == 0.0
    assert 3.0 <= SpeechActivity.of(pcm).quietest(int(2.5 * RATE), int(6.5 * RATE)) / RATE <= 6.0


@pytest.mark.parametrize(
    ("repeated_until_s", "expected"),
    [
        (0.2, " again"),  # the end of the same word, decoded twice: 4.0 s is the end of the text
        (0.6, " word again"),  # said twice
    ],
)
def test_a_word_that_both_passes_contain_is_written_once(repeated_until_s: float, expected: str) -> None:
    again = tuple(TOKENS.tokenizer.encode(" again", add_special_tokens=False).ids)
    decoding = chunk(voice((0, 4), (4.3, 9)))
    early = decoded(at(0), *WORD, at(4), ends_s=[0.0, *[4.0] * len(WORD), 9.9], last_s=4.0)
    start = decoding.add(first_pass(early))
    assert start is not None
    shift_s = 4.0 - start / RATE
    ends_s = [0.0, *[shift_s + repeated_until_s - 0.2] * len(WORD), *[5.0] * len(again), 5.0]
    rest = decoded(at(0), *WORD, *again, at(5.0), ends_s=ends_s)
    assert decoding.add(first_pass(rest, start)) is None
    joined = decoding.result()
    assert TOKENS.decode(joined.tokens) == "word" + expected
    assert joined.alignment is not None and len(joined.alignment.ends) == len(joined.tokens)
    dropped = len(WORD) if expected == " again" else 0
    assert joined.sum_logprob == pytest.approx(-2.0 - dropped * np.log(0.5))


@pytest.mark.parametrize(
    ("before", "repeated", "new", "expected"),
    [
        (" word", " word", "龘天", "word龘天"),  # what follows the repeated word is no punctuation of it
        ("喜欢他", "他", "龘天", "喜欢他龘天"),
        ("喜欢他", "欢他", "。龘", "喜欢他龘"),
        ("喜欢他", "", "她龘", "喜欢他她龘"),  # begins with the same byte
        (" मैं नमस्ते", " नमस्ते", " दुनिया", "मैं नमस्ते दुनिया"),
    ],
)
def test_characters_of_several_tokens_are_compared_and_kept_as_a_whole(
    before: str, repeated: str, new: str, expected: str
) -> None:
    first, again, rest = (
        TOKENS.tokenizer.encode(text, add_special_tokens=False).ids for text in (before, repeated, new)
    )
    decoding = chunk(voice((0, 4), (4.3, 9)))
    early = decoded(at(0), *first, at(4), ends_s=[0.0, *[4.0] * len(first), 9.9], last_s=4.0)
    start = decoding.add(first_pass(early))
    assert start is not None
    ends_s = [0.0, *[3.9 - start / RATE] * len(again), *[5.0] * len(rest), 5.0]
    assert decoding.add(first_pass(decoded(at(0), *again, *rest, at(5.0), ends_s=ends_s), start)) is None
    assert TOKENS.decode(decoding.result().tokens) == expected


def test_a_pass_that_only_repeats_the_last_word_adds_nothing_and_ends_the_chunk() -> None:
    decoding = chunk(voice((0, 4.6), duration_s=10.0))
    early = decoded(at(0), *WORD, at(4), last_s=4.1)
    start = decoding.add(first_pass(early))
    assert start is not None
    rest = decoded(at(0), *WORD, at(0.7), ends_s=[0.0, *[4.15 - start / RATE] * len(WORD), 0.7])
    assert decoding.add(first_pass(rest, start)) is None
    assert len(decoding.passes) == 1


def test_a_loop_that_a_further_pass_follows_is_written_once() -> None:
    """What is written of a pass was decided for the pass alone; its mean log-probability and its flags remain."""
    decoding = chunk(voice((0, 4), (5, 9)))
    words = tuple(TOKENS.tokenizer.encode(" he went home", add_special_tokens=False).ids)
    first = decoded(at(0), *WORD * 80, at(4.2), ends_s=[0.0, *[2.0] * 80 * len(WORD), 4.2])
    options = RecognizerOptions(timestamps="segment", cut_loops=True)
    read = compose_hypothesis(first, len(decoding.pcm), tokens=TOKENS, options=options)
    assert read.text == "word" and "repetition_loop" in read.quality_flags
    num = len(read.tokens)
    start = decoding.add(DecodingPass(0, first, 3000, num_written=num, flags=read.quality_flags))
    assert start is not None and start >= 4 * RATE, "the speech of the repetitions is not decoded again"
    rest = decoded(at(0), *words, at(4.9), ends_s=[0.0, *[3.0] * len(words), 4.9])
    assert decoding.add(first_pass(rest, start)) is None
    joined = decoding.result()
    assert TOKENS.decode(joined.tokens) == "word he went home"
    assert joined.alignment is not None and len(joined.alignment.ends) == len(joined.tokens)
    assert joined.sum_logprob == pytest.approx(-1.0 - (num + 1) / (len(first.tokens) + 1))
    assert decoding.cut_flags() == read.quality_flags


@pytest.mark.parametrize(("num_words", "counts"), [(5, True), (12, False)])
def test_a_text_that_nobody_could_say_in_the_remainder_does_not_count(num_words: int, counts: bool) -> None:
    """Of 0.9 s: four letters a word, and at most 25 a second."""
    decoding = chunk(voice((0, 8), (9.2, 10)))
    start = decoding.add(first_pass(decoded(at(0), *WORD, at(9.1))))
    assert start is not None
    rest = decoded(at(0), *WORD * num_words, at(1))
    assert decoding.add(first_pass(rest, start)) is None
    assert TOKENS.decode(decoding.result().tokens) == " ".join(["word"] * (1 + num_words * counts))
    assert decoding.unheard_s() == pytest.approx(0.0 if counts else 0.8, abs=0.1), "its speech counts as not heard"


@pytest.mark.parametrize(
    ("begin", "end_s", "expected"),
    [
        (" venue", 3.9, "revenue again"),  # the end of the same word, decoded again
        (" venue", 4.6, "revenue venue again"),  # another word
        (" ue", 3.9, "revenue ue again"),  # too short to tell
        (" avenue", 3.9, "revenue avenue again"),
    ],
)
def test_the_end_of_a_word_at_the_beginning_of_a_pass_is_not_written_again(
    whisper_tiny_en: Path, begin: str, end_s: float, expected: str
) -> None:
    """With whole words as tokens, as a real tokenizer has them: "revenue" does not end with the token of "venue"."""
    tokens = Tokens.load(whisper_tiny_en)
    first, end, again = (
        tokens.tokenizer.encode(word, add_special_tokens=False).ids for word in (" revenue", begin, " again")
    )

    def time(seconds: float) -> int:
        return tokens.timestamp_begin + round(seconds / 0.02)

    pcm = voice((0, 4), (4.3, 9))
    decoding = ChunkDecoding(pcm, len(pcm), tokens, continues=True)
    start = decoding.add(
        first_pass(decoded(time(0), *first, time(4), ends_s=[0.0, *[4.0] * len(first), 9.9], last_s=4.0))
    )
    assert start is not None
    times = [0.0, *[end_s - start / RATE] * len(end), *[5.0] * len(again), 5.0]
    assert decoding.add(first_pass(decoded(time(0), *end, *again, time(5), ends_s=times), start)) is None
    assert tokens.decode(decoding.result().tokens) == expected
