"""The task that writes one shard: planned examples in, a Parquet file with audio out.

The recordings of the examples are fetched and decoded again, in the same way as for their transcription, and each span
is cut out of the decoded stream, so text and audio match to the sample. In memory are the spans of one recording and
one example, and one row group of finished examples. The file appears when it is complete, and any worker may write it
again without duplicates. Examples whose audio cannot be read are added to the rejected rows, and the next build retries
them.
"""

import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distil_ray.audio.encode import open_flac_writer
from distil_ray.audio.pcm import PCM16, DecodeResult
from distil_ray.config import Config
from distil_ray.pipeline.decode_stage import decode_recording_spans
from distil_ray.pseudo_labels.dataset_schema import DATA, EXAMPLE, REJECTED, SETTINGS_KEY, Row
from distil_ray.pseudo_labels.existing_dataset import AUDIO_MISSING, encode_rejected, rejected_uri
from distil_ray.readers.audio_formats import audio_extension
from distil_ray.readers.fetch import FetchResult, prefetch_files
from distil_ray.readers.location import describe_read_error, display_name, iter_audio_problems
from distil_ray.schema import open_parquet, parse_recording
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join
from distil_ray.types import SAMPLE_RATE, Recording

GROUP_ROWS = 64  # examples in a row group: 32 minutes of FLAC at most, 32 MB


