"""Counts of a run's recordings, read back from its output, a number a recording and column.

What is summed up is what is stored, never what the run remembers. Files are read one block at a time and only the
columns that are counted; of a million recordings some 60 MB of numbers stay, besides what the failed_recordings list needs.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distil_ray.output.ledger import IDENTITY, Keys, are_in, recording_keys
from distil_ray.output.reader import open_transcripts
from distil_ray.readers.parallel_map import map_ahead, threads_for
from distil_ray.schema import WORD_COUNTS, Status
from distil_ray.storage.storage import Storage

SPEAKER = "speaker"  # key of metadata that tells whose recordings are not independent
LANGUAGE = "language"  # the one group that is a column
QUARANTINE = ("recording_id", "uri", "error_kind", "error")
EXAMPLE_RANKS = (0.25, 0.75, 1.0)  # examples: a good transcript, a worse one, the worst

_COUNTS = (*WORD_COUNTS, "num_ref_chars", "char_edits")
CHOOSE_BY = (*IDENTITY, "fingerprint", "run_id", "processed_at")
_COLUMNS = [
    *(*CHOOSE_BY, "uri", "status", "error_kind", "error"),
    *("duration_s", "unheard_s", "quality_flags", LANGUAGE, "metadata", "normalizer", *_COUNTS),
]


@dataclass(frozen=True, slots=True)
class Example:
    """A transcript beside its reference, both as they were written; `wer` as a fraction."""

    recording_id: str
    reference: str
    text: str
    wer: float


@dataclass(frozen=True, slots=True)
class Labels:
    """A label of each recording: ``names[codes[i]]``, or none where the code is -1. Codes: int32."""

    codes: NDArray[np.int32]
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Tally:
    """Columns of the listed recordings that have a row, each of shape (num_recordings,).

    `scored` tells which have a reference; counts are zero elsewhere. `unheard_s` is NaN where it is not known. `quality_flags`
    counts recordings by flag. `failed_recordings` is a CSV of the failed ones.
    """

    statuses: Counter[str]
    fingerprints: Counter[str]
    duration_s: NDArray[np.float64]
    unheard_s: NDArray[np.float64]
    scored: NDArray[np.bool_]
    counts: dict[str, NDArray[np.int64]]
    labels: dict[str, Labels]
    failures: Counter[str]
    quality_flags: Counter[str]
    normalizers: Labels  # of the scored ones, by name and version
    failed_recordings: bytes
    examples: Sequence[Example]


Choice = Callable[[pa.Table], pa.Table]  # some rows of a data file, of whose columns those of `CHOOSE_BY` are there


def read_tally(files: Sequence[str], storage: Storage, choose: Choice, group_by: Sequence[str]) -> Tally:
    """Counts of the recordings whose rows `choose` takes from each data file."""
    builder = _Builder(dict.fromkeys([SPEAKER, *group_by]))

    def read(uri: str) -> pa.Table:
        table = _read(uri, _COLUMNS, storage)
        return choose(table.append_column("row", pa.array(np.arange(table.num_rows))))

    threads = max(map(threads_for, files), default=1)
    for number, rows in enumerate(map_ahead(read, files, threads)):
        builder.add(number, rows)
    return builder.finish(files, storage)


def listed(keys: Keys, fingerprint: str, *, keeps_others: bool = False) -> Choice:
    """Takes the rows of recordings with these keys (ledger.py) that have this fingerprint.

    `keeps_others`: rows of other settings count as if they had this one.
    """
    wanted = np.sort(keys)

    def choose(table: pa.Table) -> pa.Table:
        if not keeps_others:
            table = table.filter(pc.equal(table["fingerprint"], fingerprint))
        ids, sizes, versions = (table[name].to_pylist() for name in IDENTITY)
        return table.filter(pa.array(are_in(recording_keys(ids, sizes, versions, repeat(fingerprint)), wanted)))

    return choose


def _read(uri: str, columns: list[str], storage: Storage) -> pa.Table:
    with open_transcripts(uri, storage) as file:
        return file.read(columns)


class _Builder:
    """Gathers the numbers file by file."""

    def __init__(self, groups: dict[str, Any]) -> None:
        self._columns: dict[str, list[NDArray[Any]]] = {
            name: [] for name in ("duration_s", "unheard_s", "scored", "file", "row", *_COUNTS)
        }
        self._codes: dict[str, list[NDArray[np.int32]]] = {name: [] for name in groups}
        self._normalizer_codes: list[NDArray[np.int32]] = []
        self._known: dict[str, dict[str, int]] = {name: {} for name in groups}
        self._statuses = Counter[str]()
        self._fingerprints = Counter[str]()
        self._failures = Counter[str]()
        self._flags = Counter[str]()
        self._normalizers: dict[str, int] = {}
        self._failed_recordings = io.StringIO(newline="")
        self._writer = csv.writer(self._failed_recordings, lineterminator="\n")
        self._writer.writerow(QUARANTINE)

    def add(self, number: int, rows: pa.Table) -> None:
        """The rows of file `number`."""
        columns = self._columns
        self._statuses.update(rows["status"].to_pylist())
        self._fingerprints.update(rows["fingerprint"].to_pylist())
        columns["duration_s"].append(rows["duration_s"].fill_null(0.0).to_numpy())
        columns["unheard_s"].append(rows["unheard_s"].fill_null(np.nan).to_numpy())
        self._flags.update(flag for flags in rows["quality_flags"].to_pylist() for flag in flags or ())
        columns["scored"].append(rows["num_ref_words"].is_valid().to_numpy())
        columns["file"].append(np.full(rows.num_rows, number, np.int32))
        columns["row"].append(rows["row"].to_numpy().astype(np.int32))
        for name in _COUNTS:
            columns[name].append(rows[name].fill_null(0).to_numpy().astype(np.int64))
        for name, known in self._known.items():
            values = rows[LANGUAGE] if name == LANGUAGE else _look_up(rows["metadata"], name)
            self._codes[name].append(_encode(values, known))
        scored_by = pc.if_else(rows["num_ref_words"].is_valid(), rows["normalizer"], pa.scalar(None, pa.string()))
        self._normalizer_codes.append(_encode(scored_by, self._normalizers))
        failed = rows.filter(pc.equal(rows["status"], Status.FAILED.value)).select(QUARANTINE)
        self._failures.update(kind or "" for kind in failed["error_kind"].to_pylist())
        self._writer.writerows(row.values() for row in failed.to_pylist())

    def finish(self, uris: Sequence[str], storage: Storage) -> Tally:
        columns = {name: np.concatenate(parts) if parts else np.empty(0) for name, parts in self._columns.items()}
        counts = {name: columns[name].astype(np.int64) for name in _COUNTS}
        scored = columns["scored"].astype(np.bool_)
        places = columns["file"].astype(np.int64), columns["row"].astype(np.int64)
        edits = counts["substitutions"] + counts["deletions"] + counts["insertions"]
        chosen = _choose_examples(scored, edits, counts["num_ref_words"])
        return Tally(
            statuses=self._statuses,
            fingerprints=self._fingerprints,
            duration_s=columns["duration_s"],
            unheard_s=columns["unheard_s"].astype(np.float64),
            scored=scored,
            counts=counts,
            labels={name: _labels(parts, self._known[name]) for name, parts in self._codes.items()},
            failures=self._failures,
            quality_flags=self._flags,
            normalizers=_labels(self._normalizer_codes, self._normalizers),
            failed_recordings=self._failed_recordings.getvalue().encode(),
            examples=[_read_example(uris[places[0][i]], int(places[1][i]), storage) for i in chosen],
        )


def _look_up(metadata: pa.ChunkedArray, key: str) -> pa.ChunkedArray:
    """The value of a key in each row's entries, null where there is none."""
    entries = metadata.combine_chunks()
    flat = entries.flatten()
    found = pc.equal(flat.field("key"), key)
    values = np.full(len(entries), None, object)
    values[pc.list_parent_indices(entries).filter(found).to_numpy()] = flat.field("value").filter(found).to_pylist()
    return pa.chunked_array([pa.array(values, pa.string())])


