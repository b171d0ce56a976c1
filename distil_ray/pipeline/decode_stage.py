"""Tasks of the plan in, parts of PCM16 cut into chunks out: the CPU half of the work.

A task is decoded recording by recording, each in the decoder's child process, and leaves in parts of at most
`plan.part_audio_s`, so a ten-hour recording takes the memory of one part. While one recording is decoded the next are
fetched to local disk. A task that the output holds already is not decoded again (a retry after a node's death): a
part without audio says so. Nothing is raised for what is wrong with a recording; that becomes its `DECODED` entry.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distil_ray.audio.pcm import PCM16, DecodeResult
from distil_ray.audio.segments import Span, extract_spans, iter_pcm
from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.chunking.base import Chunk, make_chunker
from distil_ray.config import Config
from distil_ray.errors import ErrorKind
from distil_ray.languages import code_among
from distil_ray.output.run_context import Run
from distil_ray.pipeline.planner import read_task
from distil_ray.readers.channels import audio_segment_for
from distil_ray.readers.fetch import FetchResult, prefetch_files
from distil_ray.readers.location import display_name
from distil_ray.schema import PART
from distil_ray.storage.storage import StorageError
from distil_ray.types import SAMPLE_RATE, Recording

QUIET_FRACTION = 0.01  # of the energy of the loudest chunk (20 dB): below it there may be nobody speaking


def decode_tasks(tasks: pa.Table, run: Run) -> Iterator[pa.Table]:
    """Rows of `POINTER` (`secret_uris` may be missing) to rows of `PART`, one yield a part."""
    for pointer in tasks.to_pylist():
        yield from _decode_task(pointer["task_id"], pointer["row_group"], dict(pointer.get("secret_uris") or ()), run)


def _decode_task(task_id: str, row_group: int, secret_uris: Mapping[int, str], run: Run) -> Iterator[pa.Table]:
    part = _PartBuilder(task_id, row_group)
    if run.storage.stat(run.task_uri(task_id)) is not None:
        yield part.finish(is_last=True, already_committed=True)
        return
    recordings = read_task(run.plan_uri, row_group, run.storage)
    config = run.config
    with tempfile.TemporaryDirectory(prefix="distil-ray-", ignore_cleanup_errors=True) as folder:
        files = prefetch_files(
            recordings,
            secret_uris,
            Path(folder),
            run.storage,
            config.storage.fetch_threads,
            config.resources.decoder_timeout_s,
        )
        for row, (recording, fetched) in enumerate(zip(recordings, files, strict=True)):
            for chunk in _chunks(row, recording, fetched, part, run):
                if part.num_samples and part.num_samples + len(chunk.pcm) > run.config.plan.part_audio_s * SAMPLE_RATE:
                    yield part.finish(is_last=False)
                part.add(chunk)
    yield part.finish(is_last=True)


@lru_cache(maxsize=1)
def shared_decoder(memory_mb: int, timeout_s: float, max_duration_s: float) -> SubprocessDecoder:
    """One child a worker process, for all the tasks that the process decodes."""
    return SubprocessDecoder(memory_mb, timeout_s, max_duration_s)


def get_decoder(config: Config) -> SubprocessDecoder:
    """The process' decoder, with a run's limits."""
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
    """Spans of a recording that was transcribed, decoded once more by the way it was then (audio/segments.py).

    `channels`: the `input.channels` of that run.
    """
    pieces = get_decoder(config).decode(str(fetched), display_name(recording), audio_segment_for(recording, channels))
    return extract_spans(iter_pcm(pieces, ended), spans)


def _chunks(row: int, recording: Recording, fetched: FetchResult, part: "_PartBuilder", run: Run) -> Iterator[Chunk]:
    """The chunks of one recording; notes in `part` how its decoding ended."""
    language, known = _language(recording, run)
    part.begin(row, language, run.config.decoding.language_detection_chunks)
    if not known:
        message = f"{display_name(recording)}: {_language_error(recording, run)}"
        part.end(DecodeResult(0, ErrorKind.UNSUPPORTED_LANGUAGE, message, ()))
        return
    if isinstance(fetched, StorageError):
        part.end(DecodeResult(0, fetched.kind, str(fetched), ()))
        return
    chunker = make_chunker(run.chunking.strategy, run.chunking.sizes)
    outcome = DecodeResult(0, ErrorKind.INTERNAL, f"{display_name(recording)}: the decoder gave no outcome", ())
    cut = audio_segment_for(recording, run.config.input.channels)
    for piece in get_decoder(run.config).decode(str(fetched), display_name(recording), cut):
        if isinstance(piece, DecodeResult):
            outcome = piece
        else:
            yield from chunker.push(piece)
    yield from chunker.finish()
    part.end(outcome)


def _language(recording: Recording, run: Run) -> tuple[str | None, bool]:
    """(language to transcribe with, None to detect it; whether the checkpoint can do it)."""
    setting = run.config.decoding.language
    language = recording.language if setting == "auto" else setting
    if language is None:
        language = run.languages[0] if len(run.languages) == 1 else None
        return language, language is not None or run.detects_language
    code = code_among(language, run.languages)
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

    def __init__(self, task_id: str, row_group: int) -> None:
        self._head = {"task_id": task_id, "row_group": row_group}
        self._part_index = 0
        self._voices: list[Chunk] = []  # of the current recording, chosen when its first part was full
        self._reset()

    def _reset(self) -> None:
        self.num_samples = 0
        self._chunks: list[dict[str, Any]] = []
        self._pcm: list[np.ndarray[Any, np.dtype[np.int16]]] = []
        self._decoded: list[dict[str, Any]] = []
        self._candidates: list[tuple[Chunk, dict[str, Any]]] = []
        self._started = time.monotonic()

    def begin(self, row: int, language: str | None, votes: int) -> None:
        """The chunks that follow belong to the recording at `row` of its task."""
        self._row, self._language, self._votes = row, language, votes
        self._num_chunks = 0
        self._voices = []
        self._candidates = []

    def add(self, chunk: Chunk) -> None:
        if self._voices and not self._candidates:
            for voice in self._voices:
                self._append(voice, detection_only=True)
        entry = self._append(chunk, detection_only=False)
        self._num_chunks += 1
        self._candidates.append((chunk, entry))

    def end(self, outcome: DecodeResult) -> None:
        """The current recording has been decoded, well or not."""
        self._elect()
        self._decoded.append(
            {
                "recording": self._row,
                "num_samples": outcome.num_samples,
                "num_chunks": self._num_chunks,
                "error_kind": outcome.error_kind,
                "error": outcome.error,
                "quality_flags": list(outcome.quality_flags),
            }
        )

    def finish(self, *, is_last: bool, already_committed: bool = False) -> pa.Table:
        """The part as a table of one row; a new one is begun."""
        if not is_last:
            self._elect()
        row = {
            **self._head,
            "part_index": self._part_index,
            "is_last": is_last,
            "already_committed": already_committed,
            "decoded": self._decoded,
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
            "detects_language": detection_only,
            "detection_only": detection_only,
        }
        self._chunks.append(entry)
        self._pcm.append(chunk.pcm)
        self.num_samples += len(chunk.pcm)
        return entry

    def _elect(self) -> None:
        """Lets chunks of the recording's first part vote, and keeps them for its later parts."""
        if self._language is not None or self._voices:
            return
        voters = [
            self._candidates[i]
            for i in choose_detection_chunks([chunk.pcm for chunk, _ in self._candidates], self._votes)
        ]
        for _, entry in voters:
            entry["detects_language"] = True
        self._voices = [chunk for chunk, _ in voters]


def choose_detection_chunks(chunks: Sequence[PCM16], votes: int) -> list[int]:
    """Returns which of the chunks, in the order of time, vote on the language of their recording.

    Spread over the recording, so that a change of language is heard: the chunks that are not far quieter than the
    loudest are divided into as many stretches as there are votes, and the loudest of each stretch votes.
    """
    energies = [float(np.mean(np.square(pcm, dtype=np.float32))) for pcm in chunks]
    loud = [i for i, energy in enumerate(energies) if energy >= max(energies) * QUIET_FRACTION]
    bounds = [len(loud) * number // votes for number in range(votes + 1)]
    stretches = [loud[begin:end] for begin, end in pairwise(bounds)]
    return [max(stretch, key=energies.__getitem__) for stretch in stretches if stretch]
