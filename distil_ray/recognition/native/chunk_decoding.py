"""Decoding a chunk in several passes, where a text ends before the speech in the chunk does.

With timestamps Whisper often closes a segment well before the end of its window and stops there, for the next window to
continue from that time (openai/whisper, transcribe.py). A chunk here is not followed by such a window: its remainder,
from the last timestamp on, is decoded as a chunk of its own, until its end is reached or the remainder has no speech.
Remainders are short, and Whisper may write sentences for half a second that it cannot understand: a text that nobody
could say in the time of its remainder does not count.
`ChunkDecoding` decides that and joins the passes. The module knows tokens, samples and numbers; no model and no loop.
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distil_ray.recognition.base import PCM16
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.native.speech_activity import SpeechActivity
from distil_ray.recognition.quality_flags import MAX_LETTERS_PER_S, count_letters
from distil_ray.types import SAMPLE_RATE, TokenAlignment
from distil_ray.whisper.features import MAX_SAMPLES, SAMPLES_PER_POSITION
from distil_ray.whisper.tokenizer import NUM_TIMESTAMPS, Tokens
from distil_ray.whisper.word_boundaries import TokenGroup, split_characters

MIN_PROGRESS = SAMPLE_RATE  # samples between the beginnings of two passes, so that passes come to an end
MIN_SPEECH_S = 0.2  # in a remainder; less is the end of the last word
# A timestamp may be late, in the middle of the next word, or early, in the middle of the last one: 0.7 s was seen of
# both. The position that the last words attend to is nearer to the truth, but for some outliers.
MAX_TIMESTAMP_ERROR = SAMPLE_RATE
LAST_WORD = (
    8 * SAMPLES_PER_POSITION
)  # samples from that position to the end of the words, in the median (docs/recognition.md)
# The remainder begins at the quietest frame around the end of the text, in this range of samples. Rather early than
# late: words that are decoded twice are recognized as such, skipped ones are lost.
BEFORE_END = SAMPLE_RATE // 5
AFTER_END = SAMPLE_RATE // 20
LONGEST_REPETITION = 12  # tokens (or characters of several tokens) of a pass that may repeat those before it, at most
REMAINDER_MARGIN_S = 0.2  # of speech before a remainder that its first word may contain
MIN_WORD_END = 3  # letters of the end of a word that a pass may begin with; shorter words end many others
REPETITION_MARGIN = SAMPLE_RATE // 10  # samples behind the end of a text that its last words may last


@dataclass(frozen=True, slots=True)
class DecodingPass:
    """Result of decoding a chunk from one sample on."""

    start: int  # samples from the beginning of the chunk
    decoded: DecodingResult
    num_frames: int  # of its window
    temperature: float = 0.0
    is_silent: bool = False  # no speech according to the model: its text does not count
    num_written: int | None = None  # first tokens that are written, without the repetitions of a loop; None: all
    flags: tuple[str, ...] = ()  # of its text


class ChunkDecoding:
    """The passes over one chunk."""

    def __init__(self, pcm: PCM16, needed: int, tokens: Tokens, continues: bool) -> None:
        """Starts a chunk.

        Args:
            pcm: int16, shape (num_samples,), 16 kHz.
            needed: Speech in so many first samples must have text; what follows belongs to the next chunk.
            tokens: Of the checkpoint.
            continues: The remainder is decoded too; otherwise only `unheard_s` shows a text that ends early.
        """
        self.pcm = pcm
        self._needed = needed
        self._tokens = tokens
        self._continues = continues
        self._speech: SpeechActivity | None = None
        self._passes: list[DecodingPass] = []
        self._end: int | None = 0  # of the text, in samples; None: unknown
        self._timestamp_end = 0  # by the last timestamp, in samples

    @property
    def passes(self) -> Sequence[DecodingPass]:
        """The passes that count: the first one, and those with text."""
        return self._passes

    def add(self, latest: DecodingPass) -> int | None:
        """Adds a pass. Returns the first sample of the next pass, or None once the chunk is complete.

        A silent pass, one without text and one with more text than anyone could say complete a chunk.
        """
        is_text = has_text(latest.decoded, self._tokens)
        if not self._passes:
            self._passes.append(latest)
        elif is_text and not latest.is_silent:
            added = drop_repeated_words(
                self._passes[-1], max(self._end or 0, self._timestamp_end), latest, self._tokens
            )
            if self._is_unspeakable(added):
                return None
            self._passes += [added] if has_text(added.decoded, self._tokens) else []
        if latest.is_silent:
            self._end = len(self.pcm)
        elif is_text:
            end = text_end(latest.decoded, self._tokens)
            self._end = None if end is None else min(latest.start + end, len(self.pcm))
            self._timestamp_end = latest.start + (timestamp_end(latest.decoded, self._tokens) or 0)
        if (
            not (self._continues and is_text)
            or latest.is_silent
            or not ends_with_timestamp(latest.decoded, self._tokens)
        ):
            return None
        if self._end is None or self._speech_after(self._end) < MIN_SPEECH_S:
            return None
        pause = self._activity().quietest(self._end - BEFORE_END, self._end + AFTER_END)
        start = max(pause // SAMPLES_PER_POSITION * SAMPLES_PER_POSITION, latest.start + MIN_PROGRESS)
        return start if self._speech_after(start) >= MIN_SPEECH_S else None

    def unheard_s(self) -> float | None:
        """Returns the seconds of speech between the end of the text and the end of what is needed; None if unknown."""
        return None if self._end is None else self._speech_after(self._end)

    def result(self) -> DecodingResult:
        """Returns all passes as if they were one: times count from the first sample of the chunk."""
        return self._passes[0].decoded if len(self._passes) == 1 else join_passes(self._passes, self._tokens)

    def cut_flags(self) -> tuple[str, ...]:
        """Returns the flags of passes whose repetitions are not in `result`, which does not show them any more."""
        return tuple(flag for each in self._passes[:-1] if _is_cut(each) for flag in each.flags)

    def _is_unspeakable(self, latest: DecodingPass) -> bool:
        """Returns whether a text of a remainder has more letters than anyone could say in it."""
        seconds = (len(self.pcm) - latest.start) / SAMPLE_RATE + REMAINDER_MARGIN_S
        return count_letters(self._tokens.decode(latest.decoded.tokens)) > MAX_LETTERS_PER_S * seconds

    def _speech_after(self, start: int) -> float:
        """Returns the seconds of speech from sample `start` to the end of what is needed."""
        if self._needed - start < MIN_SPEECH_S * SAMPLE_RATE:
            return 0.0
        return self._activity().seconds(start, self._needed)

    def _activity(self) -> SpeechActivity:
        if self._speech is None:
            self._speech = SpeechActivity.of(self.pcm)
        return self._speech


def check_chunks(chunks: Sequence[PCM16]) -> None:
    """Checks the input of a recognizer.

    Raises:
        ValueError: A chunk is not int16, not one-dimensional, empty, or longer than 30 s.
    """
    for index, chunk in enumerate(chunks):
        if chunk.dtype != np.int16 or chunk.ndim != 1:
            raise ValueError(f"chunk {index} must be int16 of one dimension, found {chunk.dtype} {chunk.shape}")
        if not 0 < len(chunk) <= MAX_SAMPLES:
            raise ValueError(f"chunk {index} has {len(chunk)} samples; must be 1 to {MAX_SAMPLES} (30 s at 16 kHz)")


def has_text(decoded: DecodingResult, tokens: Tokens) -> bool:
    """Returns whether there is any token of text."""
    return any(map(tokens.is_text, decoded.tokens))


def ends_with_timestamp(decoded: DecodingResult, tokens: Tokens) -> bool:
    """Returns whether the last token is a timestamp, which gives the end of the text."""
    return bool(decoded.tokens) and tokens.is_timestamp(decoded.tokens[-1])


def text_end(decoded: DecodingResult, tokens: Tokens) -> int | None:
    """Returns the end of a text in samples from the beginning of its pass, or None if it is unknown.

    Timestamps and attention give it. Of two timestamps at the end the first one counts: the second one begins a segment
    that was not written. The attention is preferred where it is within `MAX_TIMESTAMP_ERROR` of the timestamp.
    """
    if not has_text(decoded, tokens):
        return 0
    from_attention = None if decoded.last_position is None else decoded.last_position * SAMPLES_PER_POSITION + LAST_WORD
    from_timestamp = timestamp_end(decoded, tokens)
    if from_timestamp is None:
        return from_attention
    return (
        from_timestamp
        if from_attention is None or abs(from_attention - from_timestamp) > MAX_TIMESTAMP_ERROR
        else from_attention
    )


def timestamp_end(decoded: DecodingResult, tokens: Tokens) -> int | None:
    """Returns the timestamp behind a text in samples from the beginning of its pass; None if there is none."""
    if not has_text(decoded, tokens) or not ends_with_timestamp(decoded, tokens):
        return None
    last = max(index for index, token in enumerate(decoded.tokens) if tokens.is_text(token))
    return (decoded.tokens[last + 1] - tokens.timestamp_begin) * SAMPLES_PER_POSITION


def may_end_early(decoded: DecodingResult, num_samples: int, tokens: Tokens) -> bool:
    """Returns whether the timestamps leave time for a word before the end of `num_samples`, or give no end at all."""
    if not decoded.tokens:
        return False
    end = text_end(decoded, tokens)
    return end is None or num_samples - end > MIN_SPEECH_S * SAMPLE_RATE


def drop_repeated_words(before: DecodingPass, end: int, latest: DecodingPass, tokens: Tokens) -> DecodingPass:
    """Returns `latest` without the words at its beginning that repeat the last ones of the pass `before`.

    As a pass may begin a little before the end of the text so far, at sample `end` of the chunk at the latest, it may
    contain the last word again, or the end of it. Words count as repeated if their audio ends there: a word that is
    said twice is kept. Without an alignment nothing is dropped.
    """
    alignment = latest.decoded.alignment
    if alignment is None:
        return latest
    pieces = split_characters(latest.decoded.tokens, tokens)
    last = [word for piece in split_characters(before.decoded.tokens, tokens) if (word := _letters(piece.text))]
    last = last[-LONGEST_REPETITION:]
    spoken = [piece for piece in pieces if _letters(piece.text)]
    first = [_letters(piece.text) for piece in spoken]
    ends = [latest.start + alignment.ends[piece.indices[-1]] * SAMPLES_PER_POSITION for piece in spoken]
    in_time = [each <= end + REPETITION_MARGIN for each in ends]
    lengths = (
        length
        for length in range(min(len(first), len(last)), 0, -1)
        if in_time[length - 1] and first[:length] == last[-length:]
    )
    num = next(lengths, 0) or _num_pieces_of_word_end(before.decoded.tokens, latest.decoded.tokens, tokens)
    if not num or not in_time[num - 1]:
        return latest
    index = spoken[num - 1].indices[-1]
    return _drop_text_before(latest, index + 1 + _num_punctuation_tokens(pieces, index), tokens)


def _num_pieces_of_word_end(before: Sequence[int], latest: Sequence[int], tokens: Tokens) -> int:
    """Returns how many of the first pieces with letters are a word that is the end of the last word of `before`.

    0 if there is no such word. Words are told apart by spaces; other languages have none.
    """
    last = first = ""
    for piece in reversed(split_characters(before, tokens)):
        last = _letters(piece.text) + last
        if last and piece.text.startswith(" "):
            break
    num, index = 0, None
    for piece in split_characters(latest, tokens):
        is_separate = index is not None and piece.indices[0] > index + 1  # behind a timestamp
        if first and (is_separate or piece.text.startswith(" ")):
            break
        first += _letters(piece.text)
        num += bool(_letters(piece.text))
        index = piece.indices[-1]
    return num if MIN_WORD_END <= len(first) < len(last) and last.endswith(first) else 0


def _letters(text: str) -> str:
    """Returns a text without case and punctuation. Marks, such as the vowels of Thai and Hindi, count as letters."""
    return "".join(
        letter for letter in text.casefold() if letter.isalnum() or unicodedata.category(letter).startswith("M")
    )


def _num_punctuation_tokens(pieces: Sequence[TokenGroup], index: int) -> int:
    """Returns how many of the tokens behind the one at `index` are punctuation of the word that ends there."""
    num = 0
    for piece in pieces:
        if piece.indices[0] <= index:
            continue
        if piece.indices[0] != index + num + 1 or not piece.text.strip() or _letters(piece.text):
            break
        num += len(piece.indices)
    return num


def _drop_text_before(single: DecodingPass, index: int, tokens: Tokens) -> DecodingPass:
    """Returns the pass without the text tokens before `index`; timestamps stay."""
    decoded, alignment = single.decoded, single.decoded.alignment
    assert alignment is not None, "required by drop_repeated_words"
    kept = [i for i, token in enumerate(decoded.tokens) if i >= index or tokens.is_timestamp(token)]
    dropped = (math.log(alignment.probabilities[i]) for i in range(index) if i not in kept)
    written = single.num_written
    return replace(
        single,
        num_written=None if written is None else sum(i < written for i in kept),
        decoded=replace(
            decoded,
            tokens=tuple(decoded.tokens[i] for i in kept),
            sum_logprob=decoded.sum_logprob - sum(dropped),
            alignment=TokenAlignment(
                tuple(alignment.ends[i] for i in kept), tuple(alignment.probabilities[i] for i in kept)
            ),
        ),
    )


def _is_cut(single: DecodingPass) -> bool:
    return single.num_written is not None and single.num_written < len(single.decoded.tokens)


def _as_written(single: DecodingPass) -> DecodingResult:
    """Returns the result of a pass without the repetitions of a loop at its end. Its mean log-probability remains."""
    decoded, num, alignment = single.decoded, single.num_written, single.decoded.alignment
    if num is None or not _is_cut(single):
        return decoded
    if alignment is not None:
        alignment = TokenAlignment(alignment.ends[:num], alignment.probabilities[:num])
    share = (num + 1) / (len(decoded.tokens) + 1)
    return replace(decoded, tokens=decoded.tokens[:num], sum_logprob=decoded.sum_logprob * share, alignment=alignment)


def join_passes(passes: Sequence[DecodingPass], tokens: Tokens) -> DecodingResult:
    """Returns the passes of one chunk as one result, whose timestamps never decrease.

    `passes` begin at whole encoder positions and are in order. A loop at the end of the last one stays.
    """
    decoded = [*map(_as_written, passes[:-1]), passes[-1].decoded]
    ids: list[int] = []
    ends: list[int] = []
    probabilities: list[float] = []
    for start, each in zip((each.start for each in passes), decoded, strict=True):
        # The last timestamp then begins a segment that the next pass writes.
        if len(ids) > 1 and all(map(tokens.is_timestamp, ids[-2:])):
            del ids[-1], ends[-1:], probabilities[-1:]
        shift = start // SAMPLES_PER_POSITION
        # A pass may begin a little before the end of the one before it. Times that ran backwards would count as those
        # of a further window where overlapping chunks are merged.
        earliest = max(filter(tokens.is_timestamp, ids), default=0)
        last = tokens.timestamp_begin + NUM_TIMESTAMPS - 1
        ids += [min(max(id + shift, earliest), last) if tokens.is_timestamp(id) else id for id in each.tokens]
        if (alignment := each.alignment) is not None:
            ends += [shift + end for end in alignment.ends]
            probabilities += alignment.probabilities
    return DecodingResult(
        tokens=tuple(ids),
        sum_logprob=sum(each.sum_logprob for each in decoded),
        no_speech_prob=decoded[0].no_speech_prob,
        ended=decoded[-1].ended,
        proposed=sum(each.proposed for each in decoded),
        accepted=sum(each.accepted for each in decoded),
        alignment=TokenAlignment(tuple(ends), tuple(probabilities)) if len(ends) == len(ids) else None,
        num_passes=len(passes),
    )
