"""openai's temperature fallback: when a text is tried again, and from which seed.

A chunk whose greedy text repeats itself or is unlikely is sampled at the next temperature, and again, until a text
passes or the temperatures end; the last text counts then. Silence is not tried again. The seed is the chunk's own, so
a rerun gives the same text. Knows numbers and PCM; knows no model.
"""

import hashlib
import struct

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native.sampling import SEED_BITS
from distil_ray.recognition.quality_metrics import is_no_speech


def needs_fallback(ratio: float, mean_logprob: float, no_speech_prob: float, options: RecognizerOptions) -> bool:
    """Whether a text of this compression ratio and mean log-probability is tried again at the next temperature."""
    if is_no_speech(no_speech_prob, mean_logprob, options.no_speech_threshold, options.logprob_threshold):
        return False
    return ratio > options.compression_ratio_threshold or mean_logprob < options.logprob_threshold


def seed_of(pcm: PCM16, temperature: float) -> int:
    """The seed of a chunk at a temperature: a hash of its samples and of the temperature."""
    digest = hashlib.blake2b(pcm.tobytes() + struct.pack("<d", temperature), digest_size=SEED_BITS // 8).digest()
    return int.from_bytes(digest, "little")
