"""Gated short windows: how long a chunk's window is, and when what came out of it is not to be believed.

Whisper was trained on 30 s; given less it is several times faster and, with silence behind it (silence.py), as good
but for now and then a loop. Chunks with such signs are decoded again in the full window. All signs are the chunk's
own: neither its neighbors nor its batch decide. Knows tokens, text and seconds; knows no model.
"""

import hashlib
import math
import struct
from collections.abc import Sequence

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native.logits_rules import SEED_BITS
from distil_ray.recognition.quality_flags import has_repetition_loop
from distil_ray.recognition.quality_metrics import compression_ratio, is_no_speech
from distil_ray.whisper.features import HOP, MAX_FRAMES, SAMPLE_RATE

# Measured with whisper-base in float32 on read, accented, multilingual, long and noisy speech (docs/recognition.md):
# over all of it 14.9 % WER against 15.1 % in full windows, a tenth redone (noise and accents; of clean speech 1 %).
MARGIN_S = 0.2  # behind the chunk; more silence is heard without being encoded (silence.py)
MIN_WINDOW_S = 1.0
MIN_AVG_LOGPROB = -0.6  # nearer to 0 redoes more chunks and misses fewer
MAX_COMPRESSION_RATIO = 2.4  # openai's threshold
MAX_TOKENS_PER_S = 8.0  # twice as many as fluent English
SPARE_TOKENS = 16  # for chunks of a second or less

_FRAMES_PER_S = SAMPLE_RATE // HOP


def window_frames(num_samples: int) -> int:
    """Frames of a chunk's window: chunk and margin, in whole seconds so that like chunks share a shape."""
    seconds = math.ceil(num_samples / SAMPLE_RATE + MARGIN_S)
    return min(MAX_FRAMES, _FRAMES_PER_S * max(math.ceil(MIN_WINDOW_S), seconds))


def max_expected_tokens(num_samples: int) -> int:
    """More tokens than speech of this length has."""
    return SPARE_TOKENS + math.ceil(MAX_TOKENS_PER_S * num_samples / SAMPLE_RATE)


def needs_full_window(tokens: Sequence[int], text: str, avg_logprob: float, ended: bool, num_samples: int) -> bool:
    """Whether what came out of a short window is to be decoded again: it loops, is too much, too dense or unlikely.

    `ended`: an end token came by itself, before a limit and before `repetition_loop` stopped the row.
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
    """Whether a text of this compression ratio and mean log-probability is tried again at the next temperature."""
    if is_no_speech(no_speech_prob, mean_logprob, options.no_speech_threshold, options.logprob_threshold):
        return False
    return ratio > options.compression_ratio_threshold or mean_logprob < options.logprob_threshold


def sampling_seed(pcm: PCM16, temperature: float) -> int:
    """The seed of a chunk at a temperature: a hash of its samples and of the temperature."""
    digest = hashlib.blake2b(pcm.tobytes() + struct.pack("<d", temperature), digest_size=SEED_BITS // 8).digest()
    return int.from_bytes(digest, "little")
