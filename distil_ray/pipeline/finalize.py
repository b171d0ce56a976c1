"""End of a run: replaced rows dropped, summary written, completeness checked, success marked.

Counts come from the output: from its files of transcripts, from its indexes, and from the entries of files that this
run has written and that are listed with the version they were written with (`committed_files.py`). The only figures
from the memory of the run are the seconds in the results of its commits. A run succeeds only if the output holds
exactly one row per listed recording.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.console import Console

from distil_ray.cli.console import abbreviate, log_field
from distil_ray.config import Config
from distil_ray.errors import ExitCode, RunError
from distil_ray.evaluation.statistics_index import StatisticsIndex
from distil_ray.evaluation.summary import (
    RunInfo,
    RunSummary,
    StageTotals,
    summarize,
    write_run_files,
)
from distil_ray.evaluation.summary_table import print_summary
from distil_ray.output.ledger import Ledger, find_ids
from distil_ray.output.ledger_index import IndexUpdate
from distil_ray.output.ledger_rows import drop_rows, duplicate_rows, stale_rows
from distil_ray.output.run_context import PARTS_FOLDER, SUCCESS_FILE, Run
from distil_ray.pipeline.commit_results import CommitResults
from distil_ray.pipeline.committed_files import CommittedFiles
from distil_ray.pipeline.deleted_sources import find_deleted_sources
from distil_ray.pipeline.planner import Plan
from distil_ray.pipeline.setup import read_ledger
from distil_ray.redaction import redact
from distil_ray.report.run_folder import EVENTS
from distil_ray.report.run_page import write_run_page
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join, normalize

logger = logging.getLogger(__name__)

LISTING_LAG_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # pauses between listings, where a store lists committed files late


@dataclass(frozen=True, slots=True)
class RunTimer:
    """Start of the run: time of day for the summary, monotonic timer for rates."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self.started


def finalize(
    run: Run,
    plan: Plan,
    results: CommitResults,
    committed: CommittedFiles,
    timer: RunTimer,
    console: Console,
    *,
    check: Callable[[], object],
    write_page: bool = True,
) -> ExitCode:
    """Drops replaced rows, writes the summary, checks completeness and marks success, in this order.

    Temporary folders of the attempt are deleted. The report page comes last; it is also written if the completeness
    check fails.

    Args:
        run: The run.
        plan: The plan that was carried out.
        results: Results of the commits.
        committed: Entries of the files that these commits have written.
        timer: Started when the run started.
        console: Destination of the summary table.
        check: Raises an error if this run may no longer write (`Lease.check`). Called before each change of files that
            other runs may have written.
        write_page: Write report.html (if `report.write` is set too).

    Returns:
        `ExitCode.DONE` or `ExitCode.TOO_MANY_FAILED`.

    Raises:
        RunError: If listing and output do not agree, or if the storage fails.
    """
    write_page = write_page and run.config.report.write
    try:
        code = _finalize(run, plan, results, committed, timer, console, check)
    except StorageError as error:
        raise RunError("\n".join([str(error), *results.errors, _resume_hint(run)])) from error
    except RunError:
        if write_page:
            _write_page(run, results, console)
        raise
    if write_page:
        _write_page(run, results, console)
    return code


def _finalize(
    run: Run,
    plan: Plan,
    results: CommitResults,
    committed: CommittedFiles,
    timer: RunTimer,
    console: Console,
    check: Callable[[], object],
) -> ExitCode:
    facts = RunInfo(
        run_id=run.run_id,
        fingerprint=run.fingerprint,
        model=run.model_identity,
        chunking=run.chunking.describe(),
        listed_keys=plan.listed_keys,
        num_done_before=plan.num_done,
        work=StageTotals.of(results),
        started_at=timer.started_at,
        finished_at=datetime.now(UTC),
        wall_s=timer.wall_s,
        assistant=run.config.model.assistant,
        english_only=run.languages == ("en",),
        keeps_others=run.config.output.on_settings_change == "keep",
    )
    output = normalize(run.config.output.uri)
    write_events(run, results)
    update = IndexUpdate(own=committed.tables)
    ledger, deleted = _drop_unwanted_rows(run, plan, results, console, update, check)
    facts = replace(facts, num_deleted_sources=deleted)
    statistics = StatisticsIndex(update.entries, output, run.storage, committed.tables)
    report = summarize(ledger.files, run.storage, facts, run.config.scoring, statistics)
    write_run_files(report, run.folder_uri, run.storage)
    check_completeness(run, plan, ledger, report, results)
    check()
    run.storage.delete(join(run.folder_uri, PARTS_FOLDER))
    run.storage.put(join(run.folder_uri, SUCCESS_FILE), b"")
    update.write(output, run.storage)
    statistics.write()
    print_summary(report, output, console)
    _log_other_settings(run, ledger, console)
    return _exit_code(report, run.config, console)


def write_events(run: Run, results: CommitResults, *more: dict[str, Any]) -> None:
    """Writes events.jsonl: one line per commit result so far, followed by `more`."""
    results.write(join(run.folder_uri, EVENTS), run.storage, *more)


