"""How a run ends: old rows replaced, everything counted, and success only if listing and output agree to the row.

What is counted is read back from the output. Nothing of a run's own memory enters but its receipts' seconds.
"""

import json
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.console import Console

from distil_ray.cli.console import abbreviate, log_field
from distil_ray.errors import ExitCode, RunError
from distil_ray.evaluation.summary import (
    RunInfo,
    RunSummary,
    StageTotals,
    exceeds_failed_fraction,
    summarize,
    write_run_files,
)
from distil_ray.evaluation.summary_table import print_summary
from distil_ray.output.ledger import Ledger, find_ids
from distil_ray.output.ledger_rows import drop_rows, duplicate_rows, stale_rows
from distil_ray.output.run_context import SCRATCH, SUCCESS, Run
from distil_ray.pipeline.planner import Plan
from distil_ray.pipeline.setup import read_ledger
from distil_ray.redaction import redact
from distil_ray.report.run_page import write_run_page
from distil_ray.storage.storage import StorageError, join, normalize

logger = logging.getLogger(__name__)

CommitResult = dict[str, Any]

LISTING_LAG_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # pauses before a listing is believed that lacks what was committed


@dataclass(frozen=True, slots=True)
class RunTimer:
    """When the run began: the time of day for people, the monotonic clock for rates."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self.started


def finalize(
    run: Run,
    plan: Plan,
    receipts: Sequence[CommitResult],
    clock: RunTimer,
    console: Console,
    *,
    write_page: bool = True,
) -> ExitCode:
    """Replaced rows, summary, accounting and the marker of success, in this order; sweeps what only the attempt needed.

    The page for people comes last, and is made too where the accounting fails, unless it is not to be written.
    Raises `RunError` if listing and output do not agree, or if the storage fails here too.
    """
    write_page = write_page and run.config.report.write
    try:
        code = _finalize(run, plan, receipts, clock, console)
    except StorageError as error:
        raise RunError("\n".join([str(error), *_task_errors(receipts), _resume_hint(run)])) from error
    except RunError:
        if write_page:
            _write_page(run, receipts, console)
        raise
    if write_page:
        _write_page(run, receipts, console)
    return code


def _finalize(run: Run, plan: Plan, receipts: Sequence[CommitResult], clock: RunTimer, console: Console) -> ExitCode:
    facts = RunInfo(
        run_id=run.run_id,
        fingerprint=run.fingerprint,
        model=run.model_identity,
        chunking=run.chunking.describe(),
        listed_keys=plan.listed_keys,
        num_done_before=plan.num_done,
        work=StageTotals.of(receipts),
        started_at=clock.started_at,
        finished_at=datetime.now(UTC),
        wall_s=clock.wall_s,
        keeps_others=run.config.output.on_settings_change == "keep",
    )
    output = normalize(run.config.output.uri)
    write_events(run, receipts)
    ledger = _drop_replaced_rows(run, plan, receipts, console)
    report = summarize(ledger.files, run.storage, facts, run.config.scoring)
    write_run_files(report, run.folder_uri, run.storage)
    check_completeness(run, plan, ledger, report, receipts)
    for name in SCRATCH:
        run.storage.delete(join(run.folder_uri, name))
    run.storage.put(join(run.folder_uri, SUCCESS), b"")
    print_summary(report, output, console)
    _log_other_settings(run, ledger, console)
    return _exit_code(report, run.config.max_failed_fraction, console)


def write_events(run: Run, receipts: Sequence[CommitResult], *more: dict[str, Any]) -> None:
    """events.jsonl, whole: a line for every receipt so far, and for what else happened."""
    told = [receipt | {"failures_by_kind": dict(receipt["failures_by_kind"] or ())} for receipt in receipts]
    lines = (json.dumps(event) + "\n" for event in (*told, *more))
    run.storage.put(join(run.folder_uri, "events.jsonl"), "".join(lines).encode())


def _write_page(run: Run, receipts: Sequence[CommitResult], console: Console) -> None:
    """report.html. A run never fails over it: a log line and an event say what went wrong."""
    try:
        uri = write_run_page(normalize(run.config.output.uri), run.run_id, run.config)
        log_field("report", uri, console)
    except Exception as error:
        words = f"report.html could not be made: {redact(' '.join(str(error).split())) or type(error).__name__}"
        logger.warning(words, exc_info=logger.isEnabledFor(logging.DEBUG))
        with suppress(StorageError):
            write_events(run, receipts, {"report_error": words})


def _read_complete_ledger(run: Run, plan: Plan, receipts: Sequence[CommitResult]) -> Ledger:
    """The ledger after the work; asked for again where rows are missing though no receipt knows of a failure.

    Some stores list what was just written a while later, and now and then what was written long ago.
    """
    ledger = read_ledger(run)
    for pause_s in () if any(receipt["error"] for receipt in receipts) else LISTING_LAG_S:
        if not len(ledger.missing(plan.listed_keys)):
            break
        time.sleep(pause_s)
        ledger = read_ledger(run)
    return ledger


def _drop_replaced_rows(run: Run, plan: Plan, receipts: Sequence[CommitResult], console: Console) -> Ledger:
    """Drops the rows that newer ones replace, once nothing is missing; gives the ledger after it."""
    ledger = _read_complete_ledger(run, plan, receipts)
    if len(ledger.missing(plan.listed_keys)):
        return ledger
    changed = stale_rows(ledger, plan.listed_ids, plan.listed_keys)
    worse = np.setdiff1d(duplicate_rows(ledger), changed)
    for rows, what in (
        (changed, "of recordings whose source or settings have changed"),
        (worse, "of recordings that have a better or a newer one"),
    ):
        if len(rows):
            log_field("replaced", f"{len(rows):,} rows {what}", console)
    if not len(changed) and not len(worse):
        return ledger
    drop_rows(ledger, np.concatenate([changed, worse]), run.storage)
    return read_ledger(run)


def check_completeness(
    run: Run, plan: Plan, ledger: Ledger, report: RunSummary, receipts: Sequence[CommitResult]
) -> None:
    """Raises `RunError` unless every listed recording has exactly one row, in the ledger and in the summary."""
    missing, duplicates = ledger.missing(plan.listed_keys), ledger.duplicates()
    num_counted = report.summary["num_recordings"]
    if not len(missing) and not len(duplicates) and num_counted == plan.num_listed:
        return
    lines = []
    if len(missing):
        names = find_ids(missing, run.plan_uri, run.fingerprint, run.storage)
        lines.append(
            f"{len(missing)} of {plan.num_listed} listed recordings have no row: {abbreviate(sorted(names), len(missing))}"
        )
    if len(duplicates):
        keys = np.unique(ledger.keys[duplicates])
        names = ledger.names(duplicates, run.storage)
        lines.append(f"{len(keys)} recordings have more than one row: {abbreviate(sorted(names), len(keys))}")
    if not lines:
        lines.append(f"{plan.num_listed} recordings are listed, but the summary counts {num_counted} rows")
    raise RunError("\n".join([*lines, *_task_errors(receipts), _resume_hint(run)]))


def _task_errors(receipts: Sequence[CommitResult]) -> list[str]:
    """What went wrong with whole tasks, the first few."""
    return list(dict.fromkeys(f"task {r['task_id']}: {r['error']}" for r in receipts if r["error"]))[:5]


def _resume_hint(run: Run) -> str:
    return f"No {SUCCESS} was written; the same command does what is missing. Run folder: {run.folder_uri}"


def _log_other_settings(run: Run, ledger: Ledger, console: Console) -> None:
    others = {name: rows for name, rows in ledger.fingerprints.items() if name != run.fingerprint}
    if others:
        log_field(
            "other settings",
            f"{sum(others.values()):,} of {ledger.num_rows:,} rows were made with other settings and stand as they were"
            f" (fingerprint {', '.join(sorted(others))}; this run's is {run.fingerprint})",
            console,
        )


def _exit_code(report: RunSummary, max_failed_fraction: float, console: Console) -> ExitCode:
    failed, total = report.summary["num_failed"], report.summary["num_recordings"]
    if exceeds_failed_fraction(report.summary, max_failed_fraction):
        allowed = f"max_failed_fraction={max_failed_fraction:g} allows"
        log_field("too many", f"{failed} of {total} recordings failed, more than {allowed}: exit code 3", console)
        return ExitCode.TOO_MANY_FAILED
    return ExitCode.DONE
