"""Statistics of the rows of an output: one number per recording and column.

The rows are read back from the stored files; nothing comes from the memory of a run. Files are read one at a time, and
only the columns that are counted. A million recordings take about 60 MB, plus the list of failed recordings.
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

from distil_ray.evaluation.statistics_index import COLUMNS, COUNTS, StatisticsIndex
from distil_ray.output.ledger import IDENTITY, Keys, isin_sorted, recording_keys
from distil_ray.output.reader import open_transcripts
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.storage.storage import Storage
from distil_ray.types import Status

SPEAKER = "speaker"  # key of `metadata`; recordings of one speaker are not independent
LANGUAGE = "language"  # the only group that is a column of its own, not a key of `metadata`
FAILED_COLUMNS = ("recording_id", "uri", "error_kind", "error")
EXAMPLE_RANKS = (0.25, 0.75, 1.0)  # quantiles of the error rate at which example transcripts are taken


@dataclass(frozen=True, slots=True)
class Example:
    """A transcript and its reference, not normalized; `wer` is a fraction."""

    recording_id: str
    reference: str
    text: str
    wer: float


@dataclass(frozen=True, slots=True)
class GroupLabels:
    """Group of each recording: ``names[codes[i]]``, or none where the code is -1.

    Attributes:
        codes: int32, shape (num_recordings,).
        names: Group names.
    """

    codes: NDArray[np.int32]
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class RowStatistics:
    """Columns of the selected rows, as arrays of shape (num_recordings,), and counts over them.

    Attributes:
        statuses: Recordings by status.
        fingerprints: Recordings by fingerprint.
        duration_s: Seconds of audio; 0 where unknown.
        unheard_s: Seconds of speech without text; NaN where unknown.
        scored: True where there is a reference.
        counts: Word and character counts by column; 0 where there is no reference.
        labels: Group of each recording, by name of the grouping.
        failures: Failed recordings by error kind.
        quality_flags: Recordings by quality flag.
        normalizers: Normalizer (name and version) of each scored recording.
        failed_recordings: CSV of the failed recordings, columns `FAILED_COLUMNS`.
        examples: A few transcripts with their references.
    """

    statuses: Counter[str]
    fingerprints: Counter[str]
    duration_s: NDArray[np.float64]
    unheard_s: NDArray[np.float64]
    scored: NDArray[np.bool_]
    counts: dict[str, NDArray[np.int64]]
    labels: dict[str, GroupLabels]
    failures: Counter[str]
    quality_flags: Counter[str]
    normalizers: GroupLabels
    failed_recordings: bytes
    examples: Sequence[Example]


# Selects rows of a data file, which has at least the columns of `FILTER_COLUMNS`.
RowFilter = Callable[[pa.Table], pa.Table]


def read_statistics(
    files: Sequence[str],
    storage: Storage,
    choose: RowFilter,
    group_by: Sequence[str],
    index: StatisticsIndex | None = None,
) -> RowStatistics:
    """Returns the statistics of the rows that `choose` selects.

    Args:
        files: The data files.
        storage: Access to them.
        choose: Selects rows.
        group_by: Groupings, in addition to the speaker.
        index: Index over the same files. Those that it has are not read, and it gets the others.
    """
    builder = _Builder(dict.fromkeys([SPEAKER, *group_by]))
    is_left = np.ones(len(files), np.bool_)
    for table, numbers in index.read() if index is not None else ():
        builder.add(choose(_numbered(table, numbers)))
        is_left[numbers] = False

    def read(number: int) -> tuple[int, pa.Table]:
        return number, _read(files[number], COLUMNS, storage)

    threads = max(map(num_request_threads, files), default=1)
    for number, table in ordered_parallel_map(read, np.flatnonzero(is_left).tolist(), threads):
        if index is not None:
            index.add(number, table)
        builder.add(choose(_numbered(table, np.full(table.num_rows, number))))
    return builder.finish(files, storage)


def _numbered(rows: pa.Table, numbers: NDArray[np.int64]) -> pa.Table:
    """Returns rows, those of a file after each other, with the number of their file and their number in it."""
    starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1])[: len(numbers)])
    within = np.arange(len(numbers)) - np.repeat(starts, np.diff(np.append(starts, len(numbers))))
    return rows.append_column("file", pa.array(numbers)).append_column("row", pa.array(within))


def select_listed(keys: Keys, fingerprint: str, *, keeps_others: bool = False) -> RowFilter:
    """Returns a filter that selects the rows of listed recordings.

    Args:
        keys: Keys of the listed recordings (`output/ledger.py`).
        fingerprint: Fingerprint that the rows must have.
        keeps_others: Rows of other fingerprints count as if they had this one.
    """
    wanted = np.sort(keys)

    def choose(table: pa.Table) -> pa.Table:
        if not keeps_others:
            table = table.filter(pc.equal(table["fingerprint"], fingerprint))
        ids, sizes, versions = (table[name].to_pylist() for name in IDENTITY)
        return table.filter(pa.array(isin_sorted(recording_keys(ids, sizes, versions, repeat(fingerprint)), wanted)))

    return choose


def _read(uri: str, columns: list[str], storage: Storage) -> pa.Table:
    with open_transcripts(uri, storage) as file:
        return file.read(columns)


class _Builder:
    """Collects the numbers, file by file."""

    def __init__(self, groups: dict[str, Any]) -> None:
        self._columns: dict[str, list[NDArray[Any]]] = {
            name: [] for name in ("duration_s", "unheard_s", "scored", "file", "row", *COUNTS)
        }
        self._codes: dict[str, list[NDArray[np.int32]]] = {name: [] for name in groups}
        self._normalizer_codes: list[NDArray[np.int32]] = []
        self._known: dict[str, dict[str, int]] = {name: {} for name in groups}
        self._statuses = Counter[str]()
        self._fingerprints = Counter[str]()
        self._failures = Counter[str]()
        self._flags = Counter[str]()
        self._normalizers: dict[str, int] = {}
        self._failed: list[tuple[tuple[int, int], list[Any]]] = []  # place and columns of failed recordings

    def add(self, rows: pa.Table) -> None:
        """Adds selected rows, with the columns `file` and `row`. The order in which rows are added does not matter."""
        columns = self._columns
        self._statuses.update(rows["status"].to_pylist())
        self._fingerprints.update(rows["fingerprint"].to_pylist())
        columns["duration_s"].append(rows["duration_s"].fill_null(0.0).to_numpy())
        columns["unheard_s"].append(rows["unheard_s"].fill_null(np.nan).to_numpy())
        self._flags.update(flag for flags in rows["quality_flags"].to_pylist() for flag in flags or ())
        columns["scored"].append(rows["num_ref_words"].is_valid().to_numpy())
        columns["file"].append(rows["file"].to_numpy().astype(np.int32))
        columns["row"].append(rows["row"].to_numpy().astype(np.int32))
        for name in COUNTS:
            columns[name].append(rows[name].fill_null(0).to_numpy().astype(np.int64))
        for name, known in self._known.items():
            values = rows[LANGUAGE] if name == LANGUAGE else _metadata_values(rows["metadata"], name)
            self._codes[name].append(_encode(values, known))
        scored_by = pc.if_else(rows["num_ref_words"].is_valid(), rows["normalizer"], pa.scalar(None, pa.string()))
        self._normalizer_codes.append(_encode(scored_by, self._normalizers))
        failed = rows.filter(pc.equal(rows["status"], Status.FAILED.value)).select([*FAILED_COLUMNS, "file", "row"])
        self._failures.update(kind or "" for kind in failed["error_kind"].to_pylist())
        self._failed += [((row.pop("file"), row.pop("row")), list(row.values())) for row in failed.to_pylist()]

    def finish(self, uris: Sequence[str], storage: Storage) -> RowStatistics:
        columns = {name: np.concatenate(parts) if parts else np.empty(0) for name, parts in self._columns.items()}
        order = np.lexsort((columns["row"], columns["file"]))
        columns = {name: values[order] for name, values in columns.items()}
        counts = {name: columns[name].astype(np.int64) for name in COUNTS}
        scored = columns["scored"].astype(np.bool_)
        positions = columns["file"].astype(np.int64), columns["row"].astype(np.int64)
        edits = counts["substitutions"] + counts["deletions"] + counts["insertions"]
        chosen = _choose_examples(scored, edits, counts["num_ref_words"])
        return RowStatistics(
            statuses=self._statuses,
            fingerprints=self._fingerprints,
            duration_s=columns["duration_s"],
            unheard_s=columns["unheard_s"].astype(np.float64),
            scored=scored,
            counts=counts,
            labels={name: _labels(parts, self._known[name], order) for name, parts in self._codes.items()},
            failures=self._failures,
            quality_flags=self._flags,
            normalizers=_labels(self._normalizer_codes, self._normalizers, order),
            failed_recordings=_failed_csv(self._failed),
            examples=[_read_example(uris[positions[0][i]], int(positions[1][i]), storage) for i in chosen],
        )


def _metadata_values(metadata: pa.ChunkedArray, key: str) -> pa.ChunkedArray:
    """Returns the value of a key in each row's metadata, null where the key is missing."""
    entries = metadata.combine_chunks()
    flat = entries.flatten()
    found = pc.equal(flat.field("key"), key)
    values = np.full(len(entries), None, object)
    values[pc.list_parent_indices(entries).filter(found).to_numpy()] = flat.field("value").filter(found).to_pylist()
    return pa.chunked_array([pa.array(values, pa.string())])


