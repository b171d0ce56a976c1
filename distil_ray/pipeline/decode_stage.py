"""Decode stage: tasks of the plan in, parts of PCM16 cut into chunks out.

The recordings of a task are decoded one by one in the decoder subprocess. A task leaves the stage in parts of at most
`Run.part_audio_s`, so that a recording of ten hours takes the memory of one part. While one recording is decoded, the
next ones are fetched to local disk. A task that is repeated (after the death of a node) and whose file is in the output
already leaves the stage in the same parts as before, as Ray requires, but marked as committed: they are not recognized
again. A defect of a recording raises nothing; it is in its `DecodedRecording`. Neither does a defect of a task, such as
a plan that cannot be read: its last part has the error.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distil_ray.audio.pcm import PCM16, DecodeResult, loudest_stretch
from distil_ray.audio.segments import Span, extract_spans, iter_pcm
from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.chunking.base import Chunk, make_chunker
from distil_ray.config import Config
from distil_ray.errors import ErrorKind
from distil_ray.languages import match_language_code
from distil_ray.output.run_context import Run
from distil_ray.pipeline.copies_folder import temporary_copies_folder
from distil_ray.pipeline.individual_retry import describe_error
from distil_ray.pipeline.language_detection import choose_detection_chunks
from distil_ray.pipeline.planner import parse_recordings, read_task
from distil_ray.readers.channels import audio_segment_for
from distil_ray.readers.fetch import FetchResult, prefetch_files
from distil_ray.readers.location import display_name
from distil_ray.schema import PART, to_stream_bytes
from distil_ray.storage.storage_errors import StorageError
from distil_ray.types import SAMPLE_RATE, Prompt, Recording

logger = logging.getLogger(__name__)


def decode_tasks(tasks: pa.Table, run: Run, is_retry: Callable[[], bool] = lambda: False) -> Iterator[pa.Table]:
    """Decodes tasks of the plan.

    Args:
        tasks: Rows of POINTER (`secret_uris` may be missing).
        run: The run.
        is_retry: Returns whether this call repeats an earlier one, so that a task may have its file already.

    Yields:
        Tables of one row of PART.
    """
    may_be_committed = is_retry()
    for pointer in tasks.to_pylist():
        num_parts = 0
        try:
            for part in _decode_task(pointer, run, may_be_committed):
                yield part
                num_parts += 1
        except Exception as error:  # of the store that has the plan, or of this machine
            logger.exception("task %s could not be decoded", pointer["task_id"])
            yield _failed_part(pointer["task_id"], pointer["row_group"], num_parts, describe_error(error))


def _decode_task(pointer: Mapping[str, Any], run: Run, may_be_committed: bool) -> Iterator[pa.Table]:
    task_id, row_group = pointer["task_id"], pointer["row_group"]
    # A committed task is decoded all the same: Ray ends a run if a repeated task has another number of outputs.
    is_committed = may_be_committed and run.storage.stat(run.task_uri(task_id)) is not None
    rows = read_task(run.plan_uri, row_group, run.storage)
    fetched = fetch_recordings(parse_recordings(rows), dict(pointer.get("secret_uris") or ()), run)
    yield from decode_recordings(fetched, run, task_id, row_group, to_stream_bytes(rows), is_committed)


def _failed_part(task_id: str, row_group: int, part_index: int, error: str) -> pa.Table:
    """Returns the last part of a task that could not be decoded."""
    row = {
        **{"task_id": task_id, "row_group": row_group, "part_index": part_index, "is_last": True},
        **{"already_committed": False, "error": error},
        **{"decoded": [], "recordings": None, "decode_s": 0.0, "chunks": [], "pcm": b""},
    }
    return pa.Table.from_pylist([row], schema=PART)


def fetch_recordings(
    recordings: Sequence[Recording], secret_uris: Mapping[int, str], run: Run
) -> Iterator[tuple[Recording, FetchResult]]:
    """Yields each recording with its local file, in order, while the next files are fetched.

    Args:
        recordings: The recordings; those of one unit (`location.read_unit_key`) follow one another.
        secret_uris: By position in `recordings`, the complete URI of a recording whose own URI is redacted.
        run: The run.
    """
    config = run.config
    with temporary_copies_folder() as folder:
        files = prefetch_files(
            recordings,
            secret_uris,
            folder,
            run.storage,
            config.storage.fetch_threads,
            config.resources.decoder_timeout_s,
        )
        yield from zip(recordings, files, strict=True)


def decode_recordings(
    fetched: Iterable[tuple[Recording, FetchResult]],
    run: Run,
    task_id: str = "",
    row_group: int = 0,
    planned: bytes | None = None,
    already_committed: bool = False,
) -> Iterator[pa.Table]:
    """Decodes the recordings of one task and cuts them into chunks.

    Args:
        fetched: Each recording with its local file, or the reason why it could not be fetched.
        run: The run; its plan and its output are not used.
        task_id: Column `task_id` of the parts.
        row_group: Column `row_group` of the parts.
        planned: Column `recordings` of the last part.
        already_committed: Column `already_committed` of the parts.

    Yields:
        Tables of one row of PART. A recording's number in them is its position in `fetched`.
    """
    part = _PartBuilder(task_id, row_group, planned, already_committed)
    for row, (recording, file) in enumerate(fetched):
        for chunk in _chunks(row, recording, file, part, run):
            if part.num_samples and part.num_samples + len(chunk.pcm) > run.part_audio_s * SAMPLE_RATE:
                yield part.finish(is_last=False)
            part.add(chunk)
    yield part.finish(is_last=True)


@lru_cache(maxsize=1)
def shared_decoder(memory_mb: int, timeout_s: float, max_duration_s: float) -> SubprocessDecoder:
    """Returns the decoder subprocess of this worker process, which all of its tasks share."""
    return SubprocessDecoder(memory_mb, timeout_s, max_duration_s)


def get_decoder(config: Config) -> SubprocessDecoder:
    """Returns this process' decoder, with the limits of a run."""
    resources = config.resources
    return shared_decoder(resources.decoder_memory_mb, resources.decoder_timeout_s, config.input.max_duration_s)


