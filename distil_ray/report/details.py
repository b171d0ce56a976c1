"""The few recordings that are shown one by one: their rows read whole, and their words beside the reference's.

A second pass over the files that hold them. Of long recordings only the stretches around errors are shown.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from distil_ray.report.folder import Scope
from distil_ray.report.joints import LOST, Finding, around, lost_words
from distil_ray.report.picture import Row, Spot, read_rows
from distil_ray.schema import EDITS
from distil_ray.scoring import Aligned, align, normalize_like
from distil_ray.storage import Storage

BATCH_ROWS = 64  # rows in memory at once; one of them may be the transcript of ten hours
CONTEXT = 6  # right words shown on each side of an error
MAX_PIECES = 160  # of an alignment
MAX_LETTERS = 1200  # of a text without a reference

_COLUMNS = (
    *("recording_id", "uri", "source_size", "source_version", "place", "status", "error_kind", "duration_s"),
    *("language", "text", "text_normalized", "reference_normalized", "normalizer", "num_ref_words", *EDITS, "wer"),
    *("avg_logprob", "chars_per_s", "flags", "metadata"),
    *(f"chunks.list.element.{name}" for name in ("start_s", "end_s", "text", "avg_logprob", "flags")),
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Words that are shown in one way: `kind` as in an alignment, or ``skip`` for `count` right words left out."""

    kind: str
    reference: str = ""
    heard: str = ""
    count: int = 0


def read_details(spots: Iterable[Spot], scope: Scope, storage: Storage) -> dict[Spot, Row]:
    """The rows at some spots. One that has left the output since is left out."""
    by_file: dict[int, set[int]] = defaultdict(set)
    for file, row in spots:
        by_file[file].add(row)
    found: dict[Spot, Row] = {}
    for file, rows in sorted(by_file.items()):
        places = np.array(sorted(rows))
        for table, start in read_rows(scope.files[file], _COLUMNS, storage, BATCH_ROWS):
            mine = places[(places >= start) & (places < start + table.num_rows)]
            taken = table.take(pa.array(mine - start)).to_pylist()
            found.update({(file, int(place)): row for place, row in zip(mine, taken, strict=True)})
    return found


def pieces_of(row: Row) -> tuple[list[Piece], int]:
    """(the alignment as it is shown, how many more pieces it would have). Empty without a reference."""
    if row["num_ref_words"] is None:
        return [], 0
    pieces = list(_pieces(_aligned(row)))
    return pieces[:MAX_PIECES], max(0, len(pieces) - MAX_PIECES)


def text_of(row: Row) -> str:
    text = " ".join((row["text"] or "").split())
    return text if len(text) <= MAX_LETTERS else text[: MAX_LETTERS - 1].rstrip() + "…"


def find_lost(rows: Mapping[Spot, Row]) -> Iterator[tuple[Spot, Finding]]:
    """Words that are missing at joints of recordings with a reference and chunks that do not overlap."""
    for spot, row in rows.items():
        chunks = row["chunks"] or ()
        texts = [normalize_like(row["normalizer"], chunk["text"] or "") for chunk in chunks]
        sizes = [len(text.split()) for text in texts]
        if sum(sizes) != len(row["text_normalized"].split()):
            continue  # a number that was written across the joint, or no blanks between words
        for index, words in lost_words(_aligned(row), sizes):
            ends = around(chunks[index]["text"], chunks[index + 1]["text"], row["language"])
            yield spot, Finding(index, LOST, " ".join(words), *ends, weight=float(len(words)))


def _aligned(row: Row) -> list[Aligned]:
    return align(row["reference_normalized"], row["text_normalized"] or "", row["num_ref_words"])


def _pieces(aligned: Sequence[Aligned]) -> Iterator[Piece]:
    for number, one in enumerate(aligned):
        if one.kind == "equal":
            yield from _context(one.heard, first=number == 0, last=number == len(aligned) - 1)
        elif one.kind == "substitute":
            yield from (Piece("substitute", *pair) for pair in zip(one.reference, one.heard, strict=True))
        else:
            yield Piece(one.kind, " ".join(one.reference), " ".join(one.heard))


def _context(words: Sequence[str], *, first: bool, last: bool) -> Iterator[Piece]:
    before, after = (0 if first else CONTEXT), (0 if last else CONTEXT)
    left_out = len(words) - before - after
    if left_out <= CONTEXT:
        yield Piece("equal", heard=" ".join(words))
        return
    if before:
        yield Piece("equal", heard=" ".join(words[:before]))
    yield Piece("skip", count=left_out)
    if after:
        yield Piece("equal", heard=" ".join(words[-after:]))
