"""Sequential decoding of a section: begin of each window, part of its text that is kept, previous text of the next one.

The method is openai's (openai/whisper, transcribe.py), which transformers' long-form `generate` shares. Windows of 30 s
follow each other. A text that closes a segment and opens another one is kept up to that time, and the next window
begins there: whatever the model said about the unfinished segment is dropped. Any other text is kept, and the next
window begins where this one ends. With conditioning, the text so far, timestamps included, is the previous text of the
next window. After a text that was sampled above `MAX_CONDITION_TEMPERATURE` the previous text is empty again.

The module knows tokens and numbers; no model and no loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np

from distil_ray.recognition.base import PCM16, RecognizerOptions, TranscribedWindow
from distil_ray.recognition.hallucinations import (
    DecodedWindow,
    SpokenSegment,
    skip_hallucinations,
    spoken_segments,
)
from distil_ray.recognition.native.decoding_task import DecodingResult, DecodingTask
from distil_ray.recognition.native.word_timestamps import add_words
from distil_ray.recognition.quality_flags import HALLUCINATION_DROPPED, NO_SPEECH
from distil_ray.types import SAMPLE_RATE, Hypothesis, Prompt, Segment
from distil_ray.whisper.features import FRAMES_PER_POSITION, HOP, MAX_FRAMES, LongAudio
from distil_ray.whisper.tokenizer import SECONDS_PER_TIMESTAMP, Tokens

MAX_CONDITION_TEMPERATURE = 0.5


@dataclass(frozen=True, slots=True)
class WindowSegment:
    """A segment of a window: its tokens, timestamps included, and its times in positions (20 ms) of the window."""

    start: int
    end: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WindowReading:
    """The part of a window's text that is kept.

    Attributes:
        segments: The segments. Together they are the first tokens of the text.
        advance: Frames (10 ms) from the beginning of the window to that of the next one.
    """

    segments: tuple[WindowSegment, ...]
    advance: int

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(token for segment in self.segments for token in segment.tokens)

    def first_tokens(self, num: int) -> Self:
        """Returns the reading without the text behind its first `num` tokens; the next window begins where it did."""
        segments = []
        for segment in self.segments:
            if num > 0:
                segments.append(replace(segment, tokens=segment.tokens[:num]))
            num -= len(segment.tokens)
        return replace(self, segments=tuple(segments))


def read_window(ids: Sequence[int], num_frames: int, tokens: Tokens) -> WindowReading:
    """Returns what is kept of a window's text, and where the next window begins.

    Args:
        ids: Text and timestamps, without the end token.
        num_frames: Frames of the window that are audio.
        tokens: Of the checkpoint.
    """
    is_timestamp = [tokens.is_timestamp(token) for token in ids]
    cuts = [index + 1 for index, pair in enumerate(pairwise(is_timestamp)) if all(pair)]
    if not cuts:
        return WindowReading(_whole_text(ids, num_frames, tokens), num_frames)
    is_complete = is_timestamp[-2:] == [False, True]  # one timestamp at the end: nothing is said after it
    if is_complete:
        cuts.append(len(ids))
    segments = [_segment(ids[begin:end], tokens) for begin, end in pairwise([0, *cuts])]
    if is_complete:
        return WindowReading(tuple(segments), num_frames)
    last = segments[-1]
    # The timestamp that opens the unfinished segment stays, as in the tokens of transformers.
    segments[-1] = replace(last, tokens=(*last.tokens, ids[cuts[-1]]))
    return WindowReading(tuple(segments), last.end * FRAMES_PER_POSITION)


def _segment(ids: Sequence[int], tokens: Tokens) -> WindowSegment:
    """Returns a segment that ends with a timestamp; one without a first timestamp continues a prefix at time 0."""
    start = ids[0] - tokens.timestamp_begin if tokens.is_timestamp(ids[0]) else 0
    return WindowSegment(start, ids[-1] - tokens.timestamp_begin, tuple(ids))


def _whole_text(ids: Sequence[int], num_frames: int, tokens: Tokens) -> tuple[WindowSegment, ...]:
    """Returns a text without an end of a segment inside as one segment, from the beginning of the window."""
    if not ids:
        return ()
    last = max((token for token in ids if tokens.is_timestamp(token)), default=tokens.timestamp_begin)
    end = last - tokens.timestamp_begin or num_frames // FRAMES_PER_POSITION
    return (WindowSegment(0, end, tuple(ids)),)


class SectionDecoding:
    """The windows of one section."""

    def __init__(self, pcm: PCM16, language: str, prompt: Prompt | None, tokens: Tokens, is_conditioned: bool) -> None:
        """Starts a section.

        Args:
            pcm: int16, shape (num_samples,), 16 kHz.
            language: Code of the language.
            prompt: Its hotwords are in the prompt of each window. Its text stands before the text of the section, of
                which the last tokens count; without conditioning it is in the prompt of each window.
            tokens: Of the checkpoint.
            is_conditioned: The text so far is the previous text of the next window.
        """
        self.language = language
        self.audio: LongAudio | None = LongAudio(pcm)  # until the section is complete
        self.windows: list[TranscribedWindow] = []
        self._num_samples, self._num_frames = len(pcm), self.audio.num_frames
        self._prompt, self._tokens, self._is_conditioned = prompt, tokens, is_conditioned
        self._seek = 0  # frames
        self._previous: list[int] = []
        self._last_speech_s = 0.0  # end of the last word that was kept

    @property
    def start(self) -> int:
        """First sample of the next window."""
        return self._seek * HOP

    @property
    def num_frames(self) -> int:
        """Frames of the next window that are audio."""
        return min(MAX_FRAMES, self._num_frames - self._seek)

    def window_pcm(self) -> PCM16:
        """Returns the samples of the next window, whole frames."""
        assert self.audio is not None, "the section is not complete"
        return self.audio.pcm[self.start : self.start + self.num_frames * HOP]

    def previous_text(self, num_prefix: int = 0) -> tuple[int, ...]:
        """Returns the ids before `<|startoftranscript|>` in the next window, which has a prefix of `num_prefix` ids."""
        return self._tokens.previous_text(self._prompt, num_prefix, self._previous)

    def skip_hallucinations(
        self, reading: WindowReading, ids: Sequence[int], hypothesis: Hypothesis, threshold_s: float
    ) -> WindowReading:
        """Returns what is left of a window's text, and of its length, by openai's rule for hallucinations.

        Args:
            reading: What is kept without the rule.
            ids: The whole text of the window.
            hypothesis: Of the reading, with words.
            threshold_s: `decoding.hallucination_silence_threshold_s`.
        """
        is_timestamp = [self._tokens.is_timestamp(token) for token in ids[-2:]]
        window = DecodedWindow(
            self._seek, self.num_frames, self._seek + reading.advance, self._num_frames, is_timestamp == [False, True]
        )
        found = skip_hallucinations(self._spoken(reading, hypothesis), window, self._last_speech_s, threshold_s)
        self._last_speech_s = found.last_speech_s
        return WindowReading(reading.segments[: found.number], max(found.next_start - self._seek, 1))

    def _spoken(self, reading: WindowReading, hypothesis: Hypothesis) -> list[SpokenSegment]:
        """Returns the segments of a reading with their words, from the beginning of the section."""
        start_s = self._seek * HOP / SAMPLE_RATE
        with_words = iter(spoken_segments(hypothesis.segments or (), hypothesis.words or (), start_s))
        found = []
        for segment in reading.segments:
            times_s = [start_s + position * SECONDS_PER_TIMESTAMP for position in (segment.start, segment.end)]
            has_text = bool(self._tokens.decode(segment.tokens))  # spaces alone are no segment of the hypothesis
            without_words = SpokenSegment(times_s[0], times_s[1], ())
            found.append(next(with_words, without_words) if has_text else without_words)
        return found

    def add(self, reading: WindowReading, hypothesis: Hypothesis) -> bool:
        """Adds a window with its hypothesis. Returns whether another one follows."""
        start = self.start
        self._seek += reading.advance
        is_last = self._seek >= self._num_frames
        end = self._num_samples if is_last else self.start
        self.windows.append(TranscribedWindow(start, end - start, hypothesis))
        self._remember(reading, hypothesis.temperature or 0.0)
        if is_last:
            self.audio = None  # the features are not needed any more
        return not is_last

    def _remember(self, reading: WindowReading, temperature: float) -> None:
        if not self._is_conditioned or not reading.segments:
            return
        if temperature > MAX_CONDITION_TEMPERATURE:
            self._previous = []
            return
        for segment in reading.segments:
            is_open = len(segment.tokens) > 2 and self._tokens.is_timestamp(segment.tokens[-2])
            self._previous += segment.tokens[:-1] if is_open else segment.tokens
        del self._previous[: -self._tokens.max_positions]  # more never fit into a prompt


class SectionDecoder:
    """Makes the tasks of sections, window by window, and the hypotheses of their windows.

    Args:
        tokens: Of the checkpoint.
        options: How to decode; `long_form` is set.
    """

    def __init__(self, tokens: Tokens, options: RecognizerOptions) -> None:
        if not options.long_form:
            raise ValueError("sections need a recognizer that was loaded with long_form=True")
        self._tokens, self._options = tokens, options
        self._prefix = tokens.prefix(options.prefix, timestamps=True)

    def start(
        self, sections: Sequence[PCM16], languages: Sequence[str], prompts: Sequence[Prompt | None] | None
    ) -> list[SectionDecoding]:
        """Starts sections; arguments and errors as for `LongFormRecognizer.transcribe_sections`."""
        check_sections(sections)
        return [
            SectionDecoding(pcm, language, prompt, self._tokens, self._options.condition_on_previous_text)
            for pcm, language, prompt in zip(sections, languages, prompts or [None] * len(sections), strict=True)
        ]

    def task(self, index: int, decoding: SectionDecoding) -> DecodingTask:
        """Returns the task for the next window of a section; `index` is that of the section."""
        prefix = self._prefix if decoding.start == 0 else ()
        previous = decoding.previous_text(len(prefix))
        prompt = (*previous, *self._tokens.prompt(decoding.language, self._options.task, timestamps=True), *prefix)
        return DecodingTask(
            index,
            decoding.window_pcm(),
            prompt,
            MAX_FRAMES,
            self._tokens.max_new_tokens(len(prompt), self._options.max_new_tokens),
            start=decoding.start,
            num_previous=len(previous),
            num_begun=len(prefix),
            section=decoding.audio,
        )

    def next_task(
        self, decoding: SectionDecoding, task: DecodingTask, decoded: DecodingResult, hypothesis: Hypothesis
    ) -> DecodingTask | None:
        """Adds a window to its section. Returns the task of the next window, or None once the section is complete.

        Args:
            decoding: The section.
            task: The window.
            decoded: Its result.
            hypothesis: Of the whole text of the window.
        """
        num_frames = decoding.num_frames
        is_silent = NO_SPEECH in hypothesis.quality_flags
        ids = decoded.tokens if is_silent else hypothesis.tokens  # without the repetitions of a loop
        reading = WindowReading((), num_frames)
        if not is_silent:
            # The repetitions are not written, but they say how far the text has come.
            whole = read_window(decoded.tokens, num_frames, self._tokens)
            reading = whole.first_tokens(len(ids))
        threshold_s = self._options.hallucination_silence_threshold_s
        if threshold_s is not None:
            # The rule moves the next window by the times of words, which may lie behind the last timestamp.
            with_words = self._keep(decoding, task, decoded, hypothesis, reading, num_frames)
            rest = decoding.skip_hallucinations(reading, ids, with_words, threshold_s)
            if len(rest.segments) < len(reading.segments):
                hypothesis = replace(hypothesis, quality_flags=(*hypothesis.quality_flags, HALLUCINATION_DROPPED))
            reading = rest
        kept = self._keep(decoding, task, decoded, hypothesis, reading, reading.advance)
        return self.task(task.index, decoding) if decoding.add(reading, kept) else None

    def _keep(
        self,
        decoding: SectionDecoding,
        task: DecodingTask,
        decoded: DecodingResult,
        hypothesis: Hypothesis,
        reading: WindowReading,
        num_frames: int,
    ) -> Hypothesis:
        """Returns the hypothesis of a window with what is kept of its text, and its words in the first `num_frames`."""
        has_segments = self._options.timestamps != "none"
        kept = keep_reading(hypothesis, reading, self._tokens, decoding.num_frames, has_segments)
        if self._options.timestamps != "word":
            return kept
        text_language = "en" if self._options.task == "translate" else decoding.language
        num_samples = min(num_frames * HOP, len(task.pcm))
        return add_words(kept, decoded.alignment, text_language, self._tokens, task.pcm, num_samples)


def keep_reading(
    hypothesis: Hypothesis, reading: WindowReading, tokens: Tokens, num_frames: int, timestamps: bool
) -> Hypothesis:
    """Returns a window's hypothesis with the text that is kept. The scores remain those of the whole text.

    Args:
        hypothesis: Of the whole text.
        reading: What is kept.
        tokens: Of the checkpoint.
        num_frames: Frames of the window that are audio. No segment ends later.
        timestamps: The hypothesis has segments.
    """
    end_s = num_frames // FRAMES_PER_POSITION * SECONDS_PER_TIMESTAMP
    segments = tuple(
        Segment(min(each.start * SECONDS_PER_TIMESTAMP, end_s), min(each.end * SECONDS_PER_TIMESTAMP, end_s), text)
        for each in reading.segments
        if (text := tokens.decode(each.tokens))
    )
    kept = reading.tokens
    return replace(
        hypothesis, text=tokens.decode(kept), tokens=kept, segments=segments if timestamps else hypothesis.segments
    )


def check_sections(sections: Sequence[PCM16]) -> None:
    """Checks the input of `LongFormRecognizer.transcribe_sections`.

    Raises:
        ValueError: A section is not int16, not one-dimensional, or empty.
    """
    for index, section in enumerate(sections):
        if section.dtype != np.int16 or section.ndim != 1 or not len(section):
            raise ValueError(
                f"section {index} must be int16 of one dimension, not empty; found {section.dtype} {section.shape}"
            )
