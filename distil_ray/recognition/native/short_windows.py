"""Gated short windows: how long a chunk's window is, and when what came out of it is not to be believed.

Whisper was trained on 30 s; given less it is several times faster and, with silence behind it (silence.py), as good
but for now and then a loop. Chunks with such signs are decoded again in the full window. All signs are the chunk's
own: neither its neighbors nor its batch decide. Knows tokens, text and seconds; knows no model.
"""

import math
from collections.abc import Sequence

from distil_ray.recognition.quality_flags import has_repetition_loop
from distil_ray.recognition.quality_metrics import compression_ratio
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


def token_limit(num_samples: int) -> int:
    """More tokens than speech of this length has."""
    return SPARE_TOKENS + math.ceil(MAX_TOKENS_PER_S * num_samples / SAMPLE_RATE)


def is_doubtful(tokens: Sequence[int], text: str, avg_logprob: float, ended: bool, num_samples: int) -> bool:
    """Whether what came out of a short window is to be decoded again: it loops, is too much, too dense or unlikely.

    `ended`: an end token came by itself, before a limit and before `repetition_loop` stopped the row.
    """
    return (
        not ended
        or len(tokens) > token_limit(num_samples)
        or avg_logprob < MIN_AVG_LOGPROB
        or compression_ratio(text) > MAX_COMPRESSION_RATIO
        or has_repetition_loop(tokens)
    )
