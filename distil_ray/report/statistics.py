"""Statistics of the rows of a run, and references to the rows worth a look, in one pass over narrow columns.

Memory grows by four numbers per recording (32 bytes). Of the rows that are listed one by one only the worst are kept.
Of texts only those of chunks are read, for the chunk boundaries; `details` loads the rows that are shown.
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

from distil_ray.evaluation.statistics import FILTER_COLUMNS
from distil_ray.output.reader import open_transcripts
from distil_ray.recognition.quality_flags import UNRELIABLE_TEXT_FLAGS, UNTRANSCRIBED_SPEECH
from distil_ray.report.chunk_boundaries import BoundaryProblem, find_boundary_problems
from distil_ray.report.run_folder import Scope
from distil_ray.storage.storage import Storage
from distil_ray.types import EDITS, Status

Row = dict[str, Any]
Floats = NDArray[np.float64]
RowReference = tuple[int, int]  # a row: the number of its file in the scope, and its number in the file

BATCH_ROWS = 512  # rows in memory at once; one of them may be the transcript of ten hours
NUM_FLAGGED = 200  # chunks listed; all are counted
NUM_BOUNDARIES = 100  # joints listed
NUM_UNTRANSCRIBED = 100  # recordings listed that have speech without text
NUM_ALIGNED = 200  # recordings of several chunks whose joints are looked at beside the reference: the most deletions
NUM_FAILURES = 300  # failed and partial recordings listed
PER_KIND = 60  # of one kind, so that a frequent kind does not hide the others

_PLAIN = ("status", "error_kind", "error", "uri", "duration_s", "num_ref_words", *EDITS, "wer", "avg_logprob")
_CHUNK = tuple(f"chunks.list.element.{name}" for name in ("text", "quality_flags", "avg_logprob", "unheard_s"))
_COLUMNS = [*FILTER_COLUMNS, *_PLAIN, "chars_per_s", "unheard_s", "language", *_CHUNK]
_TOKENS = "chunks.list.element.tokens"


class Top:
    """The items with the highest scores, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[float, int, Any]] = []
        self._order = count(0, -1)  # of equal scores the earlier one stays

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
    """A recording that failed, or of which a part is missing (`status`)."""

    recording_id: str
    status: str
    kind: str
    error: str


