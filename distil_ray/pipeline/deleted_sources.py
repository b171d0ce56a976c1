"""Rows of recordings that the input no longer lists: counted, listed or removed, as `output.deleted_sources` says.

Only a run that lists its whole input can tell; one with `retry_failed` skips recordings, and is left out. If more rows
than `output.max_deleted_fraction` are not listed, none is removed: `input.uri` is then probably a part of the input.
"""

import csv
import io
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from distil_ray.cli.console import abbreviate, log_field
from distil_ray.output.ledger import Ledger
from distil_ray.output.ledger_rows import Rows, read_rows, rows_outside, unlisted_rows
from distil_ray.output.run_context import DELETED_SOURCES_FILE, Run
from distil_ray.pipeline.planner import Plan
from distil_ray.storage.uris import join

COLUMNS = ("recording_id", "uri", "processed_at")
ACTION = "action"  # the last column: kept or removed


@dataclass(frozen=True, slots=True)
class DeletedSources:
    """Rows whose recordings are not listed.

    Attributes:
        num_recordings: Recordings that they belong to; None if the run cannot tell.
        rows: The rows in the ledger.
        removes: They are to be removed.
    """

    num_recordings: int | None
    rows: Rows
    removes: bool


def find_deleted_sources(run: Run, plan: Plan, ledger: Ledger, console: Console) -> DeletedSources:
    """Finds the rows, and writes deleted_sources.csv unless they are only counted. Removes nothing."""
    output = run.config.output
    if run.config.retry_failed:
        return DeletedSources(None, np.empty(0, np.int64), False)
    rows = _surely_unlisted(run, plan, ledger, console)
    count = len(np.unique(ledger.ids[rows]))
    if output.deleted_sources == "keep" or not count:
        return DeletedSources(count, rows, False)
    removes = output.deleted_sources == "remove"
    share, limit = len(rows) / ledger.num_rows, output.max_deleted_fraction
    if removes and share > limit:
        removes = False
        words = (
            f"{len(rows):,} of {ledger.num_rows:,} rows belong to recordings that input.uri does not list, more than"
            f" output.max_deleted_fraction={limit:g}: they are kept. Check that input.uri is the whole input"
        )
        log_field("warning", words, console, level="warning")
    _write_list(run, ledger, rows, "removed" if removes else "kept")
    words = f"{count:,} recordings that the input no longer lists{', their rows are removed' * removes}"
    log_field("deleted", words, console, num_recordings=count, num_rows=len(rows), removed=removes)
    return DeletedSources(count, rows, removes)


def _surely_unlisted(run: Run, plan: Plan, ledger: Ledger, console: Console) -> Rows:
    """Returns the rows of recordings that are not listed and are in no file that could not be read as a whole."""
    rows = unlisted_rows(ledger, plan.listed_ids)
    known = rows_outside(ledger, rows, plan.unread_files, run.storage)
    if num_unknown := len(rows) - len(known):
        words = (
            f"{num_unknown:,} rows are kept, as their files could not be read and may still hold their recordings"
            f" ({abbreviate(sorted(plan.unread_files), len(plan.unread_files))})"
        )
        log_field("warning", words, console, level="warning", num_rows=num_unknown)
    return known


def _write_list(run: Run, ledger: Ledger, rows: Rows, action: str) -> None:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow([*COLUMNS, ACTION])
    for row in read_rows(ledger, rows, list(COLUMNS), run.storage):
        writer.writerow([row["recording_id"], row["uri"], row["processed_at"].isoformat(timespec="seconds"), action])
    run.storage.put(join(run.folder_uri, DELETED_SOURCES_FILE), sink.getvalue().encode())


def read_removed(data: bytes) -> set[str]:
    """Returns the ids of the removed recordings of a list."""
    rows = csv.DictReader(io.StringIO(data.decode(), newline=""))
    return {row["recording_id"] for row in rows if row[ACTION] == "removed"}
