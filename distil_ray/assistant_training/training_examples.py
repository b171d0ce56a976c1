"""Selection of training examples from an output: chunks to train on, and held-out chunks.

A chunk is selected if the main model chose its text greedily: the row is current and of the same checkpoint, the
recording was decoded to its end, and the chunk has words, no fallback temperature and no flag of unreliable text.
Held-out data is chosen by a hash of the speaker or of the file, so it stays the same when data is added.

The driver holds only the numbers of the selected rows of each file; tasks read the files again.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distil_ray.config import AssistantConfig
from distil_ray.errors import SettingsError
from distil_ray.evaluation.statistics import SPEAKER
from distil_ray.output.ledger import Ledger
from distil_ray.output.ledger_rows import current_rows
from distil_ray.output.reader import open_transcripts
from distil_ray.recognition import quality_flags
from distil_ray.schema import parse_chunk_language, parse_location, parse_metadata
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE, Status

MIN_SPEAKERS = 20  # with fewer, hold_out_by=auto is recording: a tenth of few speakers may be none
BATCH_ROWS = 256  # of a file in memory at once
EXCLUDED_FLAGS = frozenset({quality_flags.SILENT_AUDIO, quality_flags.NO_SPEECH, *quality_flags.UNRELIABLE_TEXT_FLAGS})
COLUMNS = (
    *("recording_id", "uri", "source_size", "source_version", "location", "status", "language", "reference", "text"),
    *("metadata", "model", "chunks"),
)

Row = dict[str, Any]
Files = dict[str, NDArray[np.int32]]  # row numbers by the URI of their file


@dataclass(frozen=True, slots=True)
class TrainingChunk:
    """A chunk to train on: samples `start` to `end` of its recording, the code of its language (None: unknown), its
    tokens, and the window length in seconds."""

    start: int
    end: int
    language: str | None
    tokens: tuple[int, ...]
    window_s: float


@dataclass(frozen=True, slots=True)
class RowSelection:
    """Numbers of selected rows of a data file, which a task reads."""

    uri: str
    rows: tuple[int, ...]


@dataclass(slots=True)
class TrainingData:
    """Selected training data.

    Attributes:
        train: Rows to train on.
        held_out: Rows for evaluation.
        train_s: Seconds of audio in `train`.
        held_out_s: Seconds of audio in `held_out`.
        hold_out_by: Unit of held-out data: speaker, recording, or split (of a pseudo-label data set).
        models: Numbers of rows by the identity of their model.
        left_out: Numbers of recordings that are not used, by reason.
        token_ids: All token ids in `train`.
        versions: Of the files of a pseudo-label data set, which may be written again under the same names.
    """

    train: list[RowSelection] = field(default_factory=list)
    held_out: list[RowSelection] = field(default_factory=list)
    train_s: float = 0.0
    held_out_s: float = 0.0
    hold_out_by: str = "recording"
    models: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    token_ids: set[int] = field(default_factory=set)
    versions: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Returns a hash of the selected rows, and of the versions of their files."""
        rows = ascii([*((each.uri, each.rows) for each in (*self.train, *self.held_out)), *self.versions])
        return hashlib.blake2b(rows.encode(), digest_size=8).hexdigest()


def select_training_data(
    ledger: Ledger,
    identity: str,
    settings: AssistantConfig,
    hold_out_by: str | None,
    storage: Storage,
    partition: str | None = None,
) -> TrainingData:
    """Selects rows of an output, reading its files in the order of their hash until there is enough audio.

    Args:
        ledger: Ledger of the output.
        identity: Identity of the main model's checkpoint.
        settings: Settings of the training.
        hold_out_by: Unit of held-out data of the current assistant (speaker or recording); None to decide here. For
            auto, it is recording if there are few speakers or none of them is held out.
        storage: Storage of the output.
        partition: Folder of the transcripts to train on; None for all. Held-out rows come from this folder first, then
            from the rest of the output.

    Raises:
        SettingsError: No row of the checkpoint, too little audio, or no held-out audio.
    """
    files = _current_rows_by_file(ledger)
    unit = hold_out_by or _resolve_hold_out_by(settings, files, storage)
    data = _select(files, unit, identity, settings, storage, partition)
    if not data.held_out and unit == "speaker" and hold_out_by is None and settings.hold_out_by == "auto":
        data = _select(files, "recording", identity, settings, storage, partition)
    require_enough(data, identity, settings)
    return data


def _current_rows_by_file(ledger: Ledger) -> Files:
    """Returns the numbers of the current rows of each file, sorted; the files are in the order of their hash."""
    rows = current_rows(ledger)
    rows = rows[np.lexsort((ledger.row[rows], ledger.file[rows]))]
    numbers, begins = np.unique(ledger.file[rows], return_index=True)
    parts = np.split(ledger.row[rows], begins[1:])
    found = {ledger.files[number]: part for number, part in zip(numbers, parts, strict=False)}
    return dict(sorted(found.items(), key=lambda pair: _hash_fraction(pair[0], 0)))


def _select(
    files: Files, hold_out_by: str, identity: str, settings: AssistantConfig, storage: Storage, partition: str | None
) -> TrainingData:
    """Returns the selected rows, of which some are held out by `hold_out_by`."""
    data = TrainingData(hold_out_by=hold_out_by)
    inside, others = list[str](), list[str]()
    for uri in files:
        (inside if partition is None or uri.startswith(f"{partition}/") else others).append(uri)
    for uri in inside:
        if data.train_s >= settings.max_audio_s and data.held_out:
            break
        _add_file(data, uri, files[uri], identity, settings, storage)
    # infinite training audio: only held-out rows are added
    beyond = TrainingData(hold_out_by=hold_out_by, train_s=np.inf, held_out_s=data.held_out_s)
    for uri in others:
        if beyond.held_out_s >= settings.held_out_s:
            break
        _add_file(beyond, uri, files[uri], identity, settings, storage)
    data.held_out += beyond.held_out
    data.held_out_s = beyond.held_out_s
    return data