def _encode(values: pa.ChunkedArray, known: dict[str, int]) -> NDArray[np.int32]:
    """Numbers of labels, -1 for null; new labels are added to `known`."""
    encoded = values.combine_chunks().dictionary_encode()
    numbers = [known.setdefault(label, len(known)) for label in encoded.dictionary.to_pylist()]
    codes = np.array([*numbers, -1], np.int32)
    found: NDArray[np.int32] = codes[encoded.indices.fill_null(len(numbers)).to_numpy(zero_copy_only=False)]
    return found


def _labels(parts: Sequence[NDArray[np.int32]], known: dict[str, int]) -> Labels:
    return Labels(np.concatenate(parts) if parts else np.empty(0, np.int32), list(known))


def _choose_examples(scored: NDArray[np.bool_], edits: NDArray[np.int64], words: NDArray[np.int64]) -> Iterator[int]:
    """Recordings at `EXAMPLE_RANKS` of the error rate, each once."""
    candidates = np.flatnonzero(scored & (words > 0))
    order = candidates[np.argsort(edits[candidates] / words[candidates], kind="stable")]
    ranks = [round(rank * (len(order) - 1)) for rank in EXAMPLE_RANKS] if len(order) else []
    return (int(order[rank]) for rank in dict.fromkeys(ranks))


def _read_example(uri: str, row: int, storage: Storage) -> Example:
    table = _read(uri, ["recording_id", "reference", "text", "wer"], storage)
    return Example(**table.slice(row, 1).to_pylist()[0])
