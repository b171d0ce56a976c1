"""A run from its settings to its summary: sources, ledger, plan, the graph, accounting, summary.

What the driver holds is small: keys of what is listed, a row a block, and receipts as they come. Everything that
counts is read back from the output: the run is a success only if listing and ledger agree to the row.
"""

import json
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from distil_ray.config import Config
from distil_ray.errors import ExitCode, RunError, SettingsError
from distil_ray.ledger import Ledger, drop_rows, find_ids
from distil_ray.plan import Plan, make_plan
from distil_ray.progress import Progress
from distil_ray.run import Run, fingerprint, new_run_id, resolve_chunking
from distil_ray.schema import SAMPLE_RATE
from distil_ray.settings import dump_config, require_locations
from distil_ray.sources.listing import Listing, list_recordings
from distil_ray.stages.assemble import TOKENIZER_FILES
from distil_ray.stages.weights import RemoteFolders
from distil_ray.storage import Storage, StorageError, join, normalize
from distil_ray.summary import Report, RunFacts, Work, summarize, write_run_files
from distil_ray.table import print_table
from distil_ray.whisper.cache import WeightsError
from distil_ray.whisper.checkpoint import Checkpoint, inspect

SUCCESS = "_SUCCESS"

Receipt = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known before anything is started."""

    run: Run
    checkpoint: Checkpoint
    ledger: Ledger
    listing: Listing


def transcribe(
    config: Config, console: Console, transcriber: type | None = None, only: Container[str] | None = None
) -> ExitCode:
    """Transcribes what the output does not hold yet; writes the run's folder; prints how it went.

    `transcriber` stands in for the transcribe stage where the pipeline itself is measured. `only`: ids of recordings;
    what else the input lists is passed over.
    """
    clock = _Clock(datetime.now(UTC), time.monotonic())
    prepared = prepare(config, console)
    run = prepared.run
    try:
        _clear_folder(run)
        listing = (one for one in prepared.listing if only is None or one.recording_id in only)
        plan = make_plan(listing, prepared.ledger, run.fingerprint, config.plan, run.plan_uri, run.storage)
        _write_settings(prepared)
    except StorageError as error:  # the first writes of a run; the listing's own troubles are InputErrors
        raise SettingsError(f"output.uri={config.output.uri}: {error}") from error
    _say_plan(plan, prepared, console)
    receipts = list(_work(run, plan, console, transcriber)) if plan.num_blocks else []
    return _close(run, plan, receipts, clock, console)


def show_plan(config: Config, console: Console) -> ExitCode:
    """Prints what a run would do. Writes nothing and starts neither a model nor Ray."""
    prepared = prepare(config, console)
    run = prepared.run
    plan = make_plan(prepared.listing, prepared.ledger, run.fingerprint, config.plan, None, run.storage)
    _say_plan(plan, prepared, console)
    chunks = plan.num_chunks(run.chunking.length - 2 * run.chunking.stride)
    _say("to recognise", f"about {chunks:,} chunks", console)
    if plan.num_blocks:
        longest_s = plan.blocks["estimated_s"][0].as_py()
        _say("longest block", f"{_hours(longest_s)} of audio, in parts of {_hours(config.plan.part_audio_s)}", console)
    if config.plan.rtfx is None:
        _say("time", "not known: give plan.rtfx, the audio seconds a second that the whole job reaches", console)
    else:
        _say("time", f"{_hours(plan.estimated_s / config.plan.rtfx)} at plan.rtfx={config.plan.rtfx:g}", console)
    return ExitCode.DONE


def prepare(config: Config, console: Console) -> Prepared:
    """Checkpoint, run, ledger and listing (not yet read), from the settings alone."""
    require_locations(config)
    storage = Storage(config.storage)
    model = config.model
    try:
        checkpoint = inspect(model.name, model.revision, model.cache_dir, RemoteFolders(storage))
    except WeightsError as error:
        raise SettingsError(str(error)) from error
    _require_language(config, checkpoint)
    chunking = resolve_chunking(config, checkpoint.chunk_length_s, checkpoint.chunk_length_reason)
    run = Run(
        config=config,
        run_id=config.run_id or new_run_id(),
        fingerprint=fingerprint(config, checkpoint.identity, chunking),
        model_identity=checkpoint.identity,
        model_revision=checkpoint.revision,
        languages=checkpoint.languages,
        chunking=chunking,
    )
    _say("model", checkpoint.identity, console)
    _say("chunks", f"{chunking.strategy}, at most {chunking.length / SAMPLE_RATE:g} s ({chunking.reason})", console)
    try:
        ledger = Ledger.read(normalize(config.output.uri), storage)
    except StorageError as error:
        raise SettingsError(f"output.uri={config.output.uri}: {error}") from error
    others = {name: rows for name, rows in ledger.fingerprints.items() if name != run.fingerprint}
    if others:
        raise SettingsError(
            f"output.uri={config.output.uri}: holds {sum(others.values())} rows that were made with other settings"
            f" (fingerprint {', '.join(sorted(others))}; this run's is {run.fingerprint}). Two kinds of transcripts are"
            " never mixed: take another output.uri, or the settings in the config.yaml of the output's last run."
        )
    return Prepared(run, checkpoint, ledger, list_recordings(config.input, storage))


def _require_language(config: Config, checkpoint: Checkpoint) -> None:
    language = config.decoding.language
    if language != "auto" and language not in checkpoint.languages:
        known = ", ".join(sorted(checkpoint.languages))
        raise SettingsError(f"decoding.language={language}: {config.model.name} knows {known}. Or take auto.")


def _say_plan(plan: Plan, prepared: Prepared, console: Console) -> None:
    _say("listed", f"{plan.num_listed:,} recordings in {', '.join(prepared.run.config.input.uri)}", console)
    if prepared.listing.ignored:
        _say("ignored", str(prepared.listing.ignored), console)
    _say("done already", f"{plan.num_done:,}", console)
    blocks = f"{plan.num_blocks:,} block{'s' * (plan.num_blocks != 1)}"
    guessed_s = plan.estimated_s - plan.known_s
    guessed = f" ({_hours(guessed_s)} of it guessed from file sizes)" if guessed_s > 3 else ""
    hours = f"{_hours(plan.estimated_s)} of audio{guessed}"
    _say("to do", f"{plan.num_recordings:,} recordings, {hours}, in {blocks}", console)


def _clear_folder(run: Run) -> None:
    """A `run_id` that is used again: what an earlier attempt planned and claimed does not speak for this one."""
    for name in (SUCCESS, "plan", "parts", "attempts"):
        run.storage.delete(join(run.folder_uri, name))


def _write_settings(prepared: Prepared) -> None:
    """config.yaml, and the tokenizer for the commit tasks where they merge by tokens."""
    run = prepared.run
    run.storage.put(join(run.folder_uri, "config.yaml"), dump_config(run.config).encode())
    if run.chunking.strategy == "overlap":
        for name in TOKENIZER_FILES:
            run.storage.put(join(run.tokenizer_uri, name), (prepared.checkpoint.small_files / name).read_bytes())


def _work(run: Run, plan: Plan, console: Console, transcriber: type | None) -> Iterator[Receipt]:
    """Runs the graph on the cluster, shows how it goes, passes the receipts on."""
    from distil_ray import pipeline  # brings Ray, which a plan or a finished output does not need

    with pipeline.cluster(run.config.resources) as words:
        actors = pipeline.num_actors(run.config.resources)
        _say("on", f"{words}, {actors} recogniser actor{'s' * (actors != 1)}", console)
        estimates = dict(zip(*(plan.blocks[name].to_pylist() for name in ("block_id", "estimated_s")), strict=True))
        told: set[str] = set()
        with Progress(plan.num_recordings, plan.estimated_s, console, estimates) as progress:
            for receipt in pipeline.receipts(run, plan, transcriber):
                for note in receipt["notes"] or ():
                    if note not in told:
                        told.add(note)
                        _say("note", note, console)
                progress.add(receipt)
                yield receipt


@dataclass(frozen=True, slots=True)
class _Clock:
    """When the run began: the time of day for people, the monotonic clock for rates."""

    started_at: datetime
    started: float

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self.started


def _close(run: Run, plan: Plan, receipts: Sequence[Receipt], clock: _Clock, console: Console) -> ExitCode:
    """Summary, accounting and the marker of success, in this order; sweeps what only the attempt needed."""
    facts = RunFacts(
        run_id=run.run_id,
        fingerprint=run.fingerprint,
        model=run.model_identity,
        chunking=run.chunking.describe(),
        listed_keys=plan.listed_keys,
        num_done_before=plan.num_done,
        work=Work.of(receipts),
        started_at=clock.started_at,
        finished_at=datetime.now(UTC),
        wall_s=clock.wall_s,
    )
    output = normalize(run.config.output.uri)
    ledger = _replace_changed(run, plan, console)
    report = summarize(output, run.storage, facts, run.config.scoring)
    write_run_files(report, run.folder_uri, run.storage)
    events = "".join(json.dumps(r | {"failures_by_kind": dict(r["failures_by_kind"] or ())}) + "\n" for r in receipts)
    run.storage.put(join(run.folder_uri, "events.jsonl"), events.encode())
    _account(run, plan, ledger, receipts)
    for name in ("parts", "attempts"):
        run.storage.delete(join(run.folder_uri, name))
    run.storage.put(join(run.folder_uri, SUCCESS), b"")
    print_table(report, output, console)
    return _verdict(report, run.config.max_failed_fraction, console)


def _replace_changed(run: Run, plan: Plan, console: Console) -> Ledger:
    """Drops the rows of recordings whose source has changed, once every new row is there; gives the ledger after it."""
    output = normalize(run.config.output.uri)
    ledger = Ledger.read(output, run.storage)
    if len(ledger.missing(plan.listed_keys)):
        return ledger
    dropped = drop_rows(ledger.superseded(plan.listed_ids, plan.listed_keys), run.transcripts_uri, run.storage)
    if not dropped:
        return ledger
    _say("replaced", f"{dropped:,} rows of recordings whose source has changed", console)
    return Ledger.read(output, run.storage)


def _account(run: Run, plan: Plan, ledger: Ledger, receipts: Sequence[Receipt]) -> None:
    """Raises `RunError` unless every listed recording has exactly one row in the output."""
    missing = ledger.missing(plan.listed_keys)
    doubled = ledger.doubled()
    if not len(missing) and not len(doubled):
        return
    lines = []
    if len(missing):
        names = find_ids(missing, run.plan_uri, run.fingerprint, run.storage)
        lines.append(f"{len(missing)} of {plan.num_listed} listed recordings have no row: {_few(names, len(missing))}")
    if len(doubled):
        names = find_ids(doubled, run.transcripts_uri, run.fingerprint, run.storage)
        lines.append(f"{len(doubled)} recordings have more than one row: {_few(names, len(doubled))}")
    errors = dict.fromkeys(f"block {r['block_id']}: {r['error']}" for r in receipts if r["error"])
    lines += list(errors)[:5]
    lines.append(f"No {SUCCESS} was written; the same command does what is missing. Run folder: {run.folder_uri}")
    raise RunError("\n".join(lines))


def _few(names: Sequence[str], total: int) -> str:
    return ", ".join(sorted(names)) + (" …" if len(names) < total else "")


def _verdict(report: Report, max_failed_fraction: float, console: Console) -> ExitCode:
    failed, total = report.summary["num_failed"], report.summary["num_recordings"]
    if failed > max_failed_fraction * total:
        allowed = f"max_failed_fraction={max_failed_fraction:g} allows"
        _say("too many", f"{failed} of {total} recordings failed, more than {allowed}: exit code 3", console)
        return ExitCode.TOO_MANY_FAILED
    return ExitCode.DONE


def _say(label: str, text: str, console: Console) -> None:
    console.print(f"{label:<14} {text}", soft_wrap=True, markup=False)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:,.1f} min"