def _encode(values: pa.ChunkedArray, known: dict[str, int]) -> NDArray[np.int32]:
    """Returns the number of each value in `known`, -1 for null. Adds new values to `known`."""
    encoded = values.combine_chunks().dictionary_encode()
    numbers = [known.setdefault(label, len(known)) for label in encoded.dictionary.to_pylist()]
    codes = np.array([*numbers, -1], np.int32)
    found: NDArray[np.int32] = codes[encoded.indices.fill_null(len(numbers)).to_numpy(zero_copy_only=False)]
    return found


def _labels(parts: Sequence[NDArray[np.int32]], known: dict[str, int], order: NDArray[np.int64]) -> GroupLabels:
    """Returns the groups of the rows in `order`, numbered as they occur in it."""
    codes = np.concatenate(parts)[order] if parts else np.empty(0, np.int32)
    names = list(known)
    used, first = np.unique(codes[codes >= 0], return_index=True)
    ranked = used[np.argsort(first)]
    numbers = np.full(len(names) + 1, -1, np.int32)
    numbers[ranked] = np.arange(len(ranked), dtype=np.int32)
    return GroupLabels(numbers[codes], [names[code] for code in ranked])


def _failed_csv(failed: Sequence[tuple[tuple[int, int], list[Any]]]) -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(FAILED_COLUMNS)
    writer.writerows(row for _, row in sorted(failed, key=lambda one: one[0]))
    return sink.getvalue().encode()


def _choose_examples(scored: NDArray[np.bool_], edits: NDArray[np.int64], words: NDArray[np.int64]) -> Iterator[int]:
    """Returns the recordings at `EXAMPLE_RANKS` of the error rate, without duplicates."""
    candidates = np.flatnonzero(scored & (words > 0))
    order = candidates[np.argsort(edits[candidates] / words[candidates], kind="stable")]
    ranks = [round(rank * (len(order) - 1)) for rank in EXAMPLE_RANKS] if len(order) else []
    return (int(order[rank]) for rank in dict.fromkeys(ranks))


def _read_example(uri: str, row: int, storage: Storage) -> Example:
    table = _read(uri, ["recording_id", "reference", "text", "wer"], storage)
    return Example(**table.slice(row, 1).to_pylist()[0])
