"""Parts of PCM in, hypotheses out: the GPU half of the work.

A plain callable class for an actor pool: the model is loaded once, one part comes per call. It knows nothing of files,
ids or references: a recording is a number here, and only matters because its chunks vote on one language together.
What the recognizer raises passes through: guard.py decides what it costs.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distil_ray.output.run_context import Run, resolve_window
from distil_ray.pipeline.model_setup import StorageFolderReader, fetch_assistant
from distil_ray.recognition.base import PCM16, Recognizer, RecognizerOptions
from distil_ray.recognition.capabilities import load_capabilities, load_recognizer
from distil_ray.recognition.quality_flags import MIXED_LANGUAGES, SILENT_AUDIO
from distil_ray.schema import PART_RESULT
from distil_ray.types import Hypothesis
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.tokenizer import WINDOW_S

# Peak to peak, in steps of PCM16: digital silence and its dither (-69 dBFS), where Whisper invents a word ("you") that
# its own no-speech rule lets pass. Speech whose peak is at -50 dBFS is eight times louder and recognized well.
MAX_SILENT_RANGE = 24
# Of a voter's probability for another language than the elected one. Recordings of one language gave at most 0.43, the
# two languages of one recording 0.99 each (docs/recognition.md).
OTHER_LANGUAGE_PROB = 0.9


class TranscribeStage:
    """`PART` rows to `RESULT` rows with one loaded recognizer."""

    def __init__(self, run: Run) -> None:
        model = run.config.model
        name: str | Path = model.name
        if load_capabilities(model.recognizer).whisper_checkpoint:
            name = fetch_weights(model.name, run.model_revision, model.cache_dir, StorageFolderReader(run.storage))
        options = make_recognizer_options(run)
        self._recognizer: Recognizer = load_recognizer(model.recognizer, name, options, fetch_assistant(run))
        self._skip_silence = run.config.decoding.no_speech_threshold is not None
        self._num_told = 0

    def __call__(self, parts: pa.Table) -> pa.Table:
        rows = [self._transcribe(part) for part in _rows(parts)]
        return pa.Table.from_pylist(rows, schema=PART_RESULT)

    def _transcribe(self, part: dict[str, Any]) -> dict[str, Any]:
        started = time.monotonic()
        pcm = np.frombuffer(part.pop("pcm"), np.int16)
        audio = [pcm[c["offset"] : c["offset"] + c["num_samples"]] for c in part["chunks"]]
        voted = detect_languages(self._recognizer, part["chunks"], audio)
        wanted = [i for i, chunk in enumerate(part["chunks"]) if not chunk["detection_only"]]
        part["chunks"] = [part["chunks"][i] for i in wanted]
        languages = [c["language"] or voted[c["recording"]].language for c in part["chunks"]]
        needed = [c["num_samples"] - c["stride_right"] for c in part["chunks"]]
        hypotheses = self._recognize([audio[i] for i in wanted], languages, needed)
        nothing = {} if self._recognizer.capabilities.returns_tokens else {"tokens": None}
        part["hypotheses"] = [
            asdict(hypothesis)
            | nothing
            | {"language": language, **_of_vote(voted.get(chunk["recording"]), i, hypothesis)}
            for i, hypothesis, chunk, language in zip(wanted, hypotheses, part["chunks"], languages, strict=True)
        ]
        part |= {
            "recognize_s": time.monotonic() - started,
            "device": self._recognizer.device,
            "dtype": self._recognizer.dtype,
            "actor_rss_mb": peak_rss_mb(),
            "warnings": self._new_notes(),
        }
        return part

    def _recognize(self, audio: Sequence[PCM16], languages: Sequence[str], needed: Sequence[int]) -> list[Hypothesis]:
        """Hypotheses of all chunks; those without a signal are known without asking the recognizer."""
        silence = Hypothesis(
            "",
            avg_logprob=0.0,
            no_speech_prob=1.0,
            compression_ratio=0.0,
            temperature=0.0,
            window_s=WINDOW_S,
            quality_flags=(SILENT_AUDIO,),
            unheard_s=0.0,
        )
        hypotheses = [silence] * len(audio)
        loud = [i for i, pcm in enumerate(audio) if not (self._skip_silence and is_silent(pcm))]
        if loud:
            heard = self._recognizer.transcribe(
                [audio[i] for i in loud], [languages[i] for i in loud], [needed[i] for i in loud]
            )
            for i, hypothesis in zip(loud, _checked(heard, len(loud)), strict=True):
                hypotheses[i] = hypothesis
        return hypotheses

    def _new_notes(self) -> list[str]:
        """What the recognizer has noted since the last part: a batch halved for want of memory, for instance."""
        new = list(self._recognizer.warnings[self._num_told :])
        self._num_told += len(new)
        return new


def is_silent(pcm: PCM16) -> bool:
    """Whether a chunk (int16, shape (num_samples,)) holds nothing louder than dither, around whatever offset."""
    return int(pcm.max()) - int(pcm.min()) <= MAX_SILENT_RANGE


def make_recognizer_options(run: Run) -> RecognizerOptions:
    """The run's settings in the recognizer's words."""
    config = run.config
    return RecognizerOptions(
        device="cuda" if config.resources.gpus_per_actor > 0 else "cpu",
        dtype=config.model.dtype,
        attention=config.model.attention,
        threads=max(1, round(config.resources.cpus_per_actor)),
        batch_size=None if config.decoding.batch_size == "auto" else config.decoding.batch_size,
        task=config.decoding.task,
        timestamps=config.decoding.timestamps,
        max_new_tokens=config.decoding.max_new_tokens,
        window=resolve_window(config),
        no_speech_threshold=config.decoding.no_speech_threshold,
        logprob_threshold=config.decoding.logprob_threshold,
        compression_ratio_threshold=config.decoding.compression_ratio_threshold,
        temperatures=config.decoding.temperatures,
        speculative=config.decoding.speculative,
    )


@dataclass(frozen=True, slots=True)
class DetectedLanguage:
    """The language of a recording, its mean probability, and the rows of the chunks that are surely in another."""

    language: str
    prob: float
    dissenting: frozenset[int] = frozenset()


def detect_languages(
    recognizer: Recognizer, chunks: Sequence[dict[str, Any]], audio: Sequence[PCM16]
) -> dict[int, DetectedLanguage]:
    """The language of each recording whose chunks carry votes, by the recording's number.

    The probabilities of a recording's voters are averaged; the language with the largest mean wins. A voter dissents if
    it gives another language `DISSENT_PROB` or more and holds a signal.
    """
    voters = [i for i, chunk in enumerate(chunks) if chunk["detects_language"]]
    if not voters:
        return {}
    detected = recognizer.detect_languages([audio[i] for i in voters])
    rows: dict[int, list[int]] = defaultdict(list)
    for row, i in enumerate(voters):
        rows[chunks[i]["recording"]].append(row)
    elected = {}
    for recording, mine in rows.items():
        mean = detected.probs[mine].mean(axis=0)
        winner = int(mean.argmax())
        others = detected.probs[mine].copy()
        others[:, winner] = 0.0
        sure = (voters[row] for row, prob in zip(mine, others.max(axis=1), strict=True) if prob >= OTHER_LANGUAGE_PROB)
        dissenting = frozenset(i for i in sure if not is_silent(audio[i]))
        elected[recording] = DetectedLanguage(detected.codes[winner], float(mean[winner]), dissenting)
    return elected


def _of_vote(election: DetectedLanguage | None, row: int, hypothesis: Hypothesis) -> dict[str, Any]:
    """What the vote of its recording says of the hypothesis of the chunk at `row`."""
    if election is None:
        return {"language_prob": None}
    flags = (*hypothesis.quality_flags, MIXED_LANGUAGES) if row in election.dissenting else hypothesis.quality_flags
    return {"language_prob": election.prob, "quality_flags": flags}


def _checked(hypotheses: list[Hypothesis], expected: int) -> list[Hypothesis]:
    if len(hypotheses) != expected:
        raise RuntimeError(f"the recognizer gave {len(hypotheses)} hypotheses for {expected} chunks")
    return hypotheses


def _rows(parts: pa.Table) -> list[dict[str, Any]]:
    """Rows as dicts, with the PCM as a view of Arrow's memory: a part is never copied."""
    rows: list[dict[str, Any]] = parts.drop_columns(["pcm"]).to_pylist()
    for row, pcm in zip(rows, parts["pcm"], strict=True):
        row["pcm"] = pcm.as_buffer()
    return rows


def peak_rss_mb() -> float:
    """Peak resident size of this process, MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
