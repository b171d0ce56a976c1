"""Whether an output holds together: its files, its rows, the runs that made it and, if asked, the listing it came from.

Reads an output at any time, from outside, and believes nothing that a run says of itself: every file is decoded, keys
are counted again, and plans and summaries are compared with what stands there. A difference is a fault of the output
(exit code 1); a note is worth knowing. Changes nothing. Whether the transcripts are any good is not asked here:
recheck.py decodes some of them again.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice, repeat

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from distil_ray.cli.console import NAMES_SHOWN, abbreviate, log_field
from distil_ray.config import Config
from distil_ray.config.loader import parse_config
from distil_ray.errors import DistilRayError, ExitCode, SettingsError
from distil_ray.output.lease import LEASE, LeaseHolder
from distil_ray.output.ledger import IDENTITY, KEY, TRANSCRIPTS, Keys, find_ids, id_keys, isin_sorted, recording_keys
from distil_ray.output.run_context import RUNS_FOLDER, SUCCESS_FILE, TEMP_DIRS, ChunkingPlan, compute_fingerprint
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.listing import list_recordings
from distil_ray.recognition.quality_flags import UNTRANSCRIBED_SPEECH
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import MissingError, StorageError
from distil_ray.storage.uris import join, normalize
from distil_ray.types import WORD_COUNTS, Status
from distil_ray.verify.inventory import Findings, Inventory, Kind, RunFolder, Summary, read_plan, take

LINES_SHOWN = 50  # differences printed
LISTED_AT_ONCE = 16_384  # recordings


def verify(config: Config, console: Console) -> ExitCode:
    """Checks `output.uri`, and its agreement with `input.uri` if that is set; prints what it found."""
    output = require_output(config)
    storage = Storage(config.storage)
    findings = Findings()
    try:
        inventory = take(output, storage, findings)
    except StorageError as error:
        raise SettingsError(f"output.uri={config.output.uri}: {error}") from error
    if not inventory.rows.num_files and not inventory.runs:
        raise SettingsError(
            f"output.uri={config.output.uri}: there is no output (no {TRANSCRIPTS}/ and no {RUNS_FOLDER}/)"
        )
    writing = _who_writes(output, storage, findings)
    _check_doubles(inventory, output, storage, findings)
    _check_plans(inventory, output, writing, storage, findings)
    _check_last_summary(inventory, findings)
    explained = _explain_kinds(inventory, output, storage, findings)
    _note_normalizers(inventory, findings)
    _note_leftovers(inventory, writing, findings)
    _note_untranscribed(inventory, findings)
    if config.input.uri:
        _check_listing(config, inventory, storage, findings)
    _print_rows(inventory, explained, output, console)
    return _verdict(findings, console)


def require_output(config: Config) -> str:
    """The output's one spelling. Raises `SettingsError` if none is set."""
    if not config.output.uri:
        raise SettingsError("output.uri is not set. Say which output, such as output.uri=s3://bucket/folder.")
    return normalize(config.output.uri)


def _who_writes(output: str, storage: Storage, findings: Findings) -> str | None:
    """The run that holds the output now."""
    try:
        holder = LeaseHolder.decode(storage.read(join(output, LEASE)))
    except MissingError:
        return None
    except (StorageError, ValueError, KeyError, TypeError) as error:
        findings.differences.append(f"{LEASE}: cannot be read ({error})")
        return None
    if holder.is_expired(datetime.now(UTC)):
        findings.notes.append(f"{LEASE}: {holder}, has died; the next run takes over")
        return None
    findings.notes.append(f"{holder}, writes to this output now: what it lacks is on its way")
    return holder.run_id


def _check_doubles(inventory: Inventory, output: str, storage: Storage, findings: Findings) -> None:
    """An id stands once, whatever its version and settings."""
    keys, ids = inventory.rows.keys, inventory.rows.ids
    duplicates = np.isin(ids, _more_than_once(ids))
    same = np.isin(keys, _more_than_once(keys))
    for rows, words in (
        (same, "have more than one row of the same source and settings"),
        (
            duplicates & ~np.isin(ids, ids[same]),
            "have rows of several versions of their source, or of several settings",
        ),
    ):
        if rows.any():
            names = _names(keys[rows], output, storage)
            findings.differences.append(f"{len(np.unique(ids[rows]))} recordings {words}: {names}")


def _more_than_once(keys: Keys) -> Keys:
    found, counts = np.unique(keys, return_counts=True)
    return found[counts > 1]


def _names(keys: Keys, output: str, storage: Storage) -> str:
    try:
        found = find_ids(keys, join(output, TRANSCRIPTS), "", storage, NAMES_SHOWN)
    except DistilRayError:  # an unreadable file, which stands among the differences already
        return "(names are not to be had while a file is unreadable)"
    return abbreviate(found, len(np.unique(keys)))


