"""Transcribe stage: parts of PCM in, hypotheses out.

A callable class for a pool of actors. An actor loads the model once and gets one part per call. The stage knows no
files, ids or references: a recording is a number, and matters only because the language is detected per recording.
Exceptions of the recognizer pass through; `fault_isolation` handles them.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from distil_ray.output.run_context import Run, resolve_window
from distil_ray.pipeline.capacity import recognizer_threads
from distil_ray.pipeline.language_detection import (
    ChunkLanguage,
    LanguageDetector,
    is_silent,
    without_overlap_of_languages,
)
from distil_ray.pipeline.model_setup import StorageFolderReader, fetch_assistant
from distil_ray.recognition.base import (
    PCM16,
    LongFormRecognizer,
    PromptedRecognizer,
    Recognizer,
    RecognizerOptions,
    TranscribedWindow,
)
from distil_ray.recognition.capabilities import load_capabilities, load_recognizer
from distil_ray.recognition.quality_flags import MIXED_LANGUAGES, SILENT_AUDIO
from distil_ray.schema import PART_RESULT, parse_prompt
from distil_ray.types import Hypothesis, Prompt
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.tokenizer import WINDOW_S

# Of a chunk without any signal, which is not given to the recognizer.
SILENCE = Hypothesis(
    "",
    avg_logprob=0.0,
    no_speech_prob=1.0,
    compression_ratio=0.0,
    temperature=0.0,
    window_s=WINDOW_S,
    quality_flags=(SILENT_AUDIO,),
    unheard_s=0.0,
)
UNSUPPORTED_PROMPT = "prompts and hotwords of the input: ignored, as model.recognizer does not support them"


class TranscribeStage:
    """Turns rows of PART into rows of PART_RESULT with one loaded recognizer."""

    def __init__(self, run: Run, recognizer: Recognizer | None = None) -> None:
        """`recognizer`: replacement for that of the settings."""
        self._recognizer: Recognizer = recognizer or load_run_recognizer(run)
        self._language_detector = make_language_detector(run)
        self._translates = run.config.decoding.task == "translate"
        self._prompt = run_prompt(run)
        self._is_long_form = run.chunking.long_form
        self._skip_silence = run.config.decoding.no_speech_threshold is not None
        self._num_logged_warnings = 0
        self._has_unsupported_prompt = False
        self._is_prompt_warning_logged = False

    @property
    def processed_s(self) -> float:
        """Audio seconds that the recognizer has processed so far, estimated; 0 if it does not report them."""
        return float(getattr(self._recognizer, "processed_s", 0.0))

    def is_device_usable(self) -> bool:
        """Returns whether this process can go on after an exception; see `is_cuda_usable`."""
        from distil_ray.recognition.native.device import is_cuda_usable  # imports torch, which not all recognizers do

        return is_cuda_usable()

    def __call__(self, parts: pa.Table) -> pa.Table:
        rows = [self._transcribe(part) for part in _rows(parts)]
        return pa.Table.from_pylist(rows, schema=PART_RESULT)

    def _transcribe(self, part: dict[str, Any]) -> dict[str, Any]:
        started = time.monotonic()
        pcm = np.frombuffer(part.pop("pcm"), np.int16)
        audio = [pcm[c["offset"] : c["offset"] + c["num_samples"]] for c in part["chunks"]]
        chunks = part["chunks"]
        if self._is_long_form:
            chunks, detected = self._language_detector.detect_passages(self._recognizer, chunks, audio)
        else:
            detected = self._language_detector.detect(self._recognizer, chunks, audio)
        wanted = [i for i, chunk in enumerate(chunks) if not chunk["detection_only"]]
        languages = [detected[i] for i in wanted]
        part["chunks"] = [chunks[i] for i in wanted]
        if not self._translates:
            part["chunks"] = without_overlap_of_languages(part["chunks"], languages)
        audio = [pcm[c["offset"] : c["offset"] + c["num_samples"]] for c in part["chunks"]]
        needed = [c["num_samples"] - c["stride_right"] for c in part["chunks"]]
        prompts = [combine_prompts(parse_prompt(chunk["prompt"]), self._prompt) for chunk in part["chunks"]]
        self._has_unsupported_prompt |= any(prompts) and not self._recognizer.capabilities.prompts
        recognized = self._recognize(audio, [language.code for language in languages], needed, prompts)
        without_tokens = {} if self._recognizer.capabilities.returns_tokens else {"tokens": None}
        part["hypotheses"] = [
            asdict(window.hypothesis) | without_tokens | _language_fields(language, window.hypothesis)
            for windows, language in zip(recognized, languages, strict=True)
            for window in windows
        ]
        part["chunks"] = [
            _window_row(chunk, window)
            for chunk, windows in zip(part["chunks"], recognized, strict=True)
            for window in windows
        ]
        part |= {
            "recognize_s": time.monotonic() - started,
            "device": self._recognizer.device,
            "dtype": self._recognizer.dtype,
            "actor_rss_mb": peak_rss_mb(),
            "warnings": self._new_warnings(),
        }
        return part

    def _recognize(
        self,
        audio: Sequence[PCM16],
        languages: Sequence[str],
        needed: Sequence[int],
        prompts: Sequence[Prompt | None],
    ) -> list[list[TranscribedWindow]]:
        """Returns the windows of each chunk: one, but for sections. Silent chunks are not given to the recognizer."""
        windows = [[TranscribedWindow(0, len(pcm), SILENCE)] for pcm in audio]
        loud = [i for i, pcm in enumerate(audio) if not (self._skip_silence and is_silent(pcm))]
        if loud:
            own_audio, own_languages = [audio[i] for i in loud], [languages[i] for i in loud]
            own_prompts = [prompts[i] for i in loud]
            if self._is_long_form:
                recognized = transcribe_sections(self._recognizer, own_audio, own_languages, own_prompts)
            else:
                own_needed = [needed[i] for i in loud]
                hypotheses = transcribe_with_prompts(
                    self._recognizer, own_audio, own_languages, own_needed, own_prompts
                )
                recognized = [
                    [TranscribedWindow(0, len(pcm), hypothesis)]
                    for pcm, hypothesis in zip(own_audio, _require_all(hypotheses, len(loud)), strict=True)
                ]
            for i, found in zip(loud, recognized, strict=True):
                windows[i] = found
        return windows

    def _new_warnings(self) -> list[str]:
        """Returns the recognizer's warnings since the last part, such as a batch that was halved for lack of memory."""
        new = list(self._recognizer.warnings[self._num_logged_warnings :])
        self._num_logged_warnings += len(new)
        if self._has_unsupported_prompt and not self._is_prompt_warning_logged:
            self._is_prompt_warning_logged = True
            new.append(UNSUPPORTED_PROMPT)
        return new


