"""A row's recording recognized once more, the exact way: float32, one chunk at a time, in windows as the run had them.

It is decoded again, cut where its row says that it was cut, and otherwise recognized with the settings that its run has
stored, by the job's own stages, in this process and without Ray. One model is held at a time, and one chunk's audio,
whatever the recording's length. What came out is compared in recheck.py.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from distil_ray.audio.pcm import PCM16, DecodeResult
from distil_ray.audio.segments import Span, extract_spans, iter_pcm
from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.config import Config
from distil_ray.config.loader import parse_config
from distil_ray.errors import SettingsError
from distil_ray.evaluation.wer import Scorer
from distil_ray.output.run_context import RUNS_FOLDER, Run, resolve_chunking
from distil_ray.pipeline.model_setup import load_model_info
from distil_ray.pipeline.transcribe_stage import TranscribeStage
from distil_ray.pipeline.transcript_rows import RowBuilder
from distil_ray.readers.channels import audio_segment_for
from distil_ray.readers.fetch import prefetch_files
from distil_ray.readers.location import display_name, is_unchanged
from distil_ray.recognition.capabilities import load_capabilities
from distil_ray.schema import PART, parse_recording
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join
from distil_ray.types import SAMPLE_RATE, Recording
from distil_ray.verify.inventory import Findings, take_runs
from distil_ray.whisper.weights_cache import WeightsError

Row = dict[str, Any]


class NotComparableError(Exception):
    """Why a row cannot be recognized again as it was."""


@dataclass(frozen=True, slots=True)
class Method:
    """How the rows of one fingerprint are recognized again: a run of its settings, its model loaded."""

    run: Run
    transcribe: Callable[[pa.Table], pa.Table]
    assembler: RowBuilder
    scorer: Scorer


class Methods:
    """The method of each row, by its run's stored settings. One model is held at a time."""

    def __init__(self, config: Config, output: str, storage: Storage, *, full_windows: bool) -> None:
        self._config = config
        self._full_windows = full_windows
        self._output = output
        self._storage = storage
        folders = take_runs(output, storage, Findings())
        self._by_fingerprint = {run.summary["fingerprint"]: name for name, run in folders.items() if run.summary}
        self._folders = folders
        self._current: tuple[str, Method] | None = None

    def of(self, row: Row) -> Method:
        """Raises `NotComparableError` if nobody knows any more how the row was made."""
        name = row["fingerprint"]
        if self._current is None or self._current[0] != name:
            run_id = row["run_id"] if row["run_id"] in self._folders else self._by_fingerprint.get(name)
            if run_id is None:
                raise NotComparableError("no run folder that is left tells their settings")
            self._current = None  # before the next model is loaded
            self._current = name, self._load(run_id, row["model"])
        return self._current[1]

    def _load(self, run_id: str, identity: str) -> Method:
        uri = join(self._output, RUNS_FOLDER, run_id, "config.yaml")
        try:
            stored = parse_config(self._storage.read(uri).decode(), uri)
        except (StorageError, SettingsError) as error:
            raise NotComparableError(f"the settings of run {run_id} cannot be read ({error})") from error
        model = stored.model
        commit = identity.removeprefix(f"{model.name}@") if identity.startswith(f"{model.name}@") else ""
        revision = commit if commit and ":" not in commit else model.revision  # the hub's commit of then
        cache_dir = self._config.model.cache_dir
        here = stored.model_copy(update={"model": model.model_copy(update={"cache_dir": cache_dir})})
        try:
            found = load_model_info(here, self._storage, revision)
        except WeightsError as error:
            raise NotComparableError(f"the model of run {run_id} is not to be had ({error})") from error
        if found.identity != identity:
            raise NotComparableError(f"{model.name} is another model now ({found.identity}, then {identity})")
        run = Run(
            config=_exact(stored, self._config, revision, self._full_windows),
            run_id=run_id,
            fingerprint="",
            model_identity=identity,
            model_revision=found.revision,
            languages=found.languages,
            detects_language=found.detects_language,
            chunking=resolve_chunking(stored, found.chunk_length_s, found.chunk_length_reason),
        )
        return Method(run, TranscribeStage(run), RowBuilder(run), Scorer(stored.scoring))


