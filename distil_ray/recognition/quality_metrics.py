"""Quality metrics of a hypothesis by OpenAI's definitions, and the hypothesis made with them.

The functions are pure functions of numbers, ids and text: how likely the text is and how repetitive. None reads the
audio or a reference.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.quality_flags import (
    HIGH_CHAR_RATE,
    MAX_TOKENS_REACHED,
    MAX_UNTRANSCRIBED_S,
    NO_SPEECH,
    REPETITION_LOOP,
    UNTRANSCRIBED_SPEECH,
    cut_repetition_loop,
    find_unspeakable_loop,
    text_flags,
)
from distil_ray.types import SAMPLE_RATE, Hypothesis, Segment
from distil_ray.whisper.tokenizer import WINDOW_S, Tokens

MAX_BYTES = 4  # of a character


def avg_logprob(sum_logprob: float, num_tokens: int, num_passes: int = 1) -> float:
    """Returns the mean log-probability of a chunk's tokens, as OpenAI defines it.

    The sum is divided by the number of tokens plus one for each pass, even if a pass ended without an end token.

    Args:
        sum_logprob: Sum of the natural logarithms of the chosen tokens' probabilities after the decoding rules, end
            tokens included.
        num_tokens: Number of tokens without prompt and end tokens.
        num_passes: Number of passes in which the chunk was decoded.
    """
    return sum_logprob / (num_tokens + num_passes)


def compression_ratio(text: str) -> float:
    """Returns bytes of UTF-8 over zlib-compressed bytes: about 1 for short text, above 2.4 for repetitive text."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


def is_no_speech(
    no_speech_prob: float, mean_logprob: float, no_speech_threshold: float | None, logprob_threshold: float
) -> bool:
    """Returns True if a chunk counts as silent: the no-speech probability is high, and the text is unlikely.

    A likely text counts as speech whatever the no-speech probability. Without a `no_speech_threshold` nothing counts as
    silent.
    """
    if no_speech_threshold is None:
        return False
    return no_speech_prob > no_speech_threshold and mean_logprob < logprob_threshold


def compose_hypothesis(
    decoded: DecodingResult,
    num_samples: int,
    *,
    tokens: Tokens,
    options: RecognizerOptions,
    window_s: float = WINDOW_S,
    temperature: float = 0.0,
) -> Hypothesis:
    """Makes the hypothesis of a chunk, without word timestamps.

    If the chunk counts as silent, tokens, text and segments are emptied, and `NO_SPEECH` is the only flag. If it ends
    in a repetition loop that nobody can have spoken, because it was cut off or has too many letters for its time, what
    is repeated is written once (`options.cut_loops`). Scores and other flags remain
    those of the decoded text.

    Args:
        decoded: Result of the decoding.
        num_samples: Length of the chunk.
        tokens: Tokens of the checkpoint.
        options: Thresholds and timestamps.
        window_s: Length of the encoder's input in seconds.
        temperature: Temperature of the decoding.
    """
    ids: Sequence[int] = decoded.tokens
    mean = avg_logprob(decoded.sum_logprob, len(ids), decoded.num_passes)
    text = tokens.decode(ids)
    ratio = compression_ratio(text)
    duration_s = num_samples / SAMPLE_RATE
    flags: tuple[str, ...] = (NO_SPEECH,)
    # Each of several passes has been checked by itself; those that are left are not silent.
    is_silent = decoded.num_passes == 1 and is_no_speech(
        decoded.no_speech_prob, mean, options.no_speech_threshold, options.logprob_threshold
    )
    if is_silent:
        ids, text = (), ""
    else:
        words = tokens.text_ids(ids)
        flags = text_flags(
            words,
            text,
            ended=decoded.ended,
            mean_logprob=mean,
            ratio=ratio,
            no_speech_prob=decoded.no_speech_prob,
            duration_s=duration_s,
            options=options,
        )
        is_unspoken = MAX_TOKENS_REACHED in flags or HIGH_CHAR_RATE in flags
        if options.cut_loops and REPETITION_LOOP in flags and is_unspoken:
            loop = words[: find_unspeakable_loop(words) if HIGH_CHAR_RATE in flags else None]
            num = _num_of_whole_characters(words, len(cut_repetition_loop(loop)), tokens)
            ids = tokens.truncate(ids, num)
            text = tokens.decode(ids)
    segments: tuple[Segment, ...] | None = None
    if options.timestamps != "none":
        segments = tuple(Segment(*span) for span in tokens.segments(ids, duration_s))
    return Hypothesis(
        text=text,
        tokens=tuple(ids),
        avg_logprob=mean,
        no_speech_prob=decoded.no_speech_prob,
        compression_ratio=ratio,
        temperature=temperature,
        window_s=window_s,
        segments=segments,
        quality_flags=flags,
        drafts_proposed=decoded.proposed,
        drafts_accepted=decoded.accepted,
    )


def _num_of_whole_characters(ids: Sequence[int], num: int, tokens: Tokens) -> int:
    """Returns `num`, or the few more first ids with which a text that would end within a character ends behind it.

    A loop may begin at any byte of a character: the one before it may end with the same byte.
    """
    lengths = range(num, min(num + MAX_BYTES, len(ids) + 1))
    return next(
        (length for length in lengths if not tokens.decode(ids[:length]).endswith("\N{REPLACEMENT CHARACTER}")), num
    )


def with_flags(hypothesis: Hypothesis, flags: Sequence[str]) -> Hypothesis:
    """Returns the hypothesis with further flags, each once."""
    return replace(hypothesis, quality_flags=tuple(dict.fromkeys((*hypothesis.quality_flags, *flags))))


def with_untranscribed_speech(hypothesis: Hypothesis, unheard_s: float | None) -> Hypothesis:
    """Returns the hypothesis with the seconds of speech after the end of its text, flagged if they are too many."""
    is_flagged = unheard_s is not None and unheard_s > MAX_UNTRANSCRIBED_S
    flags = (*hypothesis.quality_flags, UNTRANSCRIBED_SPEECH) if is_flagged else hypothesis.quality_flags
    return replace(hypothesis, unheard_s=unheard_s, quality_flags=flags)