def load_run_recognizer(run: Run) -> Recognizer:
    """Loads the recognizer of a run in this process. Downloads its weights if they are not in the cache.

    Raises:
        WeightsError: The weights cannot be downloaded or read.
        RuntimeError: This machine lacks the device, number type or attention of the settings.
        ValueError: The recognizer does not support an option.
    """
    model = run.config.model
    name: str | Path = model.name
    if load_capabilities(model.recognizer).whisper_checkpoint:
        name = fetch_weights(model.name, run.model_revision, model.cache_dir, StorageFolderReader(run.storage))
    return load_recognizer(model.recognizer, name, make_recognizer_options(run), fetch_assistant(run))


def make_language_detector(run: Run) -> LanguageDetector:
    """Returns the language detection of the settings of a run."""
    return LanguageDetector(run.detectable_languages, per_chunk=run.config.decoding.language_per == "chunk")


def run_prompt(run: Run) -> Prompt | None:
    """Returns the prompt of the settings; None without one."""
    text, hotwords = (run.config.decoding.prompt or "").strip(), run.config.decoding.hotwords
    if isinstance(hotwords, str):
        raise ValueError(f"decoding.hotwords={hotwords}: the file was not read (pipeline/setup.py)")
    return Prompt(text, hotwords) if text or hotwords else None


def combine_prompts(own: Prompt | None, general: Prompt | None) -> Prompt | None:
    """Returns the prompt of a recording from its own and that of the settings.

    Its own text replaces the general one. Its own hotwords come first: the last ones are cut off where there are too
    many.
    """
    if own is None or general is None:
        return own or general
    return Prompt(own.text or general.text, tuple(dict.fromkeys((*own.hotwords, *general.hotwords))))


def transcribe_with_prompts(
    recognizer: Recognizer,
    audio: Sequence[PCM16],
    languages: Sequence[str],
    needed: Sequence[int] | None,
    prompts: Sequence[Prompt | None],
) -> list[Hypothesis]:
    """Calls `Recognizer.transcribe`, with `prompts` where a chunk has one and the recognizer supports it."""
    if any(prompts) and recognizer.capabilities.prompts:
        return cast(PromptedRecognizer, recognizer).transcribe(audio, languages, needed, prompts)
    return recognizer.transcribe(audio, languages, needed)


