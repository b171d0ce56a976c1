"""Redo of a date: its recordings are transcribed into a separate output, which then replaces the old rows.

    OUTPUT/runs/2026-11-20.2/redo/     a complete output; a redo that was killed resumes from it

Until the last row is written, readers see only the old rows. The replacement is a series of puts and deletes that can
each be repeated: the next nightly run, of any date, completes an interrupted one. A failure does not replace a
transcript. A redo needs storage for the transcripts of the date twice. Rows of recordings that the input no longer
lists stay unchanged.
"""

import io
import math
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml
from rich.console import Console

from distil_ray.cli import signals
from distil_ray.cli.console import abbreviate, log_field
from distil_ray.config import Config
from distil_ray.errors import ExitCode, RunError, SettingsError
from distil_ray.nightly.run_records import Attempt, Attempts, next_attempt, partition_uri
from distil_ray.output.forgotten import Forgotten
from distil_ray.output.lease import acquire_lease
from distil_ray.output.ledger import id_keys, isin_sorted, list_data_files
from distil_ray.output.reader import open_transcripts
from distil_ray.output.run_context import RUNS_FOLDER
from distil_ray.pipeline import runner
from distil_ray.pipeline.setup import check_output, prepare_run
from distil_ray.report.run_folder import CONFIG
from distil_ray.schema import TRANSCRIPT, open_parquet, to_parquet_bytes
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join, normalize
from distil_ray.types import Status

REDO_FOLDER = "redo"
COMPLETE = "_COMPLETE"  # marker in the redo folder: all rows are written and may replace the old ones


class NotReplacedError(RunError):
    """Too many recordings of a redo failed, so that it does not replace the old rows."""

    exit_code = ExitCode.TOO_MANY_FAILED


def choose_attempt(day: date, attempts: Attempts) -> Attempt:
    """Returns the attempt of the unfinished redo of this date; a new attempt if there is none."""
    begun = [one for one, names in attempts.items() if one.day == day and has_redo_files(names)]
    return max(begun, default=next_attempt(day, attempts))


def has_redo_files(names: Iterable[str]) -> bool:
    """Returns whether a run folder, by the names in it, is that of a redo whose rows have not replaced the old ones."""
    return any(name.startswith(f"{REDO_FOLDER}/") for name in names)


def redo_date(
    config: Config, attempt: Attempt, console: Console, transcriber: type | None = None, *, force: bool = False
) -> None:
    """Transcribes the recordings of a date again and replaces their rows once all are written.

    Args:
        config: Settings of the nightly run.
        attempt: The date, and the number of this attempt.
        console: Receives the messages.
        transcriber: Class of the transcribe stage, as in `runner.transcribe`.
        force: Writes although another run holds the lease of the output.

    Raises:
        SettingsError: The output has no transcripts of this date, or the settings differ from those of its other rows.
        NotReplacedError: More recordings failed than the settings allow.
    """
    storage, output = Storage(config.storage), normalize(config.output.uri)
    ids = {row["recording_id"] for row in _rows(partition_uri(output, attempt.day), ["recording_id"], storage)}
    if not ids:
        raise SettingsError(
            f"--redo {attempt.day}: {output} has no transcripts of this date, so there is nothing to transcribe again."
            f" Use --as-of {attempt.day} to transcribe new recordings into the partition of this date."
        )
    check_output(prepare_run(config, Console(quiet=True)).run)  # the rows of other dates must have the same settings
    side = config.output.model_copy(update={"uri": _redo_uri(output, attempt), "partition": attempt.day})
    aside = config.model_copy(update={"output": side, "run_id": attempt.run_id})
    with acquire_lease(
        output, attempt.run_id, side.lease_s, storage, force=force, on_lost=signals.raise_in_main_thread
    ) as lease:
        if storage.stat(join(side.uri, COMPLETE)) is None:
            if (
                runner.transcribe(aside, console, transcriber, recording_ids=ids, write_page=False, is_last_step=False)
                != ExitCode.DONE
            ):
                raise NotReplacedError(
                    f"too many recordings failed: the old rows of this date are kept; the new ones are in {side.uri}."
                    " Run the same command with retry_failed=true to try the failed recordings again."
                )
            lease.check()
            storage.put(join(side.uri, COMPLETE), b"")
        replace_rows(attempt, output, storage, console, lease.check)


def find_unfinished_redos(attempts: Attempts) -> list[Attempt]:
    """Returns the redos that are complete but have not replaced all old rows."""
    return sorted(one for one, names in attempts.items() if f"{REDO_FOLDER}/{COMPLETE}" in names)


