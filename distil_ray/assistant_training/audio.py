"""Decodes the audio of training chunks: from selected rows of transcripts to tables of PCM.

A recording is fetched and decoded as in a run (`readers/fetch.py`, `audio/subprocess_decoder.py`) and cut at the chunk
boundaries of its row. Audio that is no longer available is skipped with a warning. Tables are small, so that they can
be streamed.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from distil_ray.assistant_training.label_set_examples import load_labeled_audio
from distil_ray.assistant_training.training_examples import Row, RowSelection, TrainingChunk, read_rows, training_chunks
from distil_ray.audio.pcm import DecodeResult
from distil_ray.config import Config
from distil_ray.pipeline.decode_stage import decode_recording_spans
from distil_ray.pipeline.model_setup import StorageFolderReader
from distil_ray.readers.fetch import FetchResult, prefetch_files
from distil_ray.schema import parse_recording
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.checkpoint import load_checkpoint_info
from distil_ray.whisper.tokenizer import Tokens

logger = logging.getLogger(__name__)

TABLE_AUDIO_S = 120.0  # seconds of audio in a table: 4 MB

# A row per chunk. `pcm`: int16, 16 kHz mono; `tokens`: without prompt and end token; `window_s`: the window of the run.
AUDIO_SCHEMA = pa.schema(
    [
        ("recording_id", pa.string()),
        ("language", pa.string()),
        ("text", pa.string()),  # of the whole recording, in the row of its first chunk only; so is the reference
        ("reference", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("window_s", pa.float64()),
        ("pcm", pa.large_binary()),
    ]
)


def decode_training_audio(selections: pa.Table, config: Config) -> Iterator[pa.Table]:
    """Yields tables of `AUDIO_SCHEMA` with about `TABLE_AUDIO_S` of audio each.

    Args:
        selections: A table of `selections_to_table`.
        config: Settings of the training.
    """
    storage = Storage(config.storage)
    pending: list[Row] = []
    num_samples = 0
    for selection in selections.to_pylist():
        for row in _iter_audio_rows(RowSelection(selection["uri"], tuple(selection["rows"])), config, storage):
            pending.append(row)
            num_samples += len(row["pcm"]) // 2
            if num_samples >= TABLE_AUDIO_S * SAMPLE_RATE:
                yield pa.Table.from_pylist(pending, schema=AUDIO_SCHEMA)
                pending, num_samples = [], 0
    yield pa.Table.from_pylist(pending, schema=AUDIO_SCHEMA)


def _iter_audio_rows(selection: RowSelection, config: Config, storage: Storage) -> Iterator[Row]:
    """Yields rows from transcripts, or from the pseudo-label data set `assistant.labels_uri` if it is set."""
    if config.assistant.labels_uri is None:
        return _iter_transcript_audio(selection, config, storage)
    model = config.model
    return load_labeled_audio(
        selection, _load_tokens(model.name, model.revision, model.cache_dir, storage), config, storage
    )


def _load_tokens(name: str, revision: str | None, cache_dir: str | None, storage: Storage) -> Tokens:
    return Tokens.load(load_checkpoint_info(name, revision, cache_dir, StorageFolderReader(storage)).config_dir)


def _iter_transcript_audio(selection: RowSelection, config: Config, storage: Storage) -> Iterator[Row]:
    rows = list(read_rows(selection, storage))
    recordings = [parse_recording(row) for row in rows]
    with tempfile.TemporaryDirectory(prefix="distil-ray-") as folder:
        files = prefetch_files(recordings, {}, Path(folder), storage, config.storage.fetch_threads)
        for row, fetched in zip(rows, files, strict=True):
            yield from _iter_chunk_audio(row, fetched, config)


def _iter_chunk_audio(row: Row, fetched: FetchResult, config: Config) -> Iterator[Row]:
    """Yields the chunks of a transcript whose audio still has the same number of samples."""
    recording, chunks = parse_recording(row), training_chunks(row)
    if isinstance(fetched, StorageError):
        logger.warning("skipped a recording: %s", fetched)
        return
    outcomes: list[DecodeResult] = []
    spans = [(one.start, one.end) for one in chunks]
    decoded = decode_recording_spans(recording, fetched, spans, config.input.channels, config, outcomes.append)
    for chunk, pcm in zip(chunks, decoded, strict=True):
        if len(pcm) == chunk.end - chunk.start:
            yield _audio_row(row, chunk, pcm.tobytes(), is_first=chunk is chunks[0])
    if outcomes and outcomes[0].error_kind is not None:
        logger.warning("skipped the chunks of a recording that could not be decoded: %s", outcomes[0].error)


def _audio_row(row: Mapping[str, Any], chunk: TrainingChunk, pcm: bytes, *, is_first: bool) -> Row:
    """Returns a row of `AUDIO_SCHEMA`."""
    texts = {name: row[name] if is_first else None for name in ("text", "reference")}
    values = {"tokens": list(chunk.tokens), "window_s": chunk.window_s, "pcm": pcm}
    return {"recording_id": row["recording_id"], "language": chunk.language, **texts, **values}


def selections_to_table(selections: Sequence[RowSelection]) -> pa.Table:
    """Returns selections as a table, the input of `decode_training_audio`."""
    return pa.table({"uri": [one.uri for one in selections], "rows": [list(one.rows) for one in selections]})