def _check_plans(inventory: Inventory, output: str, writing: str | None, storage: Storage, findings: Findings) -> None:
    """Everything that a run planned has a row by now; every file is named by its rows, or by a plan that has them."""
    rows = inventory.rows
    keys, ids = np.sort(rows.keys), np.sort(rows.ids)
    unexplained = set(rows.renamed)
    fingerprints = _fingerprints_of_runs(inventory)
    for run in inventory.runs.values():
        missing: list[str] = []
        planned = replaced = 0
        try:
            for task in read_plan(
                join(output, RUNS_FOLDER, run.run_id, "plan"), fingerprints.get(run.run_id, ""), storage
            ):
                planned += len(task.keys)
                there, known = isin_sorted(task.keys, keys), isin_sorted(task.ids, ids)
                missing += [task.names[i] for i in np.flatnonzero(~known)]
                replaced += int((known & ~there).sum())
                if task.task_id in unexplained and isin_sorted(rows.renamed[task.task_id], np.sort(task.keys)).all():
                    unexplained.remove(task.task_id)
        except (StorageError, pa.ArrowException, OSError, ValueError) as error:
            findings.differences.append(f"{RUNS_FOLDER}/{run.run_id}/plan: cannot be read ({error})")
            continue
        if run.run_id != writing:
            _judge_run(run, planned, replaced, missing, findings)
    if unexplained:
        _judge_names(inventory, unexplained, findings)


def _fingerprints_of_runs(inventory: Inventory) -> dict[str, str]:
    """By a run's summary, else by its rows."""
    found = {run: name for name, kind in inventory.rows.kinds.items() for run in kind.runs}
    said = {name: run.summary["fingerprint"] for name, run in inventory.runs.items() if run.summary}
    return found | said


def _judge_run(run: RunFolder, planned: int, replaced: int, missing: list[str], findings: Findings) -> None:
    if missing:
        ended = "" if run.succeeded else ", which did not end (the same command goes on)"
        words = f"{len(missing)} of {planned} recordings that run {run.run_id} planned have no row{ended}"
        findings.differences.append(f"{words}: {abbreviate(missing, len(missing))}")
    elif not run.succeeded:
        findings.notes.append(f"run {run.run_id} has no {SUCCESS_FILE}; all that it planned was done, by it or later")
    if replaced:
        findings.notes.append(f"{replaced} of {planned} recordings of run {run.run_id} were done again since")


def _judge_names(inventory: Inventory, unexplained: set[str], findings: Findings) -> None:
    """A file that lost rows to newer versions keeps its name; a plan tells. Without one nobody can."""
    planless = [name for kind in inventory.rows.kinds.values() for name in kind.runs if name not in inventory.runs]
    names = [f"task-{name}.parquet" for name in sorted(unexplained)]
    words = f"{len(names)} files hold other rows than their names say: {abbreviate(names, len(names))}"
    if planless:
        findings.notes.append(f"{words}. The run folders that could explain it are gone, such as {planless[0]}")
    else:
        findings.differences.append(words)


def _check_last_summary(inventory: Inventory, findings: Findings) -> None:
    """The last successful run counted what stands there: never more, and the same if nothing else is there."""
    ended = [run.summary for run in inventory.runs.values() if run.succeeded and run.summary]
    if not ended:
        findings.notes.append(f"no run has ended with {SUCCESS_FILE}")
        return
    summary = max(ended, key=lambda summary: str(summary["finished_at"]))
    kind = Kind()
    for name in summary.get("rows_by_fingerprint") or [summary["fingerprint"]]:
        kind.add(inventory.rows.kinds.get(name, Kind()))
    who, counted = f"the summary of run {summary['run_id']}", summary["num_recordings"]
    if kind.num_rows < counted:
        words = f"{who} counts {counted} recordings, the output has {kind.num_rows} rows of its settings"
        findings.differences.append(words)
    elif kind.num_rows == counted:
        found = {f"num_{status}": kind.statuses[status] for status in Status} | {
            name: kind.sums[name] for name in WORD_COUNTS
        }
        wrong = [f"{name} {found[name]} instead of {summary[name]}" for name in found if found[name] != summary[name]]
        if abs(kind.audio_s - summary["audio_s"]) > 0.01:
            wrong.append(f"audio_s {kind.audio_s:.3f} instead of {summary['audio_s']:.3f}")
        wrong += _compare_untranscribed(kind, summary)
        if wrong:
            findings.differences.append(f"the rows do not add up to {who}: {', '.join(wrong)}")


def _compare_untranscribed(kind: Kind, summary: Summary) -> list[str]:
    """What of untranscribed speech differs from a summary; those of earlier versions do not say it."""
    counted, flagged = summary.get("unheard_s") or 0.0, summary.get("num_untranscribed_speech")
    if flagged is None:
        return []
    found = kind.quality_flags[UNTRANSCRIBED_SPEECH]
    wrong = [f"num_untranscribed_speech {found} instead of {flagged}"] if found != flagged else []
    if abs(kind.unheard_s - counted) > 0.01:
        wrong.append(f"unheard_s {kind.unheard_s:.3f} instead of {counted:.3f}")
    return wrong


