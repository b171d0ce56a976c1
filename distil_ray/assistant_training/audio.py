"""Audio of the chunks to train on: from rows that point to transcripts to tables of PCM.

A recording is fetched and decoded as in a run (`readers/fetch.py`, `audio/subprocess_decoder.py`) and cut at the chunk
boundaries of its row. Audio that is no longer available is left out and counted; a training does not depend on a single
recording. Tables are small, so that they stream.
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

TABLE_AUDIO_S = 120.0  # seconds of audio that travel together: 4 MB

# A chunk to hear: PCM16 at 16 kHz, tokens without prompt and end token, the window that the run had, in seconds.
AUDIO_SCHEMA = pa.schema(
    [
        ("recording_id", pa.string()),
        ("language", pa.string()),
        ("text", pa.string()),  # of the whole recording, in its first chunk alone, as is the reference
        ("reference", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("window_s", pa.float64()),
        ("pcm", pa.large_binary()),
    ]
)


def decode_training_audio(selections: pa.Table, config: Config) -> Iterator[pa.Table]:
    """Rows of (uri, rows) to rows of `SOUND`, a portion a yield."""
    storage = Storage(config.storage)
    held: list[Row] = []
    num_samples = 0
    for selection in selections.to_pylist():
        for row in _iter_audio_rows(RowSelection(selection["uri"], tuple(selection["rows"])), config, storage):
            held.append(row)
            num_samples += len(row["pcm"]) // 2
            if num_samples >= TABLE_AUDIO_S * SAMPLE_RATE:
                yield pa.Table.from_pylist(held, schema=AUDIO_SCHEMA)
                held, num_samples = [], 0
    yield pa.Table.from_pylist(held, schema=AUDIO_SCHEMA)


def _iter_audio_rows(selection: RowSelection, config: Config, storage: Storage) -> Iterator[Row]:
    """Of transcripts, or of a pseudo-label data set where the settings name one."""
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
    """The chunks of one row whose sound is still what it was, as far as their number of samples tells."""
    recording, chunks = parse_recording(row), training_chunks(row)
    if isinstance(fetched, StorageError):
        logger.warning("left out: %s", fetched)
        return
    outcomes: list[DecodeResult] = []
    spans = [(one.start, one.end) for one in chunks]
    heard = decode_recording_spans(recording, fetched, spans, config.input.channels, config, outcomes.append)
    for chunk, pcm in zip(chunks, heard, strict=True):
        if len(pcm) == chunk.end - chunk.start:
            yield _audio_row(row, chunk, pcm.tobytes(), is_first=chunk is chunks[0])
    if outcomes and outcomes[0].error_kind is not None:
        logger.warning("left out as far as it could not be decoded: %s", outcomes[0].error)


def _audio_row(row: Mapping[str, Any], chunk: TrainingChunk, pcm: bytes, *, is_first: bool) -> Row:
    """A row of `SOUND`."""
    texts = {name: row[name] if is_first else None for name in ("text", "reference")}
    values = {"tokens": list(chunk.tokens), "window_s": chunk.window_s, "pcm": pcm}
    return {"recording_id": row["recording_id"], "language": row["language"], **texts, **values}


def selections_to_table(selections: Sequence[RowSelection]) -> pa.Table:
    """Pointers as `decode_lessons` takes them."""
    return pa.table({"uri": [one.uri for one in selections], "rows": [list(one.rows) for one in selections]})