def replace_rows(
    attempt: Attempt, output: str, storage: Storage, console: Console, check: Callable[[], object]
) -> None:
    """Moves the rows of a redo into the partition of its date, in place of the old rows, and then its run folder.

    A recording that failed keeps its old row, unless that failed too. It stays in its file: where the settings are the
    same, a task of the redo may have the recordings, and so the name, of an old one. Each step can be repeated after an
    interruption.
    The redo folder is deleted last. `check` raises an error if this process may no longer write (`Lease.check`).
    """
    side, partition = _redo_uri(output, attempt), partition_uri(output, attempt.day)
    aside = partition_uri(side, attempt.day)
    statuses = {(row["recording_id"], row["status"]) for row in _rows(aside, ["recording_id", "status"], storage)}
    failed = {recording_id for recording_id, status in statuses if status == Status.FAILED}
    kept = _ids_with_better_rows(failed, attempt.run_id, partition, storage)
    names = sorted({recording_id for recording_id, _ in statuses} - kept)
    # The last task of a redo that died may have been committed after its recordings were forgotten.
    forgotten = isin_sorted(id_keys(names), Forgotten.read(output, storage).ids)
    ids = pa.array([name for name, is_gone in zip(names, forgotten.tolist(), strict=True) if not is_gone], pa.string())
    for uri in list_data_files(aside, storage):
        table = _read(uri, storage)
        rows = table.filter(pc.is_in(table["recording_id"], value_set=ids))
        if rows.num_rows:
            target = join(partition, uri.rsplit("/", 1)[-1])
            if storage.stat(target) is not None:
                rows = pa.concat_tables([rows, _other_rows(_read(target, storage), ids, attempt.run_id)])
            check()
            storage.put(target, to_parquet_bytes(rows))
    check()
    _remove_replaced_rows(ids, attempt.run_id, partition, storage)
    if kept:
        log_field(
            "kept",
            f"{len(kept):,} rows of recordings that failed this time: {abbreviate(sorted(kept), len(kept))}",
            console,
            num_rows=len(kept),
        )
    folder = join(side, RUNS_FOLDER, attempt.run_id)
    for entry in storage.list_files(folder):
        name, data = entry.uri.removeprefix(f"{folder}/"), storage.read(entry.uri)
        if name == CONFIG:
            data = _with_output_uri(data, output)
        storage.put(join(output, RUNS_FOLDER, attempt.run_id, name), data)
    # The marker goes last: without it the rest of the folder would count as a redo that is not complete.
    storage.delete_files([entry.uri for entry in storage.list_files(side) if entry.uri != join(side, COMPLETE)])
    storage.delete(side)
    log_field(
        "replaced",
        f"{len(ids):,} rows of {attempt.day}",
        console,
        num_rows=len(ids),
        reason="redo",
        date=attempt.day,
    )


def _read(uri: str, storage: Storage) -> pa.Table:
    """Returns the rows of a file, whatever its schema version, as the current one."""
    with open_transcripts(uri, storage) as file:
        return file.read().cast(TRANSCRIPT)


def _other_rows(table: pa.Table, ids: pa.Array, run_id: str) -> pa.Table:
    """Returns the rows that the redo `run_id` neither wrote nor replaces."""
    written = pc.equal(table["run_id"], run_id)
    return table.filter(pc.invert(pc.or_(written, pc.is_in(table["recording_id"], value_set=ids))))


def _with_output_uri(config: bytes, output: str) -> bytes:
    """Returns a stored config with another `output.uri`: the folder of the redo is about to be deleted."""
    settings = yaml.safe_load(config)
    settings["output"]["uri"] = output
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=math.inf).encode()


def _ids_with_better_rows(failed: set[str], run_id: str, partition: str, storage: Storage) -> set[str]:
    """Returns those of the recordings that failed in the redo `run_id` whose old row has not failed."""
    if not failed:
        return set()
    return {
        row["recording_id"]
        for row in _rows(partition, ["recording_id", "status", "run_id"], storage)
        if row["run_id"] != run_id and row["status"] != Status.FAILED and row["recording_id"] in failed
    }


def _remove_replaced_rows(ids: pa.Array, run_id: str, partition: str, storage: Storage) -> None:
    """Removes the rows of these recordings that other runs wrote into the partition."""
    for uri in list(list_data_files(partition, storage)):
        table = open_parquet(io.BytesIO(storage.read(uri))).read()
        stays = pc.or_(pc.equal(table["run_id"], run_id), pc.invert(pc.is_in(table["recording_id"], value_set=ids)))
        kept = table.filter(stays)
        if not kept.num_rows:
            storage.delete(uri)
        elif kept.num_rows < table.num_rows:
            storage.put(uri, to_parquet_bytes(kept))


def _rows(folder: str, columns: list[str], storage: Storage) -> Iterator[dict[str, Any]]:
    """Yields some columns of the rows in a partition."""
    for uri in list_data_files(folder, storage):
        with storage.open(uri) as file:
            yield from open_parquet(file).read(columns).to_pylist()


def _redo_uri(output: str, attempt: Attempt) -> str:
    return join(output, RUNS_FOLDER, attempt.run_id, REDO_FOLDER)
