"""`dr.Recognizer`: a loaded model that transcribes arrays of audio, without files, chunking and merging."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from operator import mul
from threading import RLock
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from distil_ray.api.settings import ConfigSource, Overrides, make_local_config
from distil_ray.audio.conversion import to_pcm16
from distil_ray.audio.pcm import loudest_stretch
from distil_ray.chunking.merge import merge_chunks
from distil_ray.chunking.overlap_merge import ChunkHypothesis
from distil_ray.languages import match_language_code
from distil_ray.pipeline.language_detection import is_silent, restrict_languages
from distil_ray.pipeline.setup import resolve_run
from distil_ray.pipeline.transcribe_stage import (
    SILENCE,
    load_run_recognizer,
    run_prompt,
    transcribe_sections,
    transcribe_with_prompts,
)
from distil_ray.readers.sample_arrays import CAST_PEAK
from distil_ray.recognition.base import PCM16, LanguageProbabilities, TranscribedWindow
from distil_ray.recognition.base import Recognizer as RecognizerProtocol
from distil_ray.types import SAMPLE_RATE, Hypothesis, Prompt
from distil_ray.whisper.tokenizer import WINDOW_S

Chunk = NDArray[np.int16] | NDArray[np.float32] | NDArray[np.float64]  # shape (num_samples,), 16 kHz mono


class Recognizer:
    """A loaded recognizer. `load` makes one. Calls from several threads are done one after the other.

    Attributes:
        languages: Codes of the languages that the model knows; ("en",) for an English-only model.
        device: Where it runs, such as "cpu" or "cuda:0 (NVIDIA H200)".
        dtype: Number type of the weights; for ``int8`` what the processor computes ("int8", "int8_w7" or "float32").
    """

    def __init__(
        self,
        recognizer: RecognizerProtocol,
        prompt: Prompt | None = None,
        detectable: Sequence[str] | None = None,
        is_long_form: bool = False,
        silence: Hypothesis | None = None,
    ) -> None:
        self._lock = RLock()  # a recognizer has one cache
        self._recognizer = recognizer
        self._silence = silence  # of chunks without any signal; None: these are recognized, too
        self._is_long_form = is_long_form
        self._prompt = prompt  # of the settings
        self._detectable = tuple(recognizer.languages if detectable is None else detectable)
        self.languages = recognizer.languages
        self.device = recognizer.device
        self.dtype = recognizer.dtype

    @classmethod
    def load(
        cls,
        model: str | None = None,
        *,
        recognizer: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        assistant: str | None = None,
        timestamps: str | None = None,
        config: ConfigSource | None = None,
        overrides: Overrides | None = None,
    ) -> Self:
        """Loads a model in this process. Downloads its weights if they are not in the cache.

        Args:
            model: ``model.name``: a name on the Hugging Face hub, a local folder, or a packaged checkpoint.
            recognizer: ``model.recognizer``: ``native`` (the default), ``transformers``, or an import path.
            device: ``model.device``: ``auto`` (a GPU if this process has one), ``cpu`` or ``cuda``.
            dtype: ``model.dtype``: ``auto``, ``float32``, ``bfloat16``, ``float16``, ``int8`` or ``float8``.
            assistant: ``model.assistant``: a checkpoint that drafts for `model`.
            timestamps: ``decoding.timestamps``: ``none``, ``segment`` or ``word``.
            config: Settings to start from: a `Config`, a YAML file or the name of a shipped one, or nested settings.
            overrides: Settings by dotted key, such as ``{"decoding.batch_size": 8}``.

        Raises:
            SettingsError: A setting is unknown or wrong, or does not suit the model.
            RuntimeError: This machine lacks the device, number type or attention.
        """
        settings = make_local_config(
            config,
            overrides,
            model__name=model,
            model__recognizer=recognizer,
            model__device=device,
            model__dtype=dtype,
            model__assistant=assistant,
            decoding__timestamps=timestamps,
        )
        run = resolve_run(settings, Console(quiet=True)).run
        return cls(
            load_run_recognizer(run),
            run_prompt(run),
            run.detectable_languages,
            run.chunking.long_form,
            None if settings.decoding.no_speech_threshold is None else _silence(settings.decoding.timestamps),
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Returns what the recognizer has decided automatically, each with its reason."""
        return self._recognizer.warnings

    def transcribe(
        self, chunks: Sequence[Chunk], languages: str | Sequence[str | None] | None = None
    ) -> list[Hypothesis]:
        """Transcribes chunks of audio, each by itself.

        Args:
            chunks: Arrays of shape (num_samples,), 16 kHz mono: int16, or floats from -1 to 1. At most 30 s each,
                or of any length where ``chunking.strategy`` is ``sequential``. A chunk without any signal gets an
                empty text, unless ``decoding.no_speech_threshold`` is null.
            languages: The language of all chunks, or of each: a code or a name. None: detected for each chunk, among
                ``decoding.languages`` if it is set.

        Returns:
            One hypothesis per chunk, in order. Its `language` is the code that was used, `language_prob` the
            probability of a detected language. The tokens of audio with several windows are those of all windows.

        Raises:
            ValueError: A chunk is empty, too long or not one-dimensional, its floats are 16-bit integers, a language
                is unknown, or it has to be detected and the recognizer cannot.
        """
        pcm = [_to_pcm(chunk) for chunk in chunks]
        given = [languages] * len(pcm) if languages is None or isinstance(languages, str) else list(languages)
        if len(given) != len(pcm):
            raise ValueError(f"languages: found {len(given)} for {len(pcm)} chunks")
        codes = [None if one is None else self._code(one) for one in given]
        with self._lock:
            found = self._detect([chunk for chunk, code in zip(pcm, codes, strict=True) if code is None])
            used = [(code, None) if code is not None else next(found) for code in codes]
            hypotheses = self._transcribe(pcm, [code for code, _ in used])
        return [
            replace(hypothesis, language=code, language_prob=prob)
            for hypothesis, (code, prob) in zip(hypotheses, used, strict=True)
        ]

    def detect_languages(self, chunks: Sequence[Chunk]) -> LanguageProbabilities:
        """Returns the language probabilities of each chunk, over ``decoding.languages`` if it is set.

        `chunks` are as in `transcribe`; of a longer one, the loudest 30 s count.

        Raises:
            ValueError: The recognizer does not detect languages.
        """
        if not self._recognizer.capabilities.detects_language:
            raise ValueError("this recognizer detects no languages; give languages=, a code or name for each chunk")
        pcm = [_to_pcm(chunk) for chunk in chunks]
        with self._lock:
            found = self._recognizer.detect_languages(
                [loudest_stretch(each) for each in pcm] if self._is_long_form else pcm
            )
        return restrict_languages(found, self._detectable)

    def _transcribe(self, pcm: Sequence[PCM16], languages: Sequence[str]) -> list[Hypothesis]:
        """Returns the hypotheses of chunks. Silent ones are not given to the recognizer, as in the job."""
        silence = self._silence
        if silence is None:
            return self._recognize(pcm, languages)
        longest = math.inf if self._is_long_form else WINDOW_S * SAMPLE_RATE  # others are refused by the recognizer
        loud = [i for i, chunk in enumerate(pcm) if not 0 < len(chunk) <= longest or not is_silent(chunk)]
        hypotheses = [silence] * len(pcm)
        recognized = self._recognize([pcm[i] for i in loud], [languages[i] for i in loud])
        for i, hypothesis in zip(loud, recognized, strict=True):
            hypotheses[i] = hypothesis
        return hypotheses

    def _recognize(self, pcm: Sequence[PCM16], languages: Sequence[str]) -> list[Hypothesis]:
        if not pcm:
            return []
        prompts = [self._prompt] * len(pcm)
        if self._is_long_form:
            sections = transcribe_sections(self._recognizer, pcm, languages, prompts)
            return [
                join_windows(windows, len(chunk), language)
                for windows, chunk, language in zip(sections, pcm, languages, strict=True)
            ]
        return transcribe_with_prompts(self._recognizer, pcm, languages, None, prompts)

    def _detect(self, chunks: Sequence[PCM16]) -> Iterator[tuple[str, float | None]]:
        """Returns an iterator over (code, probability) of the chunks; without probability for a single language."""
        if not chunks or len(self._detectable) == 1:
            return iter([(self._detectable[0], None)] * len(chunks))
        probabilities = self.detect_languages(chunks)
        best = probabilities.probs.argmax(axis=1)
        return iter([(probabilities.codes[i], float(row[i])) for i, row in zip(best, probabilities.probs, strict=True)])

    def _code(self, language: str) -> str:
        code = match_language_code(language, self.languages)
        if code is None:
            raise ValueError(f"languages: {language} is not one of {', '.join(sorted(self.languages))}")
        return code

    def __repr__(self) -> str:
        return f"Recognizer({type(self._recognizer).__name__}, {self.device}, {self.dtype})"


