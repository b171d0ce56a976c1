"""Signs of doubt in a hypothesis, by openai's definitions, and the hypothesis made with them.

Pure functions of numbers, ids and text: they say how sure the model was and how repetitive its text is; none of them
looks at the audio or at a reference.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace

from distil_ray.recognition.base import Hypothesis, RecognizerOptions, Span
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.quality_flags import MAX_UNTRANSCRIBED_S, NO_SPEECH, UNTRANSCRIBED_SPEECH, text_flags
from distil_ray.whisper.tokenizer import WINDOW_S, Tokens

SAMPLES_PER_SECOND = 16_000  # Hz, what Whisper hears


def avg_logprob(sum_logprob: float, num_tokens: int, num_passes: int = 1) -> float:
    """Mean log-probability of a chunk's tokens.

    `sum_logprob`: natural logarithms of the chosen tokens' probabilities after the decoding rules, summed, end tokens
    included where they came. `num_tokens`: tokens without prompt and end token. The sum is divided by one more for
    each pass, also where its text was cut off before an end token, as openai does.
    """
    return sum_logprob / (num_tokens + num_passes)


def compression_ratio(text: str) -> float:
    """Bytes of UTF-8 over their zlib-compressed bytes: about 1 for short text, above 2.4 for text that repeats."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


def is_no_speech(
    no_speech_prob: float, mean_logprob: float, no_speech_threshold: float | None, logprob_threshold: float
) -> bool:
    """Whether a chunk counts as silent: the model says "no speech", and it was unsure of the words it wrote anyway.

    Sure words win over a high no-speech probability. `no_speech_threshold` None: nothing counts as silent.
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
    """The hypothesis of one chunk of `num_samples` samples, without words.

    Where the chunk counts as silent, tokens, text and segments are emptied and the flag `NO_SPEECH` is set alone; the
    scores stay those of what the model had written.
    """
    ids: Sequence[int] = decoded.tokens
    mean = avg_logprob(decoded.sum_logprob, len(ids), decoded.num_passes)
    text = tokens.decode(ids)
    ratio = compression_ratio(text)
    duration_s = num_samples / SAMPLES_PER_SECOND
    flags: tuple[str, ...] = (NO_SPEECH,)
    # Of a chunk of several passes each has been asked by itself: those that count are no silence.
    is_silent = decoded.num_passes == 1 and is_no_speech(
        decoded.no_speech_prob, mean, options.no_speech_threshold, options.logprob_threshold
    )
    if is_silent:
        ids, text = (), ""
    else:
        flags = text_flags(
            ids,
            text,
            ended=decoded.ended,
            mean_logprob=mean,
            ratio=ratio,
            no_speech_prob=decoded.no_speech_prob,
            duration_s=duration_s,
            options=options,
        )
    segments: tuple[Span, ...] | None = None
    if options.timestamps != "none":
        segments = tuple(Span(*span) for span in tokens.segments(ids, duration_s))
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


def with_untranscribed_speech(hypothesis: Hypothesis, unheard_s: float | None) -> Hypothesis:
    """The hypothesis with the seconds of speech after the end of its text, and a flag where they are too many."""
    is_flagged = unheard_s is not None and unheard_s > MAX_UNTRANSCRIBED_S
    flags = (*hypothesis.quality_flags, UNTRANSCRIBED_SPEECH) if is_flagged else hypothesis.quality_flags
    return replace(hypothesis, unheard_s=unheard_s, quality_flags=flags)