def decode_recording_spans(
    recording: Recording,
    fetched: Path,
    spans: Sequence[Span],
    channels: str,
    config: Config,
    ended: Callable[[DecodeResult], None],
) -> Iterator[PCM16]:
    """Decodes spans of a recording that was transcribed, in the same way as then (audio/segments.py).

    `channels`: the `input.channels` of that run.
    """
    pieces = get_decoder(config).decode(str(fetched), display_name(recording), audio_segment_for(recording, channels))
    return extract_spans(iter_pcm(pieces, ended), spans)


def _chunks(row: int, recording: Recording, fetched: FetchResult, part: "_PartBuilder", run: Run) -> Iterator[Chunk]:
    """Yields the chunks of one recording, and adds the result of its decoding to `part`."""
    language, known = _language(recording, run)
    decoding = run.config.decoding
    num_detection_chunks = None if decoding.language_per == "chunk" else decoding.language_detection_chunks
    part.begin(row, language, recording.prompt, num_detection_chunks)
    if not known:
        message = f"{display_name(recording)}: {_language_error(recording, run)}"
        part.end(DecodeResult(0, ErrorKind.UNSUPPORTED_LANGUAGE, message, ()))
        return
    if isinstance(fetched, StorageError):
        part.end(DecodeResult(0, fetched.kind, str(fetched), ()))
        return
    chunker = make_chunker(run.chunking.strategy, run.chunking.sizes, dict(run.chunking.settings))
    result = DecodeResult(0, ErrorKind.INTERNAL, f"{display_name(recording)}: the decoder returned no result", ())
    cut = audio_segment_for(recording, run.config.input.channels)
    for piece in get_decoder(run.config).decode(str(fetched), display_name(recording), cut):
        if isinstance(piece, DecodeResult):
            result = piece
        else:
            yield from chunker.push(piece)
    yield from chunker.finish()
    part.end(result)


def _language(recording: Recording, run: Run) -> tuple[str | None, bool]:
    """Returns (language to transcribe in, None to detect it; True if the recognizer supports that)."""
    setting = run.config.decoding.language
    language = recording.language if setting == "auto" else setting
    if language is None:
        choices = run.detectable_languages
        language = choices[0] if len(choices) == 1 else None
        return language, language is not None or run.detects_language
    code = match_language_code(language, run.languages)
    return code, code is not None


