"""Stand-ins for weights and faults: a recognizer that answers at once, and what breaks it."""

import os
import signal
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from distil_ray.output.run_context import Run
from distil_ray.pipeline.language_detection import LanguageDetector
from distil_ray.pipeline.transcribe_stage import TranscribeStage, make_language_detector
from distil_ray.recognition.base import PCM16, LanguageProbabilities, TranscribedWindow
from distil_ray.recognition.capabilities import RecognizerCapabilities
from distil_ray.recognition.quality_flags import UNTRANSCRIBED_SPEECH
from distil_ray.types import SAMPLE_RATE, Hypothesis, Prompt

LANGUAGES = ("en", "de", "fr")
CURSED_SAMPLES = 1601  # a chunk of exactly this length makes `EchoRecognizer` raise
DEADLY_SAMPLES = 1701  # this one ends the process of `FaultyRecognizer`
HANGING_SAMPLES = 1801  # and this one hangs it
EARLY_SAMPLES = 96_001  # the text of a chunk of exactly this length ends early, with UNHEARD_S of speech behind it
UNHEARD_S = 4.2


class EchoRecognizer:
    """Says how many samples it heard and their checksum: text that no other audio gives.

    The language it detects is told by the first sample: its value modulo the number of languages.
    """

    capabilities = RecognizerCapabilities(languages=LANGUAGES, detects_language=True, returns_tokens=True)
    device = "cpu"
    dtype = "float32"
    languages: tuple[str, ...] = LANGUAGES
    warnings: tuple[str, ...] = ()

    def detect_languages(self, chunks: Sequence[PCM16]) -> LanguageProbabilities:
        probs = np.full((len(chunks), len(LANGUAGES)), 0.1, np.float32)
        for row, chunk in enumerate(chunks):
            probs[row, int(chunk[0]) % len(LANGUAGES)] = 0.8
        return LanguageProbabilities(LANGUAGES, probs)

    def transcribe(
        self, chunks: Sequence[PCM16], languages: Sequence[str], needed: Sequence[int] | None = None
    ) -> list[Hypothesis]:
        if any(len(chunk) == CURSED_SAMPLES for chunk in chunks):
            raise RuntimeError("this chunk is cursed")
        return [self._echo(chunk, language) for chunk, language in zip(chunks, languages, strict=True)]

    def transcribe_sections(
        self, sections: Sequence[PCM16], languages: Sequence[str], prompts: Sequence[Prompt | None] | None = None
    ) -> list[list[TranscribedWindow]]:
        """Returns windows of a second, each with the echo of its samples."""
        return [
            [
                TranscribedWindow(start, len(pcm), self._echo(pcm, language))
                for start in range(0, len(section), SAMPLE_RATE)
                if len(pcm := section[start : start + SAMPLE_RATE])
            ]
            for section, language in zip(sections, languages, strict=True)
        ]

    def _echo(self, chunk: PCM16, language: str) -> Hypothesis:
        text = f"{language} {len(chunk)} {zlib.crc32(chunk.tobytes()):08x}"
        hypothesis = Hypothesis(
            text,
            tuple(text.encode()),
            avg_logprob=-0.25,
            no_speech_prob=0.01,
            compression_ratio=1.0,
            temperature=0.0,
            window_s=30.0,
            unheard_s=0.0,
        )
        if len(chunk) != EARLY_SAMPLES:
            return hypothesis
        return replace(hypothesis, unheard_s=UNHEARD_S, quality_flags=(UNTRANSCRIBED_SPEECH,))


class EchoTranscribe(TranscribeStage):
    """The transcribe stage without weights."""

    def __init__(self, run: Run | None = None) -> None:
        self._recognizer = EchoRecognizer()
        self._language_detector = LanguageDetector(LANGUAGES) if run is None else make_language_detector(run)
        self._translates = False
        self._prompt = None
        self._has_unsupported_prompt = False
        self._is_prompt_warning_logged = False
        self._skip_silence = True
        self._is_long_form = run is not None and run.chunking.long_form
        self._num_logged_warnings = 0


class FaultyRecognizer(EchoRecognizer):
    """Dies of a chunk of one length, and hangs for an hour on one of another."""

    def transcribe(
        self, chunks: Sequence[PCM16], languages: Sequence[str], needed: Sequence[int] | None = None
    ) -> list[Hypothesis]:
        lengths = {len(chunk) for chunk in chunks}
        if DEADLY_SAMPLES in lengths:
            os.kill(os.getpid(), signal.SIGKILL)
        if HANGING_SAMPLES in lengths:
            time.sleep(3600)
        return super().transcribe(chunks, languages, needed)


class FaultyTranscribe(EchoTranscribe):
    """The transcribe stage around it."""

    def __init__(self, run: Run | None = None) -> None:
        super().__init__(run)
        self._recognizer = FaultyRecognizer()


class Values(dict[str, bytes]):
    """A store of attempts (`attempts.KeyValueStore`) in this process."""

    def create(self, key: str, value: bytes) -> bool:
        return self.setdefault(key, value) is value

    def put(self, key: str, value: bytes) -> None:
        self[key] = value

    def delete(self, key: str) -> None:
        self.pop(key, None)


class LocalWorker:
    """A place without a cluster: this process, on a node of its own; `lost` are nodes that are gone."""

    def __init__(self, *lost: str) -> None:
        self._lost = lost

    def node(self) -> str:
        return "here"

    def worker(self) -> str:
        return "worker"

    def is_lost(self, node: str) -> bool:
        return node in self._lost
