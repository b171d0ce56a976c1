"""Sections of minutes, whose windows of 30 s follow each other by the model's timestamps, as in openai's Whisper.

A section ends at the quietest point near the end of its longest length, so that it begins and ends at a pause. The
previous text of windows (`decoding.condition_on_previous_text`) begins anew with each section, so that sections can be
decoded side by side, and again by another actor with the same result. Zeros that last a whole window are sections of
their own. The strategy holds a section and a quarter of samples at most.
"""

from distil_ray.chunking.strategies.quiet import QuietChunker
from distil_ray.types import SAMPLE_RATE


class SequentialChunker(QuietChunker):
    """Cuts sections at quiet points."""

    long_form = True
    default_length_s = 120.0
    max_length_s = 3600.0
    search_fraction = 1 / 4
    long_silence = 30 * SAMPLE_RATE


CHUNKER = SequentialChunker
