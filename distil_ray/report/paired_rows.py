"""Paired comparison of two sets of transcripts of the same recordings.

A side is an output, or one of its runs. Recordings are paired by id; only those that both sides scored against a
reference of the same length are used. The interval is that of a paired bootstrap: recordings (speakers, if they are
known) are resampled together with both transcripts, so that difficulty common to both sides cancels out (Bisani and
Ney, ICASSP 2004). Below `MIN_PAIRS` pairs there is no interval. A pair takes about 100 bytes of memory.
"""

import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distil_ray.config import ScoringConfig
from distil_ray.errors import SettingsError
from distil_ray.evaluation.statistics import LANGUAGE, SPEAKER
from distil_ray.evaluation.statistics_index import FILTER_COLUMNS
from distil_ray.evaluation.summary import UNKNOWN
from distil_ray.evaluation.wer import bootstrap_interval, pooled_rate
from distil_ray.output.ledger import TRANSCRIPTS, Keys, id_keys, list_data_files
from distil_ray.output.run_context import RUNS_FOLDER
from distil_ray.report.run_folder import Scope, load_scope, read_run_folder
from distil_ray.report.statistics import RowReference, read_rows
from distil_ray.schema import parse_metadata
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join, normalize
from distil_ray.types import EDITS

BATCH_ROWS = 4096
MIN_PAIRS = 10  # fewer recordings give no reliable interval
_COLUMNS = [*FILTER_COLUMNS, "num_ref_words", *EDITS, LANGUAGE, "metadata", "model", "normalizer"]

Counts = NDArray[np.int64]
Significance = Literal["a_better", "b_better", "not_significant", "too_few_pairs"]


