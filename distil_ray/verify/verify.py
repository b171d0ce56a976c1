"""Consistency check of an output: its files, its rows, its runs and, optionally, the input.

Can run at any time and changes nothing. Every file is decoded, keys are counted again, and plans and summaries are
compared with the rows that exist. A difference is a fault of the output (exit code 1); a note is harmless. The quality
of transcripts is not checked here; `recheck.py` transcribes a sample again.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice, repeat

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from distil_ray.cli.console import NAMES_SHOWN, abbreviate, format_count, log_field
from distil_ray.config import Config
from distil_ray.config.loader import parse_config
from distil_ray.errors import DistilRayError, ExitCode, SettingsError
from distil_ray.output.forgotten import FORGOTTEN_FOLDER, Forgotten, Remembered, rows_forgotten_since
from distil_ray.output.lease import LEASE, LeaseHolder
from distil_ray.output.ledger import IDENTITY, KEY, TRANSCRIPTS, Keys, find_ids, id_keys, isin_sorted, recording_keys
from distil_ray.output.run_context import (
    DELETED_SOURCES_FILE,
    PARTS_FOLDER,
    RUNS_FOLDER,
    SUCCESS_FILE,
    ChunkingPlan,
    compute_fingerprint,
)
from distil_ray.pipeline.deleted_sources import read_removed
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.listing import list_recordings
from distil_ray.recognition.quality_flags import UNTRANSCRIBED_SPEECH
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import MissingError, StorageError
from distil_ray.storage.uris import join, normalize
from distil_ray.types import WORD_COUNTS, Status
from distil_ray.verify.inventory import (
    Findings,
    FingerprintRows,
    Inventory,
    RenamedFile,
    RunFolder,
    Summary,
    read_plan,
    take_inventory,
)

OUTPUT_FOLDERS = (TRANSCRIPTS, RUNS_FOLDER, FORGOTTEN_FOLDER)  # an output has files in one of them
LINES_SHOWN = 50  # differences printed
LISTED_AT_ONCE = 16_384  # recordings


def verify(config: Config, console: Console) -> ExitCode:
    """Checks `output.uri`, compares it with `input.uri` if that is set, and prints the result and the verdict."""
    return print_verdict(find_differences(config, console), console)


def find_differences(config: Config, console: Console) -> list[str]:
    """Does the same without a verdict. Returns the differences, which are faults of the output."""
    storage = Storage(config.storage)
    findings = Findings()
    try:
        output = require_existing_output(config, storage)
        inventory = take_inventory(output, storage, findings)
    except StorageError as error:
        raise SettingsError(f"output.uri={config.output.uri}: {error}") from error
    writing = _find_writer(output, storage, findings)
    _check_duplicates(inventory, output, storage, findings)
    _check_plans(inventory, output, writing, storage, findings)
    _check_last_summary(inventory, output, storage, findings)
    explained = _explain_kinds(inventory, output, storage, findings)
    _note_normalizers(inventory, findings)
    _note_leftovers(inventory, writing, findings)
    _note_untranscribed(inventory, findings)
    if config.input.uri:
        _check_listing(config, inventory, storage, findings)
    _print_rows(inventory, explained, output, console)
    _print_lines("note", findings.notes, console)
    _print_lines("difference", findings.differences, console)
    return findings.differences


def print_verdict(differences: Sequence[str], console: Console, recheck_problem: str | None = None) -> ExitCode:
    """Prints the verdict and returns the exit code.

    Args:
        differences: Differences found by `find_differences`.
        console: Receives the line.
        recheck_problem: Sentence that says why a recheck has failed; None if it succeeded or there was none.
    """
    counted = format_count(len(differences), "difference") if differences else None
    problems = list(filter(None, [counted, recheck_problem]))
    if not problems:
        log_field("verdict", "no differences", console)
        return ExitCode.DONE
    log_field("verdict", f"{'; '.join(problems)} (exit code {ExitCode.FAILED:d})", console)
    return ExitCode.FAILED


def require_output(config: Config) -> str:
    """Returns the normalized `output.uri`. Raises `SettingsError` if it is not set."""
    if not config.output.uri:
        raise SettingsError("output.uri is not set. Name the output, for example output.uri=s3://bucket/folder.")
    return normalize(config.output.uri)


def require_existing_output(config: Config, storage: Storage) -> str:
    """Returns the normalized `output.uri`.

    Raises:
        SettingsError: It is not set, or nothing of an output is there: it is not the folder that was meant.
        StorageError: The storage does not answer.
    """
    output = require_output(config)
    if all(next(storage.list_files(join(output, folder)), None) is None for folder in OUTPUT_FOLDERS):
        found = " and ".join(f"no {folder}/" for folder in OUTPUT_FOLDERS)
        raise SettingsError(f"output.uri={config.output.uri}: nothing found ({found})")
    return output


def _find_writer(output: str, storage: Storage, findings: Findings) -> str | None:
    """Returns the id of the run that currently holds the lease; None if there is none."""
    try:
        holder = LeaseHolder.decode(storage.read(join(output, LEASE)))
    except MissingError:
        return None
    except (StorageError, ValueError, KeyError, TypeError) as error:
        findings.differences.append(f"{LEASE}: cannot be read ({error})")
        return None
    if holder.is_expired(datetime.now(UTC)):
        findings.notes.append(f"{LEASE}: the lease of {holder}, has expired; the next run takes it over")
        return None
    findings.notes.append(f"{holder}, is writing to this output; missing rows may still be written")
    return holder.run_id


def _check_duplicates(inventory: Inventory, output: str, storage: Storage, findings: Findings) -> None:
    """Checks that each id has one row, whatever its version and settings."""
    keys, ids = inventory.rows.keys, inventory.rows.ids
    duplicates = np.isin(ids, _find_repeated(ids))
    same = np.isin(keys, _find_repeated(keys))
    for rows, words in (
        (same, "have more than one row of the same source and settings"),
        (
            duplicates & ~np.isin(ids, ids[same]),
            "have rows of several versions of their source, or of several settings",
        ),
    ):
        if rows.any():
            names = _format_ids(keys[rows], output, storage)
            findings.differences.append(f"{len(np.unique(ids[rows]))} recordings {words}: {names}")


def _find_repeated(keys: Keys) -> Keys:
    found, counts = np.unique(keys, return_counts=True)
    return found[counts > 1]


def _format_ids(keys: Keys, output: str, storage: Storage) -> str:
    try:
        found = find_ids(keys, join(output, TRANSCRIPTS), "", storage, NAMES_SHOWN)
    except DistilRayError:  # an unreadable file, which is already reported
        return "(ids are unavailable because a file cannot be read)"
    return abbreviate(found, len(np.unique(keys)))


def _check_plans(inventory: Inventory, output: str, writing: str | None, storage: Storage, findings: Findings) -> None:
    """Checks that every planned recording has a row, and that file names follow from rows or from a plan."""
    rows = inventory.rows
    keys, ids = np.sort(rows.keys), np.sort(rows.ids)
    unexplained = set(rows.renamed)
    fingerprints = _fingerprints_of_runs(inventory)
    removed = _read_removed(inventory, output, storage)
    for run in inventory.runs.values():
        missing: list[str] = []
        planned = replaced = 0
        try:
            for task in read_plan(
                join(output, RUNS_FOLDER, run.run_id, "plan"), fingerprints.get(run.run_id, ""), storage
            ):
                planned += len(task.keys)
                there, known = isin_sorted(task.keys, keys), isin_sorted(task.ids, ids)
                missing += [name for i in np.flatnonzero(~known) if (name := task.names[i]) not in removed]
                replaced += int((known & ~there).sum())
                if (
                    task.task_id in unexplained
                    and isin_sorted(rows.renamed[task.task_id].keys, np.sort(task.keys)).all()
                ):
                    unexplained.remove(task.task_id)
        except (StorageError, pa.ArrowException, OSError, ValueError) as error:
            findings.differences.append(f"{RUNS_FOLDER}/{run.run_id}/plan: cannot be read ({error})")
            continue
        if run.run_id != writing:
            _report_run(run, planned, replaced, missing, findings)
    if unexplained:
        _report_renamed_files(inventory, unexplained, findings)


def _read_removed(inventory: Inventory, output: str, storage: Storage) -> set[str]:
    """Returns the ids of the recordings whose rows runs have removed, because their sources were deleted."""
    runs = (name for name, run in inventory.runs.items() if DELETED_SOURCES_FILE in run.files)
    lists = (storage.read(join(output, RUNS_FOLDER, name, DELETED_SOURCES_FILE)) for name in runs)
    return {name for data in lists for name in read_removed(data)}


def _fingerprints_of_runs(inventory: Inventory) -> dict[str, str]:
    """Returns the fingerprint of each run, from its summary or else from its rows."""
    found = {run: name for name, kind in inventory.rows.kinds.items() for run in kind.runs}
    summarized = {name: run.summary["fingerprint"] for name, run in inventory.runs.items() if run.summary}
    return found | summarized


def _report_run(run: RunFolder, planned: int, replaced: int, missing: list[str], findings: Findings) -> None:
    if missing:
        ended = "" if run.succeeded else ", which did not finish (re-run the same command to resume)"
        words = f"{len(missing)} of {planned} recordings that run {run.run_id} planned have no row{ended}"
        findings.differences.append(f"{words}: {abbreviate(missing, len(missing))}")
    elif not run.succeeded:
        findings.notes.append(f"run {run.run_id} has no {SUCCESS_FILE}; all that it planned has rows")
    if replaced:
        findings.notes.append(f"{replaced} of {planned} recordings of run {run.run_id} were transcribed again since")


def _report_renamed_files(inventory: Inventory, unexplained: set[str], findings: Findings) -> None:
    """Reports files whose names do not follow from their rows.

    A file from which newer rows were removed keeps its name, which then follows from a plan. Without the plan it cannot
    be checked: its run folder may be missing, or a later run with the same `run_id` may have replaced the plan.
    """
    replaced = {name for name in unexplained if _is_plan_replaced(inventory.rows.renamed[name], inventory.runs)}
    if replaced:
        findings.notes.append(
            f"the names of {format_count(len(replaced), 'file')} cannot be checked, because a later run with the same"
            f" run_id has replaced their plan: {_abbreviate_files(replaced)}"
        )
    if not (others := unexplained - replaced):
        return
    words = f"{len(others)} files contain other rows than their names say: {_abbreviate_files(others)}"
    planless = [name for kind in inventory.rows.kinds.values() for name in kind.runs if name not in inventory.runs]
    if planless:
        findings.notes.append(f"{words}. The run folders that could explain this are missing, such as {planless[0]}")
    else:
        findings.differences.append(words)


def _is_plan_replaced(file: RenamedFile, runs: Mapping[str, RunFolder]) -> bool:
    """Returns whether a run of the rows was started again after it had recognized them."""
    folders = [(runs[name], time) for name, time in file.runs.items() if name in runs]
    return any(run.summary and time < datetime.fromisoformat(run.summary["started_at"]) for run, time in folders)


def _abbreviate_files(task_ids: Collection[str]) -> str:
    return abbreviate([f"task-{name}.parquet" for name in sorted(task_ids)], len(task_ids))


def _check_last_summary(inventory: Inventory, output: str, storage: Storage, findings: Findings) -> None:
    """Compares the summary of the last successful run with the rows. Rows may have been removed on request since."""
    ended = [run.summary for run in inventory.runs.values() if run.succeeded and run.summary]
    if not ended:
        findings.notes.append(f"no run has finished with {SUCCESS_FILE}")
        return
    summary = max(ended, key=lambda summary: (summary["finished_at"], summary["run_id"]))  # whole seconds
    kind = FingerprintRows()
    names = summary.get("rows_by_fingerprint") or [summary["fingerprint"]]
    for name in names:
        kind.add(inventory.rows.kinds.get(name, FingerprintRows()))
    who, counted = f"the summary of run {summary['run_id']}", summary["num_recordings"]
    forgotten = rows_forgotten_since(datetime.fromisoformat(summary["finished_at"]), output, storage)
    removed = sum(forgotten[name] for name in names)
    if removed:
        findings.notes.append(f"distil-ray forget removed {format_count(removed, 'row')} since {who}")
    if kind.num_rows + removed < counted:
        words = f"{who} counts {counted} recordings, the output has {kind.num_rows} rows of its settings"
        findings.differences.append(words)
    elif kind.num_rows == counted and not removed:  # after a removal, the rows include some of a later run
        found = {f"num_{status}": kind.statuses[status] for status in Status} | {
            name: kind.sums[name] for name in WORD_COUNTS
        }
        wrong = [f"{name} {found[name]} instead of {summary[name]}" for name in found if found[name] != summary[name]]
        if abs(kind.audio_s - summary["audio_s"]) > 0.01:
            wrong.append(f"audio_s {kind.audio_s:.3f} instead of {summary['audio_s']:.3f}")
        wrong += _compare_untranscribed(kind, summary)
        if wrong:
            findings.differences.append(f"the rows do not add up to {who}: {', '.join(wrong)}")


def _compare_untranscribed(kind: FingerprintRows, summary: Summary) -> list[str]:
    """Returns differences in untranscribed speech. Summaries of earlier versions lack it."""
    counted, flagged = summary.get("unheard_s") or 0.0, summary.get("num_untranscribed_speech")
    if flagged is None:
        return []
    found = kind.quality_flags[UNTRANSCRIBED_SPEECH]
    wrong = [f"num_untranscribed_speech {found} instead of {flagged}"] if found != flagged else []
    if abs(kind.unheard_s - counted) > 0.01:
        wrong.append(f"unheard_s {kind.unheard_s:.3f} instead of {counted:.3f}")
    return wrong


def _explain_kinds(inventory: Inventory, output: str, storage: Storage, findings: Findings) -> dict[str, str]:
    """Returns, for each fingerprint, a run whose stored settings give it."""
    explained = {}
    for name, kind in inventory.rows.kinds.items():
        claims = [run for run in inventory.runs.values() if run.summary and run.summary["fingerprint"] == name]
        for run in claims:
            if _has_fingerprint(run, name, kind.models, output, storage):
                explained[name] = run.run_id
                break
        else:
            reason = (
                "their config.yaml gives a different one; it was changed, or written by another version"
                if claims
                else ""
            )
            where = f"runs {', '.join(run.run_id for run in claims[:3])} claim it, but " if claims else ""
            words = f"{where}{reason}" or "no run folder explains them"
            findings.notes.append(f"fingerprint {name}, {kind.num_rows} rows: {words}")
    return explained


def _note_normalizers(inventory: Inventory, findings: Findings) -> None:
    """Notes languages whose rows were scored by several normalizers."""
    by_language = defaultdict[str, Counter[str]](Counter)
    for kind in inventory.rows.kinds.values():
        for (language, normalizer), num in kind.normalizers.items():
            by_language[language][normalizer] += num
    for language, normalizers in sorted(by_language.items()):
        if len(normalizers) > 1:
            counts = ", ".join(f"{num:,} by {normalizer}" for normalizer, num in normalizers.most_common())
            words = f"rows of language {language} were scored by several normalizers, so their WERs are not comparable"
            findings.notes.append(f"{words}: {counts}")


def _has_fingerprint(run: RunFolder, name: str, models: Counter[str], output: str, storage: Storage) -> bool:
    """Returns True if the stored settings of a run give the fingerprint `name` for one of the models."""
    uri = join(output, RUNS_FOLDER, run.run_id, "config.yaml")
    try:
        config = parse_config(storage.read(uri).decode(), uri)
        chunking = ChunkingPlan.from_description((run.summary or {})["chunking"])
    except (DistilRayError, KeyError, ValueError):
        return False
    return any(compute_fingerprint(config, model, chunking) == name for model in models)


def _note_leftovers(inventory: Inventory, writing: str | None, findings: Findings) -> None:
    if inventory.temporary:
        names = abbreviate(inventory.temporary, len(inventory.temporary))
        findings.notes.append(f"{len(inventory.temporary)} leftover temporary files: {names}")
    for run in inventory.runs.values():
        if (num := run.count_files(PARTS_FOLDER)) and run.run_id != writing:
            findings.notes.append(
                f"{RUNS_FOLDER}/{run.run_id}/{PARTS_FOLDER}: {format_count(num, 'file')} left; the next run removes"
                " them"
            )


def _note_untranscribed(inventory: Inventory, findings: Findings) -> None:
    """Notes speech without text, with the recordings that have the most. It is not a fault of the output."""
    found = inventory.rows.untranscribed
    if found.num_recordings:
        names = abbreviate([f"{name} ({seconds:.1f} s)" for seconds, name in found.worst], found.num_recordings)
        findings.notes.append(
            f"{found.num_recordings:,} of {len(inventory.rows.keys):,} rows have the flag {UNTRANSCRIBED_SPEECH}, with"
            f" {found.seconds:,.1f} s of speech after the end of the text, most of it in {names}"
        )


def _check_listing(config: Config, inventory: Inventory, storage: Storage, findings: Findings) -> None:
    """Checks that each listed recording has a row of its present version, with any settings."""
    keys, ids = np.sort(inventory.rows.keys), np.sort(inventory.rows.ids)
    missing: list[str] = []
    changed: list[str] = []
    listed = [np.empty(0, KEY)]
    listing = list_recordings(config.input, storage, IndexCache(config.output.uri, storage))
    stream = iter(Remembered(listing, Forgotten.read(normalize(config.output.uri), storage)))
    while batch := list(islice(stream, LISTED_AT_ONCE)):
        names, sizes, versions = ([getattr(one, name) for one in batch] for name in IDENTITY)
        current = np.zeros(len(batch), np.bool_)
        for kind in inventory.rows.kinds:
            current |= isin_sorted(recording_keys(names, sizes, versions, repeat(kind)), keys)
        listed.append(id_keys(names))
        known = isin_sorted(listed[-1], ids)
        missing += [names[i] for i in np.flatnonzero(~known)]
        changed += [names[i] for i in np.flatnonzero(known & ~current)]
    listed_ids = np.concatenate(listed)
    for found, words in ((missing, "have no row"), (changed, "have changed since their row was made")):
        if found:
            findings.differences.append(
                f"{len(found)} of {len(listed_ids)} listed recordings {words}: {abbreviate(found, len(found))}"
            )
    if gone := int((~isin_sorted(ids, np.sort(listed_ids))).sum()):
        findings.notes.append(f"{gone} rows belong to recordings that are no longer listed")


def _print_rows(inventory: Inventory, explained: dict[str, str], output: str, console: Console) -> None:
    rows = inventory.rows
    numbers = ((len(rows.keys), "row"), (rows.num_files, "file"), (len(inventory.runs), "run"))
    held = ", ".join(format_count(number, noun) for number, noun in numbers)
    log_field("output", f"{output}: {held}", console)
    if not rows.kinds:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("fingerprint", "rows", *Status, "hours", "made by run", "model"):
        right = name not in ("fingerprint", "made by run", "model")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "model")
    for name, kind in sorted(rows.kinds.items(), key=lambda item: -item[1].num_rows):
        counts = [f"{kind.num_rows:,}", *(f"{kind.statuses[status]:,}" for status in Status)]
        models = ", ".join(filter(None, kind.models))
        table.add_row(name, *counts, f"{kind.audio_s / 3600:,.1f}", explained.get(name, "unknown"), models)
    console.print(table)


def _print_lines(label: str, lines: Iterable[str], console: Console) -> None:
    every = list(lines)
    for line in every[:LINES_SHOWN]:
        log_field(label, line, console)
    if len(every) > LINES_SHOWN:
        log_field(label, f"… and {len(every) - LINES_SHOWN} more", console)