def _explain_kinds(inventory: Inventory, output: str, storage: Storage, findings: Findings) -> dict[str, str]:
    """Fingerprint -> the run whose stored settings give it."""
    explained = {}
    for name, kind in inventory.rows.kinds.items():
        claims = [run for run in inventory.runs.values() if run.summary and run.summary["fingerprint"] == name]
        for run in claims:
            if _explains(run, name, kind.models, output, storage):
                explained[name] = run.run_id
                break
        else:
            reason = "their config.yaml gives another: it was changed, or made by another version" if claims else ""
            where = f"runs {', '.join(run.run_id for run in claims[:3])} claim it, but " if claims else ""
            words = f"{where}{reason}" or "no run folder that is left says how they were made"
            findings.notes.append(f"fingerprint {name}, {kind.num_rows} rows: {words}")
    return explained


def _note_normalizers(inventory: Inventory, findings: Findings) -> None:
    """Rows of one language that were scored in different ways do not make one WER."""
    by_language = defaultdict[str, Counter[str]](Counter)
    for kind in inventory.rows.kinds.values():
        for (language, normalizer), num in kind.normalizers.items():
            by_language[language][normalizer] += num
    for language, normalizers in sorted(by_language.items()):
        if len(normalizers) > 1:
            counts = ", ".join(f"{num:,} by {normalizer}" for normalizer, num in normalizers.most_common())
            words = f"rows of language {language} were scored by several normalizers, and their WERs do not compare"
            findings.notes.append(f"{words}: {counts}")


def _explains(run: RunFolder, name: str, models: Counter[str], output: str, storage: Storage) -> bool:
    """Whether the settings that a run has stored, computed anew, give the fingerprint of its rows."""
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
        findings.notes.append(f"{len(inventory.temporary)} temporary files of writers: {names}")
    for run in inventory.runs.values():
        for folder in TEMP_DIRS:
            if (num := run.below(folder)) and run.run_id != writing:
                findings.notes.append(
                    f"{RUNS_FOLDER}/{run.run_id}/{folder}: {num} files left; the next run takes them away"
                )


def _note_untranscribed(inventory: Inventory, findings: Findings) -> None:
    """Speech that has no text is told with the recordings that have most of it. It is no fault of the output."""
    found = inventory.rows.untranscribed
    if found.num_recordings:
        names = abbreviate([f"{name} ({seconds:.1f} s)" for seconds, name in found.worst], found.num_recordings)
        findings.notes.append(
            f"{found.num_recordings:,} of {len(inventory.rows.keys):,} rows have the flag {UNTRANSCRIBED_SPEECH}, with"
            f" {found.seconds:,.1f} s of speech after the end of their texts, most of it in {names}"
        )


def _check_listing(config: Config, inventory: Inventory, storage: Storage, findings: Findings) -> None:
    """The listing against the rows: whatever their settings, each recording has one of its present version."""
    keys, ids = np.sort(inventory.rows.keys), np.sort(inventory.rows.ids)
    missing: list[str] = []
    changed: list[str] = []
    listed = [np.empty(0, KEY)]
    stream = iter(list_recordings(config.input, storage, IndexCache(config.output.uri, storage)))
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
        findings.notes.append(f"{gone} rows are of recordings that are no longer listed")


def _print_rows(inventory: Inventory, explained: dict[str, str], output: str, console: Console) -> None:
    rows = inventory.rows
    log_field(
        "output", f"{output}: {len(rows.keys):,} rows in {rows.num_files:,} files, {len(inventory.runs)} runs", console
    )
    if not rows.kinds:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("fingerprint", "rows", *Status, "hours", "made by run", "model"):
        right = name not in ("fingerprint", "made by run", "model")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "model")
    for name, kind in sorted(rows.kinds.items(), key=lambda item: -item[1].num_rows):
        counts = [f"{kind.num_rows:,}", *(f"{kind.statuses[status]:,}" for status in Status)]
        models = ", ".join(filter(None, kind.models))
        table.add_row(name, *counts, f"{kind.audio_s / 3600:,.1f}", explained.get(name, "not known"), models)
    console.print(table)


def _verdict(findings: Findings, console: Console) -> ExitCode:
    _say_all("note", findings.notes, console)
    _say_all("difference", findings.differences, console)
    if findings.differences:
        log_field("verdict", f"{len(findings.differences)} differences: exit code 1", console)
        return ExitCode.FAILED
    log_field("verdict", "it holds together", console)
    return ExitCode.DONE


def _say_all(label: str, lines: Iterable[str], console: Console) -> None:
    every = list(lines)
    for line in every[:LINES_SHOWN]:
        log_field(label, line, console)
    if len(every) > LINES_SHOWN:
        log_field(label, f"… and {len(every) - LINES_SHOWN} more", console)