def _language_error(recording: Recording, run: Run) -> str:
    if recording.language is None:
        return (
            f"its language is not given, and model.recognizer={run.config.model.recognizer} detects none; set"
            " decoding.language, or give a language in the manifest"
        )
    only = " (it is English-only)" if run.languages == ("en",) else ""
    return f"language '{recording.language}' is not one that {run.config.model.name} knows{only}"


class _PartBuilder:
    """The part being filled, and the recording being decoded into it."""

    def __init__(self, task_id: str, row_group: int, planned: bytes | None, already_committed: bool) -> None:
        self._head = {"task_id": task_id, "row_group": row_group, "already_committed": already_committed}
        self._planned = planned
        self._part_index = 0
        self._detection_chunks: list[Chunk] = []  # of the current recording, chosen when its first part was full
        self._reset()

    def _reset(self) -> None:
        self.num_samples = 0
        self._chunks: list[dict[str, Any]] = []
        self._pcm: list[np.ndarray[Any, np.dtype[np.int16]]] = []
        self._decoded: list[dict[str, Any]] = []
        self._candidates: list[tuple[Chunk, dict[str, Any]]] = []
        self._started = time.monotonic()

    def begin(self, row: int, language: str | None, prompt: Prompt | None, num_detection_chunks: int | None) -> None:
        """Begins the recording at `row` of its task: the chunks that follow belong to it.

        `num_detection_chunks`: of the recording's language; None where each chunk has a language of its own.
        """
        self._row, self._language, self._num_detection_chunks = row, language, num_detection_chunks
        self._prompt = None if prompt is None else asdict(prompt)
        self._num_chunks = 0
        self._detection_chunks = []
        self._candidates = []

    def add(self, chunk: Chunk) -> None:
        if self._detection_chunks and not self._candidates:
            for chosen in self._detection_chunks:
                self._append(replace(chosen, pcm=loudest_stretch(chosen.pcm)), detection_only=True)
        entry = self._append(chunk, detection_only=False)
        self._num_chunks += 1
        self._candidates.append((chunk, entry))

    def end(self, result: DecodeResult) -> None:
        """Adds the result of the current recording."""
        self._mark_detection_chunks()
        self._decoded.append(
            {
                "recording": self._row,
                "num_samples": result.num_samples,
                "num_chunks": self._num_chunks,
                "error_kind": result.error_kind,
                "error": result.error,
                "quality_flags": list(result.quality_flags),
            }
        )

    def finish(self, *, is_last: bool) -> pa.Table:
        """Returns the part as a table of one row, and begins a new part."""
        if not is_last:
            self._mark_detection_chunks()
        row = {
            **self._head,
            "part_index": self._part_index,
            "is_last": is_last,
            "decoded": self._decoded,
            "recordings": self._planned if is_last else None,
            "decode_s": time.monotonic() - self._started,
            "chunks": self._chunks,
            "pcm": np.concatenate(self._pcm).tobytes() if self._pcm else b"",
        }
        self._part_index += 1
        self._reset()
        return pa.Table.from_pylist([row], schema=PART)

    def _append(self, chunk: Chunk, *, detection_only: bool) -> dict[str, Any]:
        entry = {
            "recording": self._row,
            "index": chunk.index,
            "start": chunk.start,
            "offset": self.num_samples,
            "num_samples": len(chunk.pcm),
            "stride_left": chunk.stride_left,
            "stride_right": chunk.stride_right,
            "language": self._language,
            "detects_language": detection_only or (self._language is None and self._num_detection_chunks is None),
            "detection_only": detection_only,
            "prompt": self._prompt,
        }
        self._chunks.append(entry)
        self._pcm.append(chunk.pcm)
        self.num_samples += len(chunk.pcm)
        return entry

    def _mark_detection_chunks(self) -> None:
        """Marks chunks of the recording's first part for language detection, and keeps them for its later parts."""
        if self._language is not None or self._num_detection_chunks is None or self._detection_chunks:
            return
        marked = [
            self._candidates[i]
            for i in choose_detection_chunks([chunk.pcm for chunk, _ in self._candidates], self._num_detection_chunks)
        ]
        for _, entry in marked:
            entry["detects_language"] = True
        self._detection_chunks = [chunk for chunk, _ in marked]