def _silence(timestamps: str) -> Hypothesis:
    """Returns the hypothesis of a chunk without any signal, with the times of no words."""
    return replace(SILENCE, segments=None if timestamps == "none" else (), words=() if timestamps == "word" else None)


def join_windows(windows: Sequence[TranscribedWindow], num_samples: int, language: str) -> Hypothesis:
    """Returns the hypothesis of audio from those of its windows: the mean log-probability, the worst other scores."""
    hypotheses = [window.hypothesis for window in windows]
    if len(hypotheses) == 1:
        return hypotheses[0]
    chunks = [
        ChunkHypothesis(
            window.start,
            window.num_samples,
            0,
            0,
            window.hypothesis.text,
            (),
            window.hypothesis.segments,
            window.hypothesis.words,
            language=language,
        )
        for window in windows
    ]
    first = hypotheses[0]
    merged = merge_chunks(
        chunks, num_samples, None, timestamps=first.segments is not None, words=first.words is not None
    )
    num_tokens = [len(each.tokens) + 1 for each in hypotheses]
    logprobs = [each.avg_logprob for each in hypotheses if each.avg_logprob is not None]
    weighted = sum(map(mul, logprobs, num_tokens)) if len(logprobs) == len(num_tokens) else None
    return Hypothesis(
        text=merged.text,
        tokens=tuple(token for each in hypotheses for token in each.tokens),
        avg_logprob=None if weighted is None else weighted / sum(num_tokens),
        no_speech_prob=_largest(each.no_speech_prob for each in hypotheses),
        compression_ratio=_largest(each.compression_ratio for each in hypotheses),
        temperature=_largest(each.temperature for each in hypotheses),
        window_s=_largest(each.window_s for each in hypotheses),
        segments=None if merged.segments is None else tuple(merged.segments),
        words=None if merged.words is None else tuple(merged.words),
        quality_flags=tuple(dict.fromkeys(flag for each in hypotheses for flag in each.quality_flags)),
        drafts_proposed=sum(each.drafts_proposed for each in hypotheses),
        drafts_accepted=sum(each.drafts_accepted for each in hypotheses),
    )


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _to_pcm(chunk: Chunk) -> PCM16:
    """Returns a chunk as int16."""
    samples = np.asarray(chunk)
    if samples.ndim != 1:
        raise ValueError(f"chunks: must have the shape (num_samples,), mono at 16 kHz; found the shape {samples.shape}")
    if samples.dtype == np.int16:
        return cast(PCM16, samples)
    if samples.dtype.kind != "f":
        raise ValueError(f"chunks: must be int16, or floats from -1 to 1; found {samples.dtype}")
    finite = np.nan_to_num(samples.astype(np.float32), posinf=0.0, neginf=0.0)
    if np.abs(finite).max(initial=0.0) > CAST_PEAK:
        raise ValueError(
            f"chunks: floats must be from -1 to 1, found {finite[np.abs(finite).argmax()]:g}. Divide 16-bit integers"
            " that were cast to float by 32768, or pass them as int16"
        )
    pcm, _ = to_pcm16(finite)
    return pcm