def read_rows(selection: RowSelection, storage: Storage, columns: Sequence[str] = COLUMNS) -> Iterator[Row]:
    """Yields the selected rows of a file, in order."""
    wanted = np.array(selection.rows, np.int64)
    start = 0
    with open_transcripts(selection.uri, storage) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns):
            selected = slice(*np.searchsorted(wanted, (start, start + batch.num_rows)))
            yield from batch.take(wanted[selected] - start).to_pylist()
            start += batch.num_rows


def training_chunks(row: Row) -> list[TrainingChunk]:
    """Returns the chunks of a transcript that can be trained on."""
    return [
        TrainingChunk(
            round(chunk["start_s"] * SAMPLE_RATE),
            round(chunk["end_s"] * SAMPLE_RATE),
            parse_chunk_language(row, chunk),
            tuple(chunk["tokens"]),
            chunk["window_s"],
        )
        for chunk in row["chunks"] or ()
        if chunk["tokens"] and not chunk["temperature"] and EXCLUDED_FLAGS.isdisjoint(chunk["quality_flags"] or ())
    ]


def is_held_out(row: Row, hold_out_by: str, settings: AssistantConfig) -> bool:
    """Returns whether a row is held out: by its speaker, or by its file if the speaker is unknown."""
    location = parse_location(row["location"])
    file = f"{row['uri']} {location.member if location else None} {location.row_group if location else None}"
    group = parse_metadata(row).get(SPEAKER) if hold_out_by == "speaker" else None
    return _hash_fraction(group or file, settings.seed) < settings.held_out_share


def _add_file(
    data: TrainingData, uri: str, rows: NDArray[np.int32], identity: str, settings: AssistantConfig, storage: Storage
) -> None:
    """Adds the rows of a file to the training and held-out rows."""
    train: list[int] = []
    held_out: list[int] = []
    everything = RowSelection(uri, tuple(rows.tolist()))
    for number, row in zip(everything.rows, read_rows(everything, storage), strict=True):
        data.models[row["model"]] += 1
        chunks = training_chunks(row)
        if reason := _exclusion_reason(row, chunks, identity):
            data.left_out[reason] += 1
            continue
        seconds = sum(chunk.end - chunk.start for chunk in chunks) / SAMPLE_RATE
        if not is_held_out(row, data.hold_out_by, settings):
            if data.train_s >= settings.max_audio_s:
                continue
            train.append(number)
            data.train_s += seconds
            data.token_ids.update(token for chunk in chunks for token in chunk.tokens)
        elif data.held_out_s < settings.held_out_s:
            held_out.append(number)
            data.held_out_s += seconds
    data.train += [RowSelection(uri, tuple(train))] if train else []
    data.held_out += [RowSelection(uri, tuple(held_out))] if held_out else []


def _exclusion_reason(row: Row, chunks: Sequence[TrainingChunk], identity: str) -> str | None:
    if row["model"] != identity:
        return "other model"
    if row["status"] not in (Status.OK, Status.DOUBTFUL):  # unreliable chunks of a doubtful row are left out
        return f"status {row['status']}"
    return None if chunks else "no reliable chunk"


def require_enough(data: TrainingData, identity: str, settings: AssistantConfig) -> None:
    """Raises `SettingsError` without a row of the checkpoint `identity`, enough audio, and held-out audio."""
    if data.models and identity not in data.models:
        found = ", ".join(f"{name} ({rows:,} rows)" for name, rows in data.models.most_common(3))
        raise SettingsError(
            f"model.name is {identity}, but the transcripts were made by {found}. Set model.name to that model, or"
            " transcribe with this one first"
        )
    found = ", ".join(f"{reason} {number:,}" for reason, number in data.left_out.most_common())
    words = f" (left out: {found})" if found else ""
    if data.train_s < settings.min_audio_s:
        raise SettingsError(
            f"assistant.min_audio_s={settings.min_audio_s:g}: there are only {data.train_s:,.0f} s of training audio"
            f"{words}. Transcribe more audio, or set it lower"
        )
    if not data.held_out:
        raise SettingsError(
            f"assistant.held_out_share={settings.held_out_share:g}: no {data.hold_out_by} is held out, so a student"
            " cannot be evaluated. Set it higher, or change assistant.seed or assistant.hold_out_by"
        )


def _resolve_hold_out_by(settings: AssistantConfig, files: Files, storage: Storage) -> str:
    """Returns `assistant.hold_out_by`; for auto, speaker if the transcripts name at least `MIN_SPEAKERS`."""
    if settings.hold_out_by != "auto":
        return settings.hold_out_by
    speakers: set[str] = set()
    for uri, rows in files.items():
        selection = RowSelection(uri, tuple(rows.tolist()))
        named = (parse_metadata(row).get(SPEAKER) for row in read_rows(selection, storage, ["metadata"]))
        speakers.update(filter(None, named))
        if len(speakers) >= MIN_SPEAKERS:
            return "speaker"
    return "recording"


def _hash_fraction(name: str, seed: int) -> float:
    """Returns a hash of a name and a seed in [0, 1), the same in every run."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
