"""A recognizer of another family than Whisper: it writes a word for each burst of energy.

It has no checkpoint, tokens, probabilities or language detection. Nothing of it is registered: settings name it by its
import path. Its class is documentation too: it is the least that a recognizer consists of.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.capabilities import RecognizerCapabilities
from distil_ray.types import SAMPLE_RATE, Hypothesis, Segment

FRAME = SAMPLE_RATE // 20  # samples; 50 ms
MIN_LEVEL = 1000.0  # root mean square, of PCM16


class EnergyRecognizer:
    """Writes the name of the model for each burst; supports times of segments."""

    capabilities = RecognizerCapabilities(
        languages=("en", "de"), version="1", chunk_length_s=10.0, max_chunk_s=20.0, timestamps=("none", "segment")
    )

    def __init__(self, model: str | Path, options: RecognizerOptions) -> None:
        self.device = options.device
        self.dtype = "float32"
        self.languages = self.capabilities.languages
        self.warnings = ("bursts are counted, not recognized",)
        self._word = str(model)
        self._has_segments = options.timestamps == "segment"

    def transcribe(
        self, chunks: Sequence[PCM16], languages: Sequence[str], required_samples: Sequence[int] | None = None, /
    ) -> list[Hypothesis]:
        return [self._transcribe(chunk) for chunk in chunks]

    def _transcribe(self, chunk: PCM16) -> Hypothesis:
        segments = tuple(Segment(start_s, end_s, self._word) for start_s, end_s in _bursts(chunk))
        text = " ".join(segment.text for segment in segments)
        return Hypothesis(text, segments=segments if self._has_segments else None)


def _bursts(chunk: PCM16) -> list[tuple[float, float]]:
    """Returns start and end in seconds of the runs of frames that are louder than `MIN_LEVEL`."""
    num_frames = len(chunk) // FRAME
    frames = chunk[: num_frames * FRAME].reshape(num_frames, FRAME).astype(np.float32)
    loud = np.sqrt(np.mean(frames**2, axis=1)) > MIN_LEVEL
    edges = np.flatnonzero(np.diff(np.concatenate(([0], loud.astype(np.int8), [0]))))
    seconds = (edges * FRAME / SAMPLE_RATE).tolist()
    return list(zip(seconds[::2], seconds[1::2], strict=True))