@dataclass(slots=True)
class RunStatistics:
    """Statistics of all recordings in scope, and references to the rows worth a look.

    Arrays are float64, NaN where there is no value, shape (num_recordings,): `wer` a fraction, `avg_logprob` natural
    logarithm per token, `chars_per_s` characters per second, `duration_s` seconds. `runs` counts rows by run.
    """

    num_worst: int
    columns: dict[str, list[Floats]] = field(default_factory=lambda: defaultdict(list))
    runs: Counter[str] = field(default_factory=Counter)
    chunk_flags: Counter[str] = field(default_factory=Counter)
    num_chunks: int = 0
    num_flagged: int = 0
    num_joints: int = 0
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)  # by status and kind
    joints: Counter[str] = field(default_factory=Counter)  # odd ones, by what is odd
    failures: list[Failure] = field(default_factory=list)
    _rates: Top = field(init=False)
    _edits: Top = field(init=False)
    _doubtful: Top = field(init=False)
    _flagged: Top = field(default_factory=lambda: Top(NUM_FLAGGED))
    _untranscribed: Top = field(default_factory=lambda: Top(NUM_UNTRANSCRIBED))
    _joints: Top = field(default_factory=lambda: Top(NUM_BOUNDARIES))
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
        """Rows with the highest error rate and the most errors in turn; without references the least probable texts."""
        rates, edits = self._rates.items(), self._edits.items()
        mixed = [spot for pair in zip(edits, rates, strict=True) for spot in pair]
        return list(dict.fromkeys(mixed or self._doubtful.items()))[: self.num_worst]

    @property
    def flagged(self) -> list[tuple[RowReference, int]]:
        """(row, index of the chunk) of chunks with unreliable text, the least probable first."""
        return self._flagged.items()

    @property
    def untranscribed(self) -> list[tuple[RowReference, int]]:
        """Recordings with speech that has no text, those with the most seconds first; with the chunk of each that has
        the most."""
        return self._untranscribed.items()

    @property
    def odd_joints(self) -> list[tuple[RowReference, BoundaryProblem]]:
        return self._joints.items()

    @property
    def with_deletions(self) -> list[RowReference]:
        """Recordings with joints at which words of the reference may be missing."""
        return self._with_deletions.items()

    def add(self, spot: RowReference, row: Row) -> None:
        """Adds the statistics of a row, except those of its chunk boundaries."""
        edits = sum(row[name] or 0 for name in EDITS)
        if row["num_ref_words"] is not None and edits:
            rate = edits / max(row["num_ref_words"], 1)
            self._rates.add(rate, spot)
            self._edits.add(edits + min(rate, 1.0), spot)
        if row["avg_logprob"] is not None and row["status"] in (Status.OK, Status.PARTIAL):
            self._doubtful.add(-row["avg_logprob"], spot)
        if row["error_kind"]:
            kind = (row["status"], row["error_kind"])
            self.kinds[kind] += 1
            if self.kinds[kind] <= PER_KIND and len(self.failures) < NUM_FAILURES:
                self.failures.append(Failure(row["recording_id"], *kind, row["error"] or ""))
        chunks = row["chunks"] or ()
        for number, chunk in enumerate(chunks):
            self._add_chunk(spot, number, chunk)
        if any(is_untranscribed(chunk) for chunk in chunks):
            most = max(range(len(chunks)), key=lambda number: chunks[number]["unheard_s"] or 0.0)
            self._untranscribed.add(row["unheard_s"] or 0.0, (spot, most))

    def _add_chunk(self, spot: RowReference, number: int, chunk: Row) -> None:
        self.num_chunks += 1
        self.chunk_flags.update(chunk["quality_flags"] or ())
        if any(flag in UNRELIABLE_TEXT_FLAGS for flag in chunk["quality_flags"] or ()):
            self.num_flagged += 1
            self._flagged.add(-(chunk["avg_logprob"] or 0.0), (spot, number))

    def add_joints(self, spot: RowReference, row: Row, overlaps: bool) -> None:
        """Adds the problems at the chunk boundaries of a row."""
        chunks = row["chunks"] or ()
        if len(chunks) < 2:
            return
        self.num_joints += len(chunks) - 1
        if row["deletions"] and not overlaps:
            self._with_deletions.add(row["deletions"], spot)
        for finding in find_boundary_problems(chunks, overlaps, row["language"]):
            self.joints[finding.kind] += 1
            self._joints.add(finding.weight, (spot, finding))


def is_untranscribed(chunk: Row) -> bool:
    """Returns True if a chunk has speech without text."""
    return UNTRANSCRIBED_SPEECH in (chunk["quality_flags"] or ())


def compute_run_statistics(scope: Scope, storage: Storage, overlaps: bool, num_worst: int) -> RunStatistics:
    """Returns the statistics of all rows in scope.

    Args:
        overlaps: Neighboring chunks share audio; their tokens are read too.
        num_worst: Recordings kept in each list of the worst.
    """
    picture = RunStatistics(num_worst)
    columns = [*_COLUMNS, _TOKENS] if overlaps else _COLUMNS
    for number, uri in enumerate(scope.files):
        for rows, start in read_rows(uri, columns, storage, BATCH_ROWS):
            numbered = rows.append_column("row", pa.array(np.arange(start, start + rows.num_rows)))
            chosen = scope.choose(numbered)
            _add_columns(picture, chosen)
            for row in chosen.to_pylist():
                picture.add((number, row["row"]), row)
                picture.add_joints((number, row["row"]), row, overlaps)
    return picture


def read_rows(uri: str, columns: Sequence[str], storage: Storage, batch_rows: int) -> Iterator[tuple[pa.Table, int]]:
    """Yields batches of a data file, each with the number of its first row in the file."""
    start = 0
    with open_transcripts(uri, storage) as file:
        for batch in file.iter_batches(batch_rows, columns):
            yield pa.Table.from_batches([batch]), start
            start += batch.num_rows


def _add_columns(picture: RunStatistics, rows: pa.Table) -> None:
    for name in ("wer", "avg_logprob", "chars_per_s", "duration_s"):
        picture.columns[name].append(np.array(rows[name].to_pylist(), np.float64))
    picture.runs.update(rows["run_id"].to_pylist())
