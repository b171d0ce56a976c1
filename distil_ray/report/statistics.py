"""Statistics of the rows of a run, and references to the rows that the page lists, in one pass over few columns.

Memory grows by four numbers per recording (32 bytes). Only the worst rows are remembered for the lists. The texts of
chunks are read to check the chunk boundaries; `details` loads the complete rows that are shown.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distil_ray.evaluation.statistics_index import FILTER_COLUMNS
from distil_ray.output.reader import open_transcripts
from distil_ray.recognition.quality_flags import UNRELIABLE_TEXT_FLAGS, UNTRANSCRIBED_SPEECH
from distil_ray.report.chunk_boundaries import BoundaryProblem, find_boundary_problems
from distil_ray.report.run_folder import Scope
from distil_ray.schema import parse_chunk_language
from distil_ray.storage.storage import Storage
from distil_ray.types import EDITS, STATUSES_WITH_TEXT

Row = dict[str, Any]
Floats = NDArray[np.float64]
RowReference = tuple[int, int]  # (number of the file in the scope, number of the row in the file)

BATCH_ROWS = 512  # rows in memory at once; one of them may be the transcript of ten hours
NUM_FLAGGED = 200  # chunks listed; all are counted
NUM_BOUNDARIES = 100  # chunk boundaries listed
NUM_UNTRANSCRIBED = 100  # recordings with untranscribed speech listed
NUM_ALIGNED = 200  # recordings, those with the most deletions, whose boundaries are compared with the reference
NUM_FAILURES = 300  # failed and partial recordings listed
PER_KIND = 60  # of one kind, so that a frequent kind does not hide the others

_PLAIN = ("status", "error_kind", "error", "uri", "duration_s", "num_ref_words", *EDITS, "wer", "avg_logprob")
_CHUNK_FIELDS = ("language", "text", "quality_flags", "avg_logprob", "unheard_s")
_CHUNK = tuple(f"chunks.list.element.{name}" for name in _CHUNK_FIELDS)
_COLUMNS = [*FILTER_COLUMNS, *_PLAIN, "chars_per_s", "unheard_s", "language", *_CHUNK]
_TOKENS = "chunks.list.element.tokens"


class Top:
    """The items with the highest scores, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[float, int, Any]] = []
        self._order = count(0, -1)  # of items with equal scores, the earlier one is kept

    def add(self, score: float, item: Any) -> None:
        entry = (score, next(self._order), item)
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def items(self) -> list[Any]:
        """Returns the items, the highest score first."""
        return [item for *_, item in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


@dataclass(frozen=True, slots=True)
class Failure:
    """A recording with the status ``failed`` or ``partial``."""

    recording_id: str
    status: str
    kind: str
    error: str


@dataclass(slots=True)
class RunStatistics:
    """Statistics of all recordings in scope, and references to the rows that are listed.

    Arrays are float64, NaN where there is no value, shape (num_recordings,): `wer` a fraction, `avg_logprob` natural
    logarithm per token, `chars_per_s` characters per second, `duration_s` seconds. `runs` counts rows by run.
    """

    num_worst: int
    columns: dict[str, list[Floats]] = field(default_factory=lambda: defaultdict(list))
    runs: Counter[str] = field(default_factory=Counter)
    chunk_flags: Counter[str] = field(default_factory=Counter)
    num_chunks: int = 0
    num_flagged: int = 0
    num_boundaries: int = 0
    error_kinds: Counter[tuple[str, str]] = field(default_factory=Counter)  # by status and kind
    boundary_problem_kinds: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    _rates: Top = field(init=False)
    _edits: Top = field(init=False)
    _doubtful: Top = field(init=False)
    _flagged: Top = field(default_factory=lambda: Top(NUM_FLAGGED))
    _untranscribed: Top = field(default_factory=lambda: Top(NUM_UNTRANSCRIBED))
    _boundary_problems: Top = field(default_factory=lambda: Top(NUM_BOUNDARIES))
    _with_deletions: Top = field(default_factory=lambda: Top(NUM_ALIGNED))

    def __post_init__(self) -> None:
        self._rates, self._edits, self._doubtful = (Top(self.num_worst) for _ in range(3))

    def __getitem__(self, name: str) -> Floats:
        parts = self.columns[name]
        return np.concatenate(parts) if parts else np.empty(0)

    @property
    def num_recordings(self) -> int:
        return self.runs.total()

    @property
    def worst(self) -> list[RowReference]:
        """Rows with the most errors and rows with the highest error rate, alternating.

        Without references: rows with the lowest log-probability.
        """
        rates, edits = self._rates.items(), self._edits.items()
        mixed = [ref for pair in zip(edits, rates, strict=True) for ref in pair]
        return list(dict.fromkeys(mixed or self._doubtful.items()))[: self.num_worst]

    @property
    def flagged(self) -> list[tuple[RowReference, int]]:
        """(row, index of the chunk) of chunks with unreliable text, the least probable first."""
        return self._flagged.items()

    @property
    def untranscribed(self) -> list[tuple[RowReference, int]]:
        """(row, index of the chunk with the most) of recordings with untranscribed speech, most seconds first."""
        return self._untranscribed.items()

    @property
    def boundary_problems(self) -> list[tuple[RowReference, BoundaryProblem]]:
        """(row, problem), those of most words first."""
        return self._boundary_problems.items()

    @property
    def with_deletions(self) -> list[RowReference]:
        """Recordings of several chunks with the most deletions, which may be at chunk boundaries."""
        return self._with_deletions.items()

    def add(self, ref: RowReference, row: Row) -> None:
        """Adds the statistics of a row, except those of its chunk boundaries."""
        edits = sum(row[name] or 0 for name in EDITS)
        if row["num_ref_words"] is not None and edits:
            rate = edits / max(row["num_ref_words"], 1)
            self._rates.add(rate, ref)
            self._edits.add(edits + min(rate, 1.0), ref)
        if row["avg_logprob"] is not None and row["status"] in STATUSES_WITH_TEXT:
            self._doubtful.add(-row["avg_logprob"], ref)
        if row["error_kind"]:
            kind = (row["status"], row["error_kind"])
            self.error_kinds[kind] += 1
            if self.error_kinds[kind] <= PER_KIND and len(self.failures) < NUM_FAILURES:
                self.failures.append(Failure(row["recording_id"], *kind, row["error"] or ""))
        chunks = row["chunks"] or ()
        for number, chunk in enumerate(chunks):
            self._add_chunk(ref, number, chunk)
        if any(is_untranscribed(chunk) for chunk in chunks):
            most = max(range(len(chunks)), key=lambda number: chunks[number]["unheard_s"] or 0.0)
            self._untranscribed.add(row["unheard_s"] or 0.0, (ref, most))

    def _add_chunk(self, ref: RowReference, number: int, chunk: Row) -> None:
        self.num_chunks += 1
        self.chunk_flags.update(chunk["quality_flags"] or ())
        if any(flag in UNRELIABLE_TEXT_FLAGS for flag in chunk["quality_flags"] or ()):
            self.num_flagged += 1
            self._flagged.add(-(chunk["avg_logprob"] or 0.0), (ref, number))

    def add_boundaries(self, ref: RowReference, row: Row, overlaps: bool) -> None:
        """Adds the problems at the chunk boundaries of a row."""
        chunks = row["chunks"] or ()
        if len(chunks) < 2:
            return
        self.num_boundaries += len(chunks) - 1
        if row["deletions"] and not overlaps:
            self._with_deletions.add(row["deletions"], ref)
        languages = [parse_chunk_language(row, chunk) for chunk in chunks]
        for problem in find_boundary_problems(chunks, overlaps, languages):
            self.boundary_problem_kinds[problem.kind] += 1
            self._boundary_problems.add(problem.weight, (ref, problem))


def is_untranscribed(chunk: Row) -> bool:
    """Returns True if a chunk has the flag `untranscribed_speech`."""
    return UNTRANSCRIBED_SPEECH in (chunk["quality_flags"] or ())


def compute_run_statistics(scope: Scope, storage: Storage, overlaps: bool, num_worst: int) -> RunStatistics:
    """Returns the statistics of all rows in scope.

    Args:
        scope: The rows to read.
        storage: Storage of the output.
        overlaps: True if neighboring chunks share audio; their tokens are then read too.
        num_worst: Maximum number of recordings in each list of the worst.
    """
    statistics = RunStatistics(num_worst)
    columns = [*_COLUMNS, _TOKENS] if overlaps else _COLUMNS
    for number, uri in enumerate(scope.files):
        for rows, start in read_rows(uri, columns, storage, BATCH_ROWS):
            numbered = rows.append_column("row", pa.array(np.arange(start, start + rows.num_rows)))
            chosen = scope.choose(numbered)
            _add_columns(statistics, chosen)
            for row in chosen.to_pylist():
                statistics.add((number, row["row"]), row)
                statistics.add_boundaries((number, row["row"]), row, overlaps)
    return statistics


def read_rows(uri: str, columns: Sequence[str], storage: Storage, batch_rows: int) -> Iterator[tuple[pa.Table, int]]:
    """Yields batches of a data file, each with the number of its first row in the file."""
    start = 0
    with open_transcripts(uri, storage) as file:
        for batch in file.iter_batches(batch_rows, columns):
            yield pa.Table.from_batches([batch]), start
            start += batch.num_rows


def _add_columns(statistics: RunStatistics, rows: pa.Table) -> None:
    for name in ("wer", "avg_logprob", "chars_per_s", "duration_s"):
        statistics.columns[name].append(np.array(rows[name].to_pylist(), np.float64))
    statistics.runs.update(rows["run_id"].to_pylist())