def transcribe_sections(
    recognizer: Recognizer, audio: Sequence[PCM16], languages: Sequence[str], prompts: Sequence[Prompt | None]
) -> list[list[TranscribedWindow]]:
    """Calls `LongFormRecognizer.transcribe_sections`, with `prompts` where the recognizer supports them.

    Raises:
        RuntimeError: The windows of a section do not cover it.
    """
    used = prompts if any(prompts) and recognizer.capabilities.prompts else None
    recognized = cast(LongFormRecognizer, recognizer).transcribe_sections(audio, languages, used)
    for pcm, windows in zip(audio, recognized, strict=True):
        ends = [window.start + window.num_samples for window in windows]
        if [0, *ends] != [*(window.start for window in windows), len(pcm)]:
            raise RuntimeError(f"the recognizer returned windows that do not cover a section of {len(pcm)} samples")
    return recognized


def make_recognizer_options(run: Run) -> RecognizerOptions:
    """Returns the recognizer's options for the settings of a run."""
    config = run.config
    return RecognizerOptions(
        device="cuda" if config.resources.gpus_per_actor > 0 else "cpu",
        dtype=config.model.dtype,
        attention=config.model.attention,
        threads=recognizer_threads(config.resources),
        batch_size=None if config.decoding.batch_size == "auto" else config.decoding.batch_size,
        self_check=config.model.self_check,
        compile_encoder=config.model.compile_encoder,
        encode_ahead=config.model.encode_ahead,
        task=config.decoding.task,
        timestamps=config.decoding.timestamps,
        max_new_tokens=config.decoding.max_new_tokens,
        window=resolve_window(config),
        no_speech_threshold=config.decoding.no_speech_threshold,
        logprob_threshold=config.decoding.logprob_threshold,
        compression_ratio_threshold=config.decoding.compression_ratio_threshold,
        cut_loops=config.decoding.cut_loops,
        temperatures=config.decoding.temperatures,
        speculative=config.decoding.speculative,
        suppress_tokens=config.decoding.suppress_tokens,
        repetition_penalty=config.decoding.repetition_penalty,
        no_repeat_ngram_size=config.decoding.no_repeat_ngram_size,
        max_initial_timestamp_s=config.decoding.max_initial_timestamp_s,
        prefix=config.decoding.prefix,
        hallucination_silence_threshold_s=config.decoding.hallucination_silence_threshold_s,
        long_form=run.chunking.long_form,
        condition_on_previous_text=config.decoding.condition_on_previous_text,
        num_beams=config.decoding.beam_count,
        length_penalty=config.decoding.length_penalty,
        beam_selection=config.decoding.beam_selection,
        best_of=config.decoding.best_of,
    )


def _language_fields(language: ChunkLanguage, hypothesis: Hypothesis) -> dict[str, Any]:
    """Returns the fields of a hypothesis that follow from its language."""
    flags = hypothesis.quality_flags
    return {
        "language": language.code,
        "language_prob": language.prob,
        "quality_flags": (*flags, MIXED_LANGUAGES) if language.is_contradicted else flags,
    }


def _window_row(chunk: dict[str, Any], window: TranscribedWindow) -> dict[str, Any]:
    """Returns the row of CHUNK of a window of `chunk`. The windows of a section have its index."""
    start, offset = chunk["start"] + window.start, chunk["offset"] + window.start
    return chunk | {"start": start, "offset": offset, "num_samples": window.num_samples}


def _require_all(hypotheses: list[Hypothesis], expected: int) -> list[Hypothesis]:
    if len(hypotheses) != expected:
        raise RuntimeError(f"the recognizer returned {len(hypotheses)} hypotheses for {expected} chunks")
    return hypotheses


def _rows(parts: pa.Table) -> list[dict[str, Any]]:
    """Returns the rows as dicts. The PCM is a view of Arrow's memory: a part is never copied."""
    rows: list[dict[str, Any]] = parts.drop_columns(["pcm"]).to_pylist()
    for row, pcm in zip(rows, parts["pcm"], strict=True):
        row["pcm"] = pcm.as_buffer()
    return rows


def peak_rss_mb() -> float:
    """Returns the peak resident size of this process in MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