@dataclass(frozen=True, slots=True)
class ShardContext:
    """The settings and locations that every task of a build needs."""

    config: Config
    dataset_uri: str
    plan_uri: str
    settings: str  # of the data set, as JSON; goes into the files' metadata

    @property
    def storage(self) -> Storage:
        return Storage(self.config.storage)


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The result of a shard. The audio of `num_lost` examples could not be read; `why` is the error of one of them."""

    name: str
    num_examples: int
    audio_s: float
    num_lost: int = 0
    why: str | None = None


@dataclass(frozen=True, slots=True)
class AudioSpan:
    """A span of a recording: its samples, and its file, with the extension of its format (without a dot)."""

    pcm: PCM16
    path: Path
    extension: str


AudioSpanOrError = AudioSpan | str  # or the reason why it could not be read


def make_shard(name: str, work: ShardContext) -> ShardResult:
    """Writes one shard of the plan, unless it exists."""
    storage = work.storage
    with storage.open(join(work.plan_uri, name)) as file:
        planned = open_parquet(file).read().to_pylist()
    target = join(work.dataset_uri, DATA, name)
    if storage.stat(target) is not None:
        return ShardResult(name, len(planned), sum(row["duration_s"] for row in planned))
    lost: list[tuple[Row, str]] = []
    examples = _with_audio(planned, work, lost)
    first = next(examples, None)
    made: list[float] = []
    if first is not None:
        with storage.create(target) as sink:
            _write(first, examples, sink, work.settings, made)
    if lost:
        table = pa.Table.from_pylist([row for planned, why in lost for row in _rejected(planned, why)], schema=REJECTED)
        uri = rejected_uri(work.dataset_uri, work.settings, table["utterance_source"].to_pylist(), AUDIO_MISSING)
        storage.put(uri, encode_rejected(table, work.settings))
    return ShardResult(name, len(made), sum(made), len(lost), lost[0][1] if lost else None)


def _write(first: Row, others: Iterator[Row], sink: Any, settings: str, made: list[float]) -> None:
    """Writes examples in row groups; appends the duration of each to `made`, in seconds."""
    schema = EXAMPLE.with_metadata({**EXAMPLE.metadata, SETTINGS_KEY: settings})
    plain = [name for name in EXAMPLE.names if name != "audio"]
    with pq.ParquetWriter(
        sink, schema, compression="zstd", use_dictionary=plain, write_page_checksum=True, write_page_index=True
    ) as writer:
        group = [first]
        for example in others:
            if len(group) == GROUP_ROWS:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                made += [row["duration_s"] for row in group]
                group = []
            group.append(example)
        writer.write_table(pa.Table.from_pylist(group, schema=schema))
        made += [row["duration_s"] for row in group]


def _with_audio(planned: Sequence[Row], work: ShardContext, lost: list[tuple[Row, str]]) -> Iterator[Row]:
    """Yields the examples with their audio, in order; those whose audio cannot be read go to `lost`."""
    decoded = _read_spans([piece for row in planned for piece in row["pieces"]], work)
    for row in planned:
        spans = [next(decoded) for _ in row["pieces"]]
        errors = [span for span in spans if isinstance(span, str)]
        if errors:
            lost.append((row, errors[0]))
            continue
        whole = [span for span in spans if isinstance(span, AudioSpan)]
        example = {name: row[name] for name in EXAMPLE.names if name != "audio"}
        yield example | {"audio": _audio(row, whole, work.config.labels.audio_format)}


def _audio(row: Row, spans: Sequence[AudioSpan], audio_format: str) -> Row:
    if audio_format == "original" and len(spans) == 1 and row["pieces"][0]["is_whole"]:
        return {"bytes": spans[0].path.read_bytes(), "path": f"{row['id']}.{spans[0].extension}"}
    sink = io.BytesIO()
    with open_flac_writer(sink) as write:
        write(np.concatenate([span.pcm for span in spans]))
    return {"bytes": sink.getvalue(), "path": f"{row['id']}.flac"}


def _read_spans(pieces: Sequence[Row], work: ShardContext) -> Iterator[AudioSpanOrError]:
    """Yields the audio of each span, in order. A recording is read once for all of its consecutive spans."""
    together = [list(some) for _, some in groupby(pieces, key=_identity)]
    recordings = [parse_recording(some[0]) for some in together]
    storage, config = work.storage, work.config
    changed = list(iter_audio_problems(recordings, storage))
    wanted = [recording for recording, why in zip(recordings, changed, strict=True) if why is None]
    with tempfile.TemporaryDirectory(prefix="distil-ray-labels-") as folder:
        files = prefetch_files(wanted, {}, Path(folder), storage, config.storage.fetch_threads)
        for some, recording, why in zip(together, recordings, changed, strict=True):
            if why is not None:
                yield from (why for _ in some)
            else:
                yield from _decode_spans(some, recording, next(files), config)


def _decode_spans(
    pieces: Sequence[Row], recording: Recording, fetched: FetchResult, config: Config
) -> Iterator[AudioSpanOrError]:
    if isinstance(fetched, StorageError):
        yield from (describe_read_error(fetched) for _ in pieces)
        return
    outcomes: list[DecodeResult] = []
    spans = [(piece["start"], piece["start"] + piece["num_samples"]) for piece in pieces]
    known = audio_extension(recording, fetched)
    decoded = decode_recording_spans(recording, fetched, spans, pieces[0]["channels"], config, outcomes.append)
    for piece, pcm in zip(pieces, decoded, strict=True):
        if len(pcm) == piece["num_samples"]:
            yield AudioSpan(pcm, fetched, known)
        else:
            error = outcomes[0].error if outcomes and outcomes[0].error else "it is shorter than it was"
            yield f"its audio cannot be decoded as it was: {error}"


def _identity(piece: Row) -> tuple[Any, ...]:
    location = piece["location"]
    return piece["recording_id"], piece["uri"], tuple(location.values()) if location else None


def _rejected(row: Row, why: str) -> Iterator[Row]:
    """Yields the utterances of an example without audio as rows of `REJECTED`."""
    utterances = zip(row["utterance_ids"], row["utterance_sources"], row["pieces"], strict=True)
    for name, source, piece in utterances:
        yield {
            "id": name,
            "utterance_source": source,
            "reasons": ["audio"],
            "error": f"{display_name(parse_recording(piece))}: {why}",
            "is_final": False,
            **{key: row[key] for key in ("speaker", "language", "license")},
            **{key: piece[key] for key in ("recording_id", "uri")},
            "start_s": piece["start"] / SAMPLE_RATE,
            "duration_s": piece["num_samples"] / SAMPLE_RATE,
        }