@dataclass(frozen=True, slots=True)
class Side:
    """The scored recordings of a side, each once.

    Attributes:
        name: Location of the side, as given.
        scope: The rows of the side.
        ids: Keys of the recording ids, shape (num_recordings,).
        edits: Substitutions, deletions and insertions, shape (num_recordings, 3).
        words: Words of the references, shape (num_recordings,).
        refs: Row reference of each recording.
        labels: Value of each recording by column; None if it has none.
        models: Number of rows by model.
        normalizers: Normalizer of each recording, with its version.
    """

    name: str
    scope: Scope
    ids: Keys
    edits: Counts
    words: Counts
    refs: Sequence[RowReference]
    labels: dict[str, Sequence[str | None]]
    models: Counter[str]
    normalizers: Sequence[str]

    @property
    def wer(self) -> float | None:
        return pooled_rate(int(self.edits.sum()), int(self.words.sum()))


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two sides over a set of pairs. WERs are fractions.

    Attributes:
        num_pairs: Number of pairs.
        num_words: Words of their references.
        wer_a: WER of a; None without words.
        wer_b: WER of b; None without words.
        change: `wer_b` minus `wer_a`.
        interval: 95 % interval of `change`; None for fewer than `MIN_PAIRS` pairs.
        num_better: Recordings in which b has fewer errors.
        num_worse: Recordings in which b has more errors.
    """

    num_pairs: int
    num_words: int
    wer_a: float | None
    wer_b: float | None
    change: float | None
    interval: tuple[float, float] | None
    num_better: int
    num_worse: int

    @property
    def significance(self) -> Significance:
        """The better side if the interval does not contain zero."""
        if self.num_pairs < MIN_PAIRS:
            return "too_few_pairs"
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "not_significant"
        return "b_better" if self.interval[1] < 0 else "a_better"


@dataclass(frozen=True, slots=True)
class Pairs:
    """The recordings that both sides have.

    Attributes:
        a: Side a.
        b: Side b.
        rows_a: Index of each pair's recording in `a`, shape (num_pairs,).
        rows_b: Index of each pair's recording in `b`, shape (num_pairs,).
        num_other_references: Recordings of both sides that are left out, because their references differ in length.
        num_left_out_by_normalizers: How many of these were scored by different normalizers, or versions of one.
        num_other_normalizers: The same count for the pairs.
    """

    a: Side
    b: Side
    rows_a: Counts
    rows_b: Counts
    num_other_references: int
    num_left_out_by_normalizers: int
    num_other_normalizers: int

    def difference(self, chosen: Counts | None, scoring: ScoringConfig) -> Difference:
        """Returns the difference over the pairs with the indices `chosen`, or over all pairs for None."""
        rows_a, rows_b = (rows if chosen is None else rows[chosen] for rows in (self.rows_a, self.rows_b))
        edits_a, edits_b = self.a.edits[rows_a].sum(axis=1), self.b.edits[rows_b].sum(axis=1)
        words, change = self.a.words[rows_a], edits_b - edits_a
        wer_a, wer_b = (pooled_rate(int(edits.sum()), int(words.sum())) for edits in (edits_a, edits_b))
        interval = None
        if len(words) >= MIN_PAIRS:
            speakers = _codes(self._labels(SPEAKER, rows_a, rows_b))
            samples = scoring.bootstrap_samples, scoring.seed
            interval = bootstrap_interval(change, words, speakers, *samples) or bootstrap_interval(
                change, words, None, *samples
            )
        return Difference(
            num_pairs=len(words),
            num_words=int(words.sum()),
            wer_a=wer_a,
            wer_b=wer_b,
            change=None if wer_a is None or wer_b is None else wer_b - wer_a,
            interval=interval,
            num_better=int((change < 0).sum()),
            num_worse=int((change > 0).sum()),
        )

    def by_group(self, name: str, scoring: ScoringConfig) -> list[tuple[str, Difference]]:
        """Returns the difference by value of a column, largest change first; empty if no recording has a value."""
        labels = [label or UNKNOWN for label in self._labels(name, self.rows_a, self.rows_b)]
        if set(labels) <= {UNKNOWN}:
            return []
        codes = _codes(labels)
        order = np.argsort(codes, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
        named = {labels[rows[0]]: rows for rows in members}
        found = [(value, self.difference(named[value], scoring)) for value in sorted(named)]
        return sorted(found, key=lambda pair: abs(pair[1].change or 0.0), reverse=True)

    def _labels(self, name: str, rows_a: Counts, rows_b: Counts) -> list[str | None]:
        """Returns the value of a column for pairs: that of b, where b has none that of a."""
        pairs = zip(rows_a, rows_b, strict=True)
        return [self.b.labels[name][other] or self.a.labels[name][one] or None for one, other in pairs]

    def most_changed(self, limit: int) -> list[tuple[RowReference, RowReference]]:
        """Returns the row references in both sides of the pairs whose error count changed most, in that order."""
        change = self.b.edits[self.rows_b].sum(axis=1) - self.a.edits[self.rows_a].sum(axis=1)
        order = np.argsort(-np.abs(change), kind="stable")[:limit]
        return [(self.a.refs[self.rows_a[at]], self.b.refs[self.rows_b[at]]) for at in order if change[at]]


def read_side(key: str, location: str, group_by: Sequence[str], storage: Storage) -> Side:
    """Reads the scored rows of a side.

    Args:
        key: Name of the setting that gives the side, for messages.
        location: URI of an output, or of a run folder in one.
        group_by: Columns to group by.
        storage: Storage of the side.

    Raises:
        SettingsError: There are no transcripts, or none with a reference.
    """
    scope = _scope(normalize(location), storage)
    if not scope.files:
        raise SettingsError(
            f"{key}={location}: no transcripts found. Give an output, or OUTPUT/{RUNS_FOLDER}/<run_id>."
        )
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "words", "edits", "ref", "time", "normalizer")}
    labels: dict[str, list[str | None]] = {name: [] for name in dict.fromkeys([SPEAKER, *group_by])}
    models = Counter[str]()
    for number, uri in enumerate(scope.files):
        for table, start in read_rows(uri, _COLUMNS, storage, BATCH_ROWS):
            numbered = table.append_column("row", pa.array(np.arange(start, start + table.num_rows)))
            for row in scope.choose(numbered).to_pylist():
                if row["num_ref_words"] is None:
                    continue
                _add(columns, labels, row, (number, row["row"]))
                models[row["model"]] += 1
    if not columns["id"]:
        raise SettingsError(f"{key}={location}: no recording has a reference, so there is nothing to compare.")
    kept = _newest(columns)
    return Side(
        name=location,
        scope=scope,
        ids=id_keys(columns["id"])[kept],
        edits=np.array(columns["edits"], np.int64)[kept],
        words=np.array(columns["words"], np.int64)[kept],
        refs=[columns["ref"][row] for row in kept],
        labels={name: [values[row] for row in kept] for name, values in labels.items()},
        models=models,
        normalizers=[columns["normalizer"][row] for row in kept],
    )


def pair(a: Side, b: Side) -> Pairs:
    """Pairs the recordings of two sides. Raises `SettingsError` if no recording is in both."""
    _, rows_a, rows_b = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
    same = a.words[rows_a] == b.words[rows_b]
    if not same.any():
        raise SettingsError(
            f"a={a.name}, b={b.name}: no recording with a reference is in both (a has {len(a.ids):,}, b has"
            f" {len(b.ids):,}). Recordings are paired by recording_id; give two outputs of the same input."
        )
    numbers = zip(rows_a, rows_b, strict=True)
    differ = np.array([a.normalizers[one] != b.normalizers[other] for one, other in numbers], np.bool_)
    return Pairs(
        a,
        b,
        rows_a[same],
        rows_b[same],
        num_other_references=int((~same).sum()),
        num_left_out_by_normalizers=int((differ & ~same).sum()),
        num_other_normalizers=int((differ & same).sum()),
    )


def _scope(location: str, storage: Storage) -> Scope:
    """Returns the rows at `location`.

    A folder with transcripts is an output, even if its path looks like a run folder.
    """
    files = list(list_data_files(join(location, TRANSCRIPTS), storage))
    found = re.fullmatch(rf"(.+)/{RUNS_FOLDER}/([^/]+)", location)
    if found and not files:
        return load_scope(read_run_folder(found[1], found[2], storage), found[1], storage)
    return Scope(files, lambda table: table)


def _add(
    columns: dict[str, list[Any]], labels: dict[str, list[str | None]], row: dict[str, Any], ref: RowReference
) -> None:
    columns["id"].append(row["recording_id"])
    columns["words"].append(row["num_ref_words"])
    columns["edits"].append([row[name] for name in EDITS])
    columns["normalizer"].append(sys.intern(row["normalizer"] or ""))
    columns["ref"].append(ref)
    columns["time"].append(row["processed_at"].timestamp() if row["processed_at"] else 0.0)
    known = parse_metadata(row)
    for name, values in labels.items():
        values.append(row[LANGUAGE] if name == LANGUAGE else known.get(name))


def _newest(columns: dict[str, list[Any]]) -> NDArray[np.int64]:
    """Returns the number of the newest row of each recording, in row order."""
    order = np.argsort(np.array(columns["time"]), kind="stable")
    last = {columns["id"][row]: row for row in order.tolist()}
    return np.array(sorted(last.values()), np.int64)


def _codes(labels: Sequence[str | None]) -> Counts:
    """Returns a number for each label, -1 for None."""
    known: dict[str, int] = {}
    return np.array([-1 if label is None else known.setdefault(label, len(known)) for label in labels], np.int64)