def _write_page(run: Run, results: CommitResults, console: Console) -> None:
    """Writes report.html. An error is logged and added to events.jsonl; it does not fail the run."""
    try:
        uri = write_run_page(normalize(run.config.output.uri), run.run_id, run.config)
        log_field("report", uri, console, uri=uri)
    except Exception as error:
        words = f"report.html could not be written: {redact(' '.join(str(error).split())) or type(error).__name__}"
        logger.warning(words, exc_info=logger.isEnabledFor(logging.DEBUG))
        with suppress(StorageError):
            write_events(run, results, {"report_error": words})


def _read_complete_ledger(run: Run, plan: Plan, results: CommitResults, update: IndexUpdate) -> Ledger:
    """Reads the ledger after the work; again after a pause where rows are missing although no commit failed.

    Some stores list new files late, and sometimes miss old ones.
    """
    ledger = read_ledger(run, update)
    for pause_s in () if results.errors else LISTING_LAG_S:
        if not len(ledger.missing(plan.listed_keys)):
            break
        time.sleep(pause_s)
        ledger = read_ledger(run, update)
    return ledger


def _drop_unwanted_rows(
    run: Run,
    plan: Plan,
    results: CommitResults,
    console: Console,
    update: IndexUpdate,
    check: Callable[[], object],
) -> tuple[Ledger, int | None]:
    """Drops rows that newer ones replace, and those of deleted sources if set, once no row is missing.

    Returns the ledger afterwards, and the number of recordings with rows that are no longer listed.
    """
    ledger = _read_complete_ledger(run, plan, results, update)
    if len(ledger.missing(plan.listed_keys)):
        return ledger, None
    deleted = find_deleted_sources(run, plan, ledger, console)
    changed = stale_rows(ledger, plan.listed_ids, plan.listed_keys)
    worse = np.setdiff1d(duplicate_rows(ledger), changed)
    for rows, reason, what in (
        (changed, "changed", "of recordings whose audio or settings changed"),
        (worse, "duplicate", "of recordings that have a better or newer row"),
    ):
        if len(rows):
            log_field("replaced", f"{len(rows):,} rows {what}", console, num_rows=len(rows), reason=reason)
    unwanted = np.unique(np.concatenate([changed, worse, *([deleted.rows] if deleted.removes else [])]))
    if not len(unwanted):
        return ledger, deleted.num_recordings
    drop_rows(ledger, unwanted, run.storage, check)
    return read_ledger(run, update), deleted.num_recordings


def check_completeness(run: Run, plan: Plan, ledger: Ledger, report: RunSummary, results: CommitResults) -> None:
    """Raises `RunError` unless every listed recording has exactly one row, in the ledger and in the summary."""
    missing, duplicates = ledger.missing(plan.listed_keys), ledger.duplicates()
    num_counted = report.summary["num_recordings"]
    if not len(missing) and not len(duplicates) and num_counted == plan.num_listed:
        return
    lines = []
    if len(missing):
        names = find_ids(missing, run.plan_uri, run.fingerprint, run.storage)
        lines.append(
            f"{len(missing)} of {plan.num_listed} listed recordings have no row:"
            f" {abbreviate(sorted(names), len(missing))}"
        )
    if len(duplicates):
        keys = np.unique(ledger.keys[duplicates])
        names = ledger.names(duplicates, run.storage)
        lines.append(f"{len(keys)} recordings have more than one row: {abbreviate(sorted(names), len(keys))}")
    if not lines:
        lines.append(f"{plan.num_listed} recordings are listed, but the summary counts {num_counted} rows")
    raise RunError("\n".join([*lines, *results.errors, _resume_hint(run)]))


def _resume_hint(run: Run) -> str:
    remedy = "Re-run the same command to process what is missing"
    return f"No {SUCCESS_FILE} was written. {remedy}. Run folder: {run.folder_uri}"


def _log_other_settings(run: Run, ledger: Ledger, console: Console) -> None:
    others = {name: rows for name, rows in ledger.fingerprints.items() if name != run.fingerprint}
    if others:
        log_field(
            "other settings",
            f"{sum(others.values()):,} of {ledger.num_rows:,} rows were made with other settings and are kept"
            f" (fingerprint {', '.join(sorted(others))}; this run's is {run.fingerprint})",
            console,
            num_rows=sum(others.values()),
            num_rows_total=ledger.num_rows,
            rows_by_fingerprint=others,
            fingerprint=run.fingerprint,
        )


def _exit_code(report: RunSummary, config: Config, console: Console) -> ExitCode:
    failed, total = report.summary["num_failed"], report.summary["num_recordings"]
    if exceeded := config.too_many_failed(failed, total):
        log_field(
            "failed",
            f"{failed} of {total} recordings, {exceeded}: exit code 3",
            console,
            level="error",
            num_failed=failed,
            num_recordings=total,
            max_failed_fraction=config.max_failed_fraction,
        )
        return ExitCode.TOO_MANY_FAILED
    return ExitCode.DONE
