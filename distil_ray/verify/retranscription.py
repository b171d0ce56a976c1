"""Transcribes the recording of a row again: in float32, one chunk at a time, in the windows of its run.

The audio is decoded again and cut at the chunk boundaries of the row; everything else follows the stored settings of
the run. The stages of the pipeline are called in this process, without Ray. One model and the audio of one chunk are in
memory at a time. `recheck.py` compares the result.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from distil_ray.audio.pcm import PCM16, DecodeResult
from distil_ray.audio.segments import Span, extract_spans, iter_pcm
from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.chunking.base import iter_chunks, make_chunker
from distil_ray.config import Config
from distil_ray.config.loader import parse_config
from distil_ray.errors import SettingsError
from distil_ray.evaluation.wer import Scorer
from distil_ray.output.run_context import RUNS_FOLDER, ChunkingPlan, Run, resolve_chunking, resolve_window
from distil_ray.pipeline.model_setup import load_model_info
from distil_ray.pipeline.transcribe_stage import TranscribeStage
from distil_ray.pipeline.transcript_rows import RowBuilder
from distil_ray.readers.channels import audio_segment_for
from distil_ray.readers.fetch import prefetch_files
from distil_ray.readers.location import display_name, has_own_prompt, is_unchanged
from distil_ray.recognition.capabilities import load_capabilities
from distil_ray.schema import PART, parse_chunk_language, parse_recording
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join
from distil_ray.types import SAMPLE_RATE, Recording
from distil_ray.verify.inventory import Findings, list_run_folders
from distil_ray.whisper.weights_cache import WeightsError

Row = dict[str, Any]


class NotComparableError(Exception):
    """A row cannot be transcribed again as it was; the message is the reason."""


@dataclass(frozen=True, slots=True)
class RecheckMethod:
    """Stages with the settings and the model of one fingerprint."""

    run: Run
    transcribe: Callable[[pa.Table], pa.Table]
    row_builder: RowBuilder
    scorer: Scorer


class MethodLoader:
    """Loads the stages for each row from the stored settings of its run. Holds one model at a time."""

    def __init__(self, config: Config, output: str, storage: Storage, *, full_windows: bool) -> None:
        self._config = config
        self._full_windows = full_windows
        self._output = output
        self._storage = storage
        folders = list_run_folders(output, storage, Findings())
        self._by_fingerprint = {run.summary["fingerprint"]: name for name, run in folders.items() if run.summary}
        self._folders = folders
        self._current: tuple[str, RecheckMethod] | None = None

    def of(self, row: Row) -> RecheckMethod:
        """Returns the stages for a row.

        Raises:
            NotComparableError: The settings or the model of its run are not available.
        """
        name = row["fingerprint"]
        if self._current is None or self._current[0] != name:
            run_id = row["run_id"] if row["run_id"] in self._folders else self._by_fingerprint.get(name)
            if run_id is None:
                raise NotComparableError("no run folder with their settings exists")
            self._current = None  # before the next model is loaded
            self._current = name, self._load(run_id, row["model"])
        return self._current[1]

    def _load(self, run_id: str, identity: str) -> RecheckMethod:
        uri = join(self._output, RUNS_FOLDER, run_id, "config.yaml")
        try:
            stored = parse_config(self._storage.read(uri).decode(), uri)
        except (StorageError, SettingsError) as error:
            raise NotComparableError(f"the settings of run {run_id} cannot be read ({error})") from error
        model = stored.model
        commit = identity.removeprefix(f"{model.name}@") if identity.startswith(f"{model.name}@") else ""
        revision = commit if commit and ":" not in commit else model.revision  # the commit that the run used
        cache_dir = self._config.model.cache_dir
        here = stored.model_copy(update={"model": model.model_copy(update={"cache_dir": cache_dir})})
        try:
            found = load_model_info(here, self._storage, revision)
        except WeightsError as error:
            raise NotComparableError(f"the model of run {run_id} is not available ({error})") from error
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
        return RecheckMethod(run, TranscribeStage(run), RowBuilder(run), Scorer(stored.scoring))


def _exact(stored: Config, here: Config, revision: str | None, full_windows: bool) -> Config:
    """Returns the settings of a run with exact decoding and with this machine's resources and storage."""
    window = "full" if full_windows else resolve_window(stored)  # that of the stored recognizer
    model: dict[str, Any] = {"assistant": None, "revision": revision, "device": "auto"}
    if load_capabilities(stored.model.recognizer).whisper_checkpoint:
        model |= {"recognizer": "native", "dtype": "float32"}
    return stored.model_copy(
        update={
            "model": stored.model.model_copy(update=model | {"cache_dir": here.model.cache_dir}),
            "decoding": stored.decoding.model_copy(update={"batch_size": 1}),
            "chunking": stored.chunking.model_copy(update={"window": window}),
            "output": here.output,
            "resources": here.resources,
            "storage": here.storage,
        }
    )


