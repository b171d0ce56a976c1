"""A recognizer that returns made-up texts at once, so that only the cost of the pipeline around it remains.

Its texts are as long as real ones (about 2.5 words and 3.4 tokens per second of audio), so that merging, scoring and
writing have their usual work.
"""

from collections.abc import Sequence

import numpy as np

from distil_ray.output.run_context import Run
from distil_ray.pipeline.transcribe_stage import TranscribeStage
from distil_ray.recognition.base import PCM16, LanguageProbabilities
from distil_ray.recognition.capabilities import RecognizerCapabilities
from distil_ray.types import SAMPLE_RATE, Hypothesis

SENTENCE = "and so it was that the man who had come from the sea went home again with all of his people"
WORDS = SENTENCE.split()
WORDS_PER_S = 2.5
TOKENS_PER_S = 3.4


class NullRecognizer:
    """A `Recognizer` without weights."""

    capabilities = RecognizerCapabilities(returns_tokens=True)
    device = "cpu"
    dtype = "none"
    languages: tuple[str, ...] = ("en",)
    warnings: tuple[str, ...] = ()

    def detect_languages(self, chunks: Sequence[PCM16]) -> LanguageProbabilities:
        return LanguageProbabilities(self.languages, np.ones((len(chunks), 1), np.float32))

    def transcribe(
        self, chunks: Sequence[PCM16], languages: Sequence[str], needed: Sequence[int] | None = None
    ) -> list[Hypothesis]:
        return [_answer(len(chunk) / SAMPLE_RATE) for chunk in chunks]


def _answer(audio_s: float) -> Hypothesis:
    words = [WORDS[i % len(WORDS)] for i in range(round(audio_s * WORDS_PER_S))]
    tokens = tuple(range(1000, 1000 + round(audio_s * TOKENS_PER_S)))
    return Hypothesis(
        " ".join(words),
        tokens,
        avg_logprob=-0.25,
        no_speech_prob=0.01,
        compression_ratio=1.5,
        temperature=0.0,
        window_s=30.0,
    )


class NullTranscribeStage(TranscribeStage):
    """The transcribe stage with a `NullRecognizer`."""

    def __init__(self, run: Run) -> None:
        super().__init__(run, NullRecognizer())
