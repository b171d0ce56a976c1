"""Window lengths, and when a chunk is decoded again: in the full window, or at a higher temperature.

Whisper was trained on windows of 30 s. A short window is several times faster and, with silence behind it (encoder.py),
as accurate, but for an occasional repetition loop. A result with signs of one is decoded again in the full window.

The temperature fallback is openai's: a greedy text that repeats itself or is unlikely is sampled at the next
temperature, and so on, until a text passes or the temperatures end; then the last text counts. A chunk without speech
is not sampled.

Every decision depends on the chunk alone, not on its neighbors or its batch, and the seed is a hash of its samples, so
a rerun gives the same text. The module knows PCM, tokens, text and numbers, and no model.
"""

import hashlib
import math
import struct
from collections.abc import Sequence

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native.logits_rules import SEED_BITS
from distil_ray.recognition.quality_flags import has_repetition_loop
from distil_ray.recognition.quality_metrics import compression_ratio, is_no_speech
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.features import HOP, MAX_FRAMES

# Measured with whisper-base in float32 on read, accented, multilingual, long and noisy speech (docs/recognition.md):
# 14.9 % WER against 15.1 % in full windows; a tenth is decoded again (noise and accents; 1 % of clean speech).
MARGIN_S = 0.2  # behind the chunk; more silence is attended to without being encoded (encoder.py)
MIN_WINDOW_S = 1.0
MIN_AVG_LOGPROB = -0.6  # a value nearer to 0 decodes more chunks again and misses fewer
MAX_COMPRESSION_RATIO = 2.4  # openai's threshold
MAX_TOKENS_PER_S = 8.0  # twice as many as fluent English
SPARE_TOKENS = 16  # for chunks of a second or less

_FRAMES_PER_S = SAMPLE_RATE // HOP


def window_frames(num_samples: int) -> int:
    """Returns the frames of a chunk's short window: the chunk and a margin, in whole seconds to keep shapes few."""
    seconds = math.ceil(num_samples / SAMPLE_RATE + MARGIN_S)
    return min(MAX_FRAMES, _FRAMES_PER_S * max(math.ceil(MIN_WINDOW_S), seconds))


def max_expected_tokens(num_samples: int) -> int:
    """Returns more tokens than speech of `num_samples` samples contains."""
    return SPARE_TOKENS + math.ceil(MAX_TOKENS_PER_S * num_samples / SAMPLE_RATE)


def needs_full_window(tokens: Sequence[int], text: str, avg_logprob: float, ended: bool, num_samples: int) -> bool:
    """Returns whether the result of a short window is decoded again: it loops, is too long, too dense, or unlikely.

    Args:
        tokens: Of the result, without timestamps.
        text: The same, decoded.
        avg_logprob: Mean log-probability of the tokens.
        ended: The model chose the end token itself, before a limit and before `has_repetition_loop` stopped the row.
        num_samples: Of the chunk.
    """
    return (
        not ended
        or len(tokens) > max_expected_tokens(num_samples)
        or avg_logprob < MIN_AVG_LOGPROB
        or compression_ratio(text) > MAX_COMPRESSION_RATIO
        or has_repetition_loop(tokens)
    )


def needs_higher_temperature(
    ratio: float, mean_logprob: float, no_speech_prob: float, options: RecognizerOptions
) -> bool:
    """Returns whether a text of this compression ratio and mean log-probability is sampled at the next temperature."""
    if is_no_speech(no_speech_prob, mean_logprob, options.no_speech_threshold, options.logprob_threshold):
        return False
    return ratio > options.compression_ratio_threshold or mean_logprob < options.logprob_threshold


def sampling_seed(pcm: PCM16, temperature: float) -> int:
    """Returns the seed of a chunk at a temperature: a hash of its samples and of the temperature."""
    digest = hashlib.blake2b(pcm.tobytes() + struct.pack("<d", temperature), digest_size=SEED_BITS // 8).digest()
    return int.from_bytes(digest, "little")
