"""Signs of doubt in a hypothesis, by openai's definitions: pure functions of numbers and text.

They say how sure the model was and how repetitive its text is; none of them looks at the audio or at a reference.
"""

import zlib

SILENCE = "silence"  # flag of a hypothesis whose text was emptied by `is_silence`


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
