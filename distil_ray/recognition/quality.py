"""Signs of doubt in a hypothesis, by openai's definitions, and the hypothesis made with them.

Pure functions of numbers, ids and text: they say how sure the model was and how repetitive its text is; none of them
looks at the audio or at a reference.
"""

import zlib
from collections.abc import Sequence

from distil_ray.recognition.flags import SILENCE, signs
from distil_ray.recognition.recognizer import Hypothesis, RecognizerOptions, Span
from distil_ray.whisper.tokens import WINDOW_S, Tokens

SAMPLES_PER_SECOND = 16_000  # Hz, what Whisper hears


def avg_logprob(sum_logprob: float, num_tokens: int) -> float:
    """Mean log-probability of a chunk's tokens.

    `sum_logprob`: natural logarithms of the chosen tokens' probabilities after the decoding rules, summed, end token
    included where it came. `num_tokens`: tokens without prompt and end token. The sum is divided by one more, also
    where the text was cut off before an end token, as openai does.
    """
    return sum_logprob / (num_tokens + 1)


def compression_ratio(text: str) -> float:
    """Bytes of UTF-8 over their zlib-compressed bytes: about 1 for short text, above 2.4 for text that repeats."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


def is_silence(
    no_speech_prob: float, mean_logprob: float, no_speech_threshold: float | None, logprob_threshold: float
) -> bool:
    """Whether a chunk counts as silent: the model says "no speech", and it was unsure of the words it wrote anyway.

    Sure words win over a high no-speech probability. `no_speech_threshold` None: nothing counts as silent.
    """
    if no_speech_threshold is None:
        return False
    return no_speech_prob > no_speech_threshold and mean_logprob < logprob_threshold


def compose_hypothesis(
    ids: Sequence[int],
    sum_logprob: float,
    no_speech_prob: float,
    ended: bool,
    num_samples: int,
    *,
    tokens: Tokens,
    options: RecognizerOptions,
    window_s: float = WINDOW_S,
    temperature: float = 0.0,
) -> Hypothesis:
    """The hypothesis of one chunk of `num_samples` samples.

    `ids` follow the prompt and stand before the end token; `ended`: it came by itself, before a limit. Where the chunk
    counts as silent, tokens, text and segments are emptied and the flag `SILENCE` is set alone; the scores stay those
    of what the model had written.
    """
    mean = avg_logprob(sum_logprob, len(ids))
    text = tokens.decode(ids)
    ratio = compression_ratio(text)
    duration_s = num_samples / SAMPLES_PER_SECOND
    flags: tuple[str, ...] = (SILENCE,)
    if is_silence(no_speech_prob, mean, options.no_speech_threshold, options.logprob_threshold):
        ids, text = (), ""
    else:
        flags = signs(
            ids,
            text,
            ended=ended,
            mean_logprob=mean,
            ratio=ratio,
            no_speech_prob=no_speech_prob,
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
        no_speech_prob=no_speech_prob,
        compression_ratio=ratio,
        temperature=temperature,
        window_s=window_s,
        segments=segments,
        flags=flags,
    )
