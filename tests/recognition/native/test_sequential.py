"""Windows of a section: their beginnings, the text that is kept, and the previous text that the next one gets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.native.sequential import (
    SectionDecoder,
    SectionDecoding,
    WindowReading,
    WindowSegment,
    check_sections,
    keep_reading,
    read_window,
)
from distil_ray.recognition.quality_metrics import compose_hypothesis
from distil_ray.types import SAMPLE_RATE, Hypothesis, Prompt, Segment, TokenAlignment, Word
from distil_ray.whisper.tokenizer import Tokens

BEGIN = 50363  # the first timestamp token of tiny.en; 10, 11 … are words


def at(seconds: float) -> int:
    return BEGIN + round(seconds * 50)


@pytest.mark.parametrize(
    ("ids", "num_frames", "segments", "advance"),
    [
        # a segment is closed and another one opened: the next window begins there, without the rest of the text
        ([at(0), 10, at(4), at(4), 11], 3000, [(0, 200, [at(0), 10, at(4), at(4)])], 400),
        (
            [at(0), 10, at(4), at(4.5), 11, at(20), at(21)],
            3000,
            [(0, 200, [at(0), 10, at(4)]), (225, 1000, [at(4.5), 11, at(20), at(21)])],
            2000,
        ),
        # one timestamp at the end: nothing is said after it
        (
            [at(1), 10, at(4), at(5), 11, at(20)],
            3000,
            [(50, 200, [at(1), 10, at(4)]), (250, 1000, [at(5), 11, at(20)])],
            3000,
        ),
        # no end of a segment inside: the whole text, from the beginning of the window
        ([at(0.5), 10, at(8)], 3000, [(0, 400, [at(0.5), 10, at(8)])], 3000),
        ([at(0), 10, 11], 2001, [(0, 1000, [at(0), 10, 11])], 2001),
        ([], 500, [], 500),
        # behind a prefix, which `<|0.00|>` stands before, a text begins with a word
        ([10, at(4), at(4), 11], 3000, [(0, 200, [10, at(4), at(4)])], 400),
    ],
)
def test_a_text_is_kept_up_to_its_last_closed_segment(
    ids: list[int], num_frames: int, segments: list[tuple[int, int, list[int]]], advance: int, whisper_tiny_en: Path
) -> None:
    reading = read_window(ids, num_frames, Tokens.load(whisper_tiny_en))
    assert reading.segments == tuple(WindowSegment(start, end, tuple(own)) for start, end, own in segments)
    assert reading.advance == advance
    assert reading.tokens == tuple(ids[: len(reading.tokens)])


def _window(tokens: Tokens, text: str, times: Sequence[float]) -> WindowReading:
    """Returns the reading of a text in one segment, closed by the timestamps after the first one."""
    begin = tokens.timestamp_begin
    start, *ends = (begin + round(time_s * 50) for time_s in times)
    return read_window((start, *tokens.tokenizer.encode(text, add_special_tokens=False).ids, *ends), 3000, tokens)


def _hypothesis(temperature: float = 0.0) -> Hypothesis:
    return Hypothesis("", temperature=temperature)


def test_windows_cover_a_section(whisper_tiny_en: Path) -> None:
    tokens = Tokens.load(whisper_tiny_en)
    decoding = SectionDecoding(np.zeros(50 * SAMPLE_RATE + 77, np.int16), "en", None, tokens, False)
    assert decoding.add(_window(tokens, " a", [0, 12, 12]), _hypothesis())
    assert (decoding.start, len(decoding.window_pcm())) == (12 * SAMPLE_RATE, 30 * SAMPLE_RATE)
    assert decoding.add(WindowReading((), decoding.num_frames), _hypothesis())
    assert (decoding.start, decoding.num_frames) == (42 * SAMPLE_RATE, 800)
    assert decoding.previous_text() == ()
    assert not decoding.add(_window(tokens, " b", [0, 20, 20]), _hypothesis())  # behind the end
    assert [(each.start, each.num_samples) for each in decoding.windows] == [
        (0, 12 * SAMPLE_RATE),
        (12 * SAMPLE_RATE, 30 * SAMPLE_RATE),
        (42 * SAMPLE_RATE, 8 * SAMPLE_RATE + 77),
    ]
    assert decoding.audio is None


def test_a_window_is_told_the_text_before_it_until_a_high_temperature(whisper_tiny_en: Path) -> None:
    tokens = Tokens.load(whisper_tiny_en)

    def told(decoding: SectionDecoding) -> str:
        return str(tokens.tokenizer.decode(list(decoding.previous_text()), skip_special_tokens=False))

    prompt = Prompt("Roses.", ("Kate",))
    decoding = SectionDecoding(np.zeros(200 * SAMPLE_RATE, np.int16), "en", prompt, tokens, True)
    assert told(decoding) == "<|startofprev|> Kate. Roses."
    decoding.add(_window(tokens, " are red.", [0, 9.02, 9.02]), _hypothesis(0.4))
    decoding.add(WindowReading((), 3000), _hypothesis())  # silence
    decoding.add(_window(tokens, " Violets", [0, 8]), _hypothesis())
    assert told(decoding) == "<|startofprev|> Kate. Roses.<|0.00|> are red.<|9.02|><|0.00|> Violets<|8.00|>"
    decoding.add(_window(tokens, " are blue.", [0, 5, 5]), _hypothesis(0.6))
    assert told(decoding) == "<|startofprev|> Kate. Roses."
    for _ in range(30):
        decoding.add(_window(tokens, " and so on and so on and so on", [0, 1, 1]), _hypothesis())
    assert len(decoding.previous_text()) == 224
    assert told(decoding).startswith("<|startofprev|> Kate.")
    apart = SectionDecoding(np.zeros(200 * SAMPLE_RATE, np.int16), "en", prompt, tokens, False)
    apart.add(_window(tokens, " are red.", [0, 9, 9]), _hypothesis())
    assert told(apart) == "<|startofprev|> Kate. Roses."


def test_segments_end_with_the_audio_and_have_text(whisper_tiny_en: Path) -> None:
    tokens = Tokens.load(whisper_tiny_en)
    reading = _window(tokens, " a", [1, 12, 12])
    empty = WindowReading((WindowSegment(0, 50, (tokens.timestamp_begin, tokens.timestamp_begin + 50)),), 3000)
    kept = keep_reading(_hypothesis(), reading, tokens, 1000, timestamps=True)
    assert (kept.text, kept.tokens, kept.segments) == ("a", reading.tokens, (Segment(1.0, 10.0, "a"),))
    assert keep_reading(_hypothesis(), empty, tokens, 3000, timestamps=True).segments == ()
    assert keep_reading(_hypothesis(), reading, tokens, 1000, timestamps=False).segments is None


def test_a_hallucination_between_silences_is_dropped_and_the_next_window_begins_with_it(whisper_tiny_en: Path) -> None:
    """The second window has the same text; a lower threshold makes its pauses silence."""
    tokens = Tokens.load(whisper_tiny_en)
    decoding = SectionDecoding(np.zeros(90 * SAMPLE_RATE, np.int16), "en", None, tokens, False)
    begin = tokens.timestamp_begin
    hello, you, space = tokens.tokenizer.encode(" Hello you ", add_special_tokens=False).ids
    ids = (begin, hello, begin + 50, begin + 100, space, begin + 200, begin + 400, you, begin + 410)
    reading = read_window(ids, 3000, tokens)
    words = (Word(0.1, 1.0, "Hello", probability=0.9), Word(8.0, 8.04, " you", probability=0.05))
    segments = (Segment(0.1, 1.0, "Hello"), Segment(8.0, 8.04, "you"))
    hypothesis = Hypothesis("Hello you", ids, segments=segments, words=words)
    for threshold_s, expected in ((8.0, (3, 3000)), (4.0, (2, 800))):  # spaces alone have no segment with words
        rest = decoding.skip_hallucinations(reading, ids, hypothesis, threshold_s)
        assert (len(rest.segments), rest.advance) == expected
        decoding.add(rest, hypothesis)
    assert decoding.start == 38 * SAMPLE_RATE


def test_words_lie_before_the_next_window(whisper_tiny_en: Path) -> None:
    """The last words were aligned behind the timestamp at which the next window begins."""
    tokens = Tokens.load(whisper_tiny_en)
    decoder = SectionDecoder(tokens, RecognizerOptions(long_form=True, timestamps="word", no_speech_threshold=None))
    pcm = np.random.default_rng(3).normal(0, 2000, 50 * SAMPLE_RATE).astype(np.int16)
    decoding = SectionDecoding(pcm, "en", None, tokens, False)
    begin = tokens.timestamp_begin
    words = tokens.tokenizer.encode(" one two three four", add_special_tokens=False).ids
    ids = (begin, *words[:1], begin + 100, begin + 100, *words[1:3], begin + 200, begin + 200, words[3])
    alignment = TokenAlignment((0, 60, 100, 100, 203, 230, 230, 230, 300), (0.9,) * len(ids))
    decoded = DecodingResult(ids, -1.0, 0.0, True, alignment=alignment)
    decoder.next_task(decoding, decoder.task(0, decoding), decoded, Hypothesis("", ids))
    (window,) = decoding.windows
    assert window.num_samples == 4 * SAMPLE_RATE
    times = [(word.text, word.start_s, word.end_s) for word in window.hypothesis.words or ()]
    assert times == [("one", 0.0, 1.2), (" two", 2.0, 3.98), (" three", 3.98, 4.0)]
    assert window.hypothesis.segments == (Segment(0.0, 1.2, "one"), Segment(2.0, 4.0, "two three"))


def test_a_loop_is_not_told_to_the_next_window(whisper_tiny_en: Path) -> None:
    tokens = Tokens.load(whisper_tiny_en)
    options = RecognizerOptions(long_form=True, timestamps="word", condition_on_previous_text=True, cut_loops=True)
    decoder = SectionDecoder(tokens, options)
    pcm = np.random.default_rng(3).normal(0, 2000, 50 * SAMPLE_RATE).astype(np.int16)
    decoding = SectionDecoding(pcm, "en", None, tokens, True)
    well, so = (tokens.tokenizer.encode(word, add_special_tokens=False).ids for word in (" Well,", " and so on"))
    ids = (tokens.timestamp_begin, *well, *so * 50)
    decoded = DecodingResult(ids, -9.0, 0.0, False, alignment=TokenAlignment((*range(len(ids)),), (0.9,) * len(ids)))
    hypothesis = compose_hypothesis(decoded, 30 * SAMPLE_RATE, tokens=tokens, options=options)
    following = decoder.next_task(decoding, decoder.task(0, decoding), decoded, hypothesis)
    (window,) = decoding.windows
    assert window.hypothesis.text == "Well, and so on"
    assert [word.text for word in window.hypothesis.words or ()] == ["Well,", " and", " so", " on"]
    assert window.hypothesis.alignment is not None
    assert len(window.hypothesis.alignment.ends) == len(window.hypothesis.tokens) == 1 + len(well) + len(so)
    assert following is not None
    assert tokens.decode(following.prompt[: following.num_previous]) == "Well, and so on"


def test_the_window_after_a_loop_begins_where_its_last_repetition_has_ended(whisper_tiny_en: Path) -> None:
    """A loop of 20 segments, cut off in the next one: without its repetitions, the text seems to be complete."""
    tokens = Tokens.load(whisper_tiny_en)
    options = RecognizerOptions(long_form=True, timestamps="segment", cut_loops=True)
    decoder = SectionDecoder(tokens, options)
    pcm = np.random.default_rng(3).normal(0, 2000, 50 * SAMPLE_RATE).astype(np.int16)
    decoding = SectionDecoding(pcm, "en", None, tokens, False)
    well, so = (tokens.tokenizer.encode(word, add_special_tokens=False).ids for word in (" Well,", " and so on"))
    times = [tokens.timestamp_begin + 50 * second for second in range(30)]
    loop = [token for second in range(1, 21) for token in (times[second], *so, times[second + 1])]
    decoded = DecodingResult((times[0], *well, times[1], *loop, times[21], *so[:2]), -9.0, 0.0, ended=False)
    hypothesis = compose_hypothesis(decoded, 30 * SAMPLE_RATE, tokens=tokens, options=options)
    following = decoder.next_task(decoding, decoder.task(0, decoding), decoded, hypothesis)
    (window,) = decoding.windows
    assert window.hypothesis.segments == (Segment(0.0, 1.0, "Well,"), Segment(1.0, 2.0, "and so on"))
    assert following is not None
    assert following.start == window.num_samples == 21 * SAMPLE_RATE


def test_only_the_first_window_of_a_section_has_the_prefix(whisper_tiny_en: Path) -> None:
    tokens = Tokens.load(whisper_tiny_en)
    decoder = SectionDecoder(tokens, RecognizerOptions(long_form=True, prefix="Well,"))
    decoding = SectionDecoding(np.zeros(50 * SAMPLE_RATE, np.int16), "en", None, tokens, False)
    prefix = tokens.prefix("Well,", timestamps=True)
    first = decoder.task(0, decoding)
    assert (first.prompt, first.num_begun) == ((tokens.sot, *prefix), len(prefix))
    decoding.add(_window(tokens, " a", [0, 12, 12]), _hypothesis())
    second = decoder.task(0, decoding)
    assert (second.prompt, second.num_begun) == ((tokens.sot,), 0)


@pytest.mark.parametrize("section", [np.zeros(0, np.int16), np.zeros(9, np.float32), np.zeros((2, 9), np.int16)])
def test_sections_are_checked(section: PCM16) -> None:
    with pytest.raises(ValueError, match="section 1 must be int16 of one dimension, not empty"):
        check_sections([np.zeros(9, np.int16), section])