def transcribe_again(row: Row, method: RecheckMethod, decoder: SubprocessDecoder, storage: Storage) -> Row:
    """Returns the row as the run would have written it without batching and short number types.

    Raises:
        NotComparableError: The recording is missing or has changed.
    """
    results, outcomes = [], list[DecodeResult]()
    recording = parse_recording(row)
    with _local(recording, storage) as path:
        wanted = audio_segment_for(recording, method.run.config.input.channels)
        pieces = iter_pcm(decoder.decode(path, display_name(recording), wanted), outcomes.append)
        for chunk, pcm in _cut_again(row, pieces, method.run.chunking):
            language = chunk["language"] or method.run.languages[0]
            results += method.transcribe(_part(chunk | {"language": language}, pcm)).to_pylist()
    ending = {
        "recording": 0,
        "num_samples": outcomes[0].num_samples,
        "num_chunks": len({chunk["index"] for result in results for chunk in result["chunks"]}),
        "error_kind": row["error_kind"],
        "error": row["error"],
        "quality_flags": [],
    }
    results.append({"decoded": [ending], "chunks": [], "hypotheses": []})
    (after,), _ = method.row_builder.build_rows([recording], results)
    return after


@contextmanager
def _local(recording: Recording, storage: Storage) -> Iterator[str]:
    """Provides the recording's file on the local disk, if it has not changed since the row was written."""
    try:
        entry = storage.stat(recording.uri)
    except StorageError as error:
        raise NotComparableError(str(error)) from error
    if entry is None:
        raise NotComparableError("the recording no longer exists")
    if not is_unchanged(recording, entry):
        raise NotComparableError("the recording has changed since it was transcribed")
    if has_own_prompt(recording):
        raise NotComparableError("it was transcribed with a prompt from the input, which the output does not hold")
    with tempfile.TemporaryDirectory(prefix="distil-ray-recheck-") as folder:
        (fetched,) = prefetch_files([recording], {}, Path(folder), storage, threads=1)
        if isinstance(fetched, StorageError):
            raise NotComparableError(str(fetched)) from fetched
        yield str(fetched)


def _cut_again(row: Row, pieces: Iterator[PCM16], chunking: ChunkingPlan) -> Iterator[tuple[Row, PCM16]]:
    """Yields rows of CHUNK with their samples: the chunks of the row, or the passages of its sections in one language.

    The row has the windows of its sections, which depend on their texts; the sections are cut as in the run.

    Raises:
        NotComparableError: The audio is shorter than the chunks of the row.
    """
    if chunking.long_form:
        chunker = make_chunker(chunking.strategy, chunking.sizes, dict(chunking.settings))
        for section in iter_chunks(chunker, pieces):
            for start, end, language in _passages(row, section.start, section.start + len(section.pcm)):
                pcm = section.pcm[start - section.start : end - section.start]
                yield _chunk(section.index, start, end - start, language), pcm
        return
    spans = [(_samples(chunk["start_s"]), _samples(chunk["end_s"])) for chunk in row["chunks"]]
    for index, pcm in enumerate(extract_spans(pieces, spans)):
        if not len(pcm):
            raise NotComparableError("the audio is shorter than its transcript")
        yield _chunk_of_spans(index, spans, parse_chunk_language(row, row["chunks"][index])), pcm


def _passages(row: Row, start: int, end: int) -> Iterator[tuple[int, int, str | None]]:
    """Yields (first sample, sample after the last, language) of the passages of a section in one language."""
    windows = [chunk for chunk in row["chunks"] if start <= _samples(chunk["start_s"]) < end]
    changes = [
        (_samples(after["start_s"]), parse_chunk_language(row, after))
        for before, after in pairwise(windows)
        if parse_chunk_language(row, before) != parse_chunk_language(row, after)
    ]
    first = parse_chunk_language(row, windows[0]) if windows else row["language"]
    for (begin, language), (following, _) in pairwise([(start, first), *changes, (end, None)]):
        yield begin, following, language


def _chunk_of_spans(index: int, spans: Sequence[Span], language: str | None) -> Row:
    """Returns a row of CHUNK. Each of two neighbors gets half of their overlap as its stride."""
    start, end = spans[index]
    left = (spans[index - 1][1] - start) // 2 if index else 0
    right = (end - spans[index + 1][0]) // 2 if index + 1 < len(spans) else 0
    return _chunk(index, start, end - start, language) | {"stride_left": max(left, 0), "stride_right": max(right, 0)}


def _chunk(index: int, start: int, num_samples: int, language: str | None) -> Row:
    return {
        "recording": 0,
        "index": index,
        "start": start,
        "offset": 0,
        "num_samples": num_samples,
        "stride_left": 0,
        "stride_right": 0,
        "language": language,
        "detects_language": False,
        "detection_only": False,
        "prompt": None,
    }


def _part(chunk: Row, pcm: PCM16) -> pa.Table:
    row = {"task_id": "recheck", "row_group": 0, "part_index": chunk["index"], "is_last": False, "decode_s": 0.0}
    row |= {"already_committed": False, "decoded": [], "chunks": [chunk], "pcm": pcm.tobytes()}
    return pa.Table.from_pylist([row], schema=PART)


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)