def _exact(stored: Config, here: Config, revision: str | None, full_windows: bool) -> Config:
    """The settings of a run, but exact, and with this machine's resources and storage."""
    window = {"window": "full"} if full_windows else {}
    model: dict[str, Any] = {"assistant": None, "revision": revision, "device": "auto"}
    if load_capabilities(stored.model.recognizer).whisper_checkpoint:
        model |= {"recognizer": "native", "dtype": "float32"}
    return stored.model_copy(
        update={
            "model": stored.model.model_copy(update=model | {"cache_dir": here.model.cache_dir}),
            "decoding": stored.decoding.model_copy(update={"batch_size": 1}),
            "chunking": stored.chunking.model_copy(update=window),
            "output": here.output,
            "resources": here.resources,
            "storage": here.storage,
        }
    )


def recognize_again(row: Row, method: Method, decoder: SubprocessDecoder, storage: Storage) -> Row:
    """The row as this run would have made it. Raises `NotComparableError`."""
    spans = [(_samples(chunk["start_s"]), _samples(chunk["end_s"])) for chunk in row["chunks"]]
    language = row["language"] or method.run.languages[0]
    results, outcomes = [], list[DecodeResult]()
    recording = parse_recording(row)
    with _local(recording, storage) as path:
        wanted = audio_segment_for(recording, method.run.config.input.channels)
        pieces = iter_pcm(decoder.decode(path, display_name(recording), wanted), outcomes.append)
        for index, pcm in enumerate(extract_spans(pieces, spans)):
            if not len(pcm):
                raise NotComparableError("the audio is shorter now than what was recognized of it")
            chunk = _chunk(index, spans, language)
            results += method.transcribe(_part(chunk, pcm)).to_pylist()
    ending = {
        "recording": 0,
        "num_samples": outcomes[0].num_samples,
        "num_chunks": len(spans),
        "error_kind": row["error_kind"],
        "error": row["error"],
        "quality_flags": [],
    }
    results.append({"decoded": [ending], "chunks": [], "hypotheses": []})
    (after,), _ = method.assembler.build_rows([recording], results)
    return after


@contextmanager
def _local(recording: Recording, storage: Storage) -> Iterator[str]:
    """The recording's file on this machine's disk, if it still is what the row was made of."""
    try:
        entry = storage.stat(recording.uri)
    except StorageError as error:
        raise NotComparableError(str(error)) from error
    if entry is None:
        raise NotComparableError("the recording is not there any more")
    if not is_unchanged(recording, entry):
        raise NotComparableError("the recording has changed since")
    with tempfile.TemporaryDirectory(prefix="distil-ray-recheck-") as folder:
        (fetched,) = prefetch_files([recording], {}, Path(folder), storage, threads=1)
        if isinstance(fetched, StorageError):
            raise NotComparableError(str(fetched)) from fetched
        yield str(fetched)


def _chunk(index: int, spans: Sequence[Span], language: str) -> Row:
    """A row of CHUNK; neighbors share their strides, half of what both have heard each."""
    start, end = spans[index]
    left = (spans[index - 1][1] - start) // 2 if index else 0
    right = (end - spans[index + 1][0]) // 2 if index + 1 < len(spans) else 0
    return {
        "recording": 0,
        "index": index,
        "start": start,
        "offset": 0,
        "num_samples": end - start,
        "stride_left": max(left, 0),
        "stride_right": max(right, 0),
        "language": language,
        "detects_language": False,
        "detection_only": False,
    }


def _part(chunk: Row, pcm: PCM16) -> pa.Table:
    row = {"task_id": "recheck", "row_group": 0, "part_index": chunk["index"], "is_last": False, "decode_s": 0.0}
    row |= {"already_committed": False, "decoded": [], "chunks": [chunk], "pcm": pcm.tobytes()}
    return pa.Table.from_pylist([row], schema=PART)


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)
