"""Complete rows of the recordings that are listed, and their word alignments for display.

This is a second pass over the files that contain these rows. Of long recordings only the text around errors is shown.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from distil_ray.evaluation.normalizers import normalize_like
from distil_ray.evaluation.wer import AlignedSpan, EditKind, align, is_character_score, split_units
from distil_ray.report.chunk_boundaries import LOST, BoundaryProblem, iter_lost_words, texts_around_boundary
from distil_ray.report.run_folder import Scope
from distil_ray.report.statistics import Row, RowReference, read_rows
from distil_ray.storage.storage import Storage
from distil_ray.types import EDITS

BATCH_ROWS = 64  # rows in memory at once; one of them may be the transcript of ten hours
CONTEXT = 6  # correct words shown on each side of an error; words shown at both ends of a long deletion or insertion
MAX_PIECES = 160  # of an alignment
MAX_WORD = 80  # characters of a word; a repetition loop can produce words of thousands
MAX_LOST = 24  # words shown of those that are missing at a chunk boundary
MAX_LETTERS = 1200  # characters of a text without a reference

_COLUMNS = (
    *("recording_id", "uri", "source_size", "source_version", "location", "status", "error_kind", "duration_s"),
    *("language", "text", "text_normalized", "reference_normalized", "normalizer", "num_ref_words", *EDITS, "wer"),
    *("avg_logprob", "chars_per_s", "unheard_s", "quality_flags", "metadata"),
    *(
        f"chunks.list.element.{name}"
        for name in ("start_s", "end_s", "text", "avg_logprob", "unheard_s", "quality_flags")
    ),
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive words of an alignment with the same kind of edit.

    `kind` is that of the alignment, or ``skip`` for `count` words of the kind `of` that are left out.
    """

    kind: EditKind | Literal["skip"]
    reference: str = ""
    hypothesis: str = ""
    count: int = 0
    of: EditKind = "equal"


def read_details(refs: Iterable[RowReference], scope: Scope, storage: Storage) -> dict[RowReference, Row]:
    """Returns the rows by row reference. Rows that are no longer in the output are omitted."""
    by_file: dict[int, set[int]] = defaultdict(set)
    for file, row in refs:
        by_file[file].add(row)
    found: dict[RowReference, Row] = {}
    for file, rows in sorted(by_file.items()):
        numbers = np.array(sorted(rows))
        for table, start in read_rows(scope.files[file], _COLUMNS, storage, BATCH_ROWS):
            chosen = numbers[(numbers >= start) & (numbers < start + table.num_rows)]
            taken = table.take(pa.array(chosen - start)).to_pylist()
            found.update({(file, int(number)): row for number, row in zip(chosen, taken, strict=True)})
    return found


def build_alignment_pieces(row: Row) -> tuple[list[Piece], int]:
    """Returns the alignment for display and the number of omitted pieces; empty without a reference."""
    if row["num_ref_words"] is None:
        return [], 0
    spaceless = _is_spaceless(row)
    pieces = list(_pieces(_aligned(row, spaceless), spaceless))
    return pieces[:MAX_PIECES], max(0, len(pieces) - MAX_PIECES)


def format_text(row: Row) -> str:
    """Returns the text of a row or chunk in one line, shortened to `MAX_LETTERS`."""
    text = " ".join((row["text"] or "").split())
    return text if len(text) <= MAX_LETTERS else text[: MAX_LETTERS - 1].rstrip() + "…"


def find_lost_words(rows: Mapping[RowReference, Row]) -> Iterator[tuple[RowReference, BoundaryProblem]]:
    """Yields words lost at chunk boundaries, for rows with a reference and chunks without overlap."""
    for ref, row in rows.items():
        chunks, spaceless = row["chunks"] or (), _is_spaceless(row)
        texts = [normalize_like(row["normalizer"], chunk["text"] or "") for chunk in chunks]
        sizes = [len(split_units(text or "", spaceless)) for text in texts]
        if None in texts or sum(sizes) != len(split_units(row["text_normalized"], spaceless)):
            continue  # a number across the boundary, or another version of the normalizer
        for index, words in iter_lost_words(_aligned(row, spaceless), sizes):
            ends = texts_around_boundary(chunks[index]["text"], chunks[index + 1]["text"], spaceless)
            shown = _joined([_shortened(word) for word in words[:MAX_LOST]], spaceless)
            shown += " …" * (len(words) > MAX_LOST)
            yield ref, BoundaryProblem(index, LOST, shown, *ends, weight=float(len(words)))


def _is_spaceless(row: Row) -> bool:
    num_hyp_words = row["num_ref_words"] - row["deletions"] + row["insertions"]
    return is_character_score(
        row["reference_normalized"], row["text_normalized"] or "", row["num_ref_words"], num_hyp_words
    )


def _aligned(row: Row, spaceless: bool) -> list[AlignedSpan]:
    return align(row["reference_normalized"], row["text_normalized"] or "", spaceless)


def _joined(words: Sequence[str], spaceless: bool) -> str:
    return ("" if spaceless else " ").join(words)


def _pieces(aligned: Sequence[AlignedSpan], spaceless: bool) -> Iterator[Piece]:
    for number, one in enumerate(aligned):
        if one.kind == "substitute":
            pairs = zip(one.reference, one.hypothesis, strict=True)
            yield from (
                Piece("substitute", _shortened(reference), _shortened(hypothesis)) for reference, hypothesis in pairs
            )
            continue
        words = one.reference or one.hypothesis
        is_equal = one.kind == "equal"
        before = 0 if is_equal and number == 0 else CONTEXT
        after = 0 if is_equal and number == len(aligned) - 1 else CONTEXT
        yield from _abbreviated(one.kind, words, before, after, spaceless)


def _abbreviated(kind: EditKind, words: Sequence[str], before: int, after: int, spaceless: bool) -> Iterator[Piece]:
    """Yields the words as one piece, or, if there are many, the first, the number of skipped words, and the last."""
    stop = len(words) - after
    if stop - before <= CONTEXT:
        yield _piece(kind, words, spaceless)
        return
    if before:
        yield _piece(kind, words[:before], spaceless)
    yield Piece("skip", count=stop - before, of=kind)
    if after:
        yield _piece(kind, words[stop:], spaceless)


def _piece(kind: EditKind, words: Sequence[str], spaceless: bool) -> Piece:
    shown = _joined([_shortened(word) for word in words], spaceless)
    return Piece(kind, reference=shown) if kind == "delete" else Piece(kind, hypothesis=shown)


def _shortened(word: str) -> str:
    return word if len(word) <= MAX_WORD else f"{word[:MAX_WORD]}…"
