"""A run from its settings to its summary: lease, ledger, plan, the graph, and the books closed.

    opening.py ──> lease.py ──> plan.py ──> pipeline.py ──> closing.py
    settings       who may      what is     the graph       accounting
    checked        write here   left

What the driver holds is small: keys of what is listed, a row a task, and receipts as they come. Everything that
counts is read back from the output. A run may be stopped at any moment by a signal (stopping.py), a lost lease or a
death: what is committed stays, and the next run goes on from there.
"""

import logging
import time
from collections.abc import Container
from contextlib import AbstractContextManager, closing, nullcontext, suppress

from rich.console import Console

from distil_ray.cli import signals
from distil_ray.cli.console import format_duration, log_field
from distil_ray.config import Config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.output.cleanup import remove_orphans
from distil_ray.output.lease import Lease, acquire_lease
from distil_ray.output.ledger import Ledger
from distil_ray.output.run_context import Run
from distil_ray.pipeline.finalize import CommitResult, RunTimer, finalize, write_events
from distil_ray.pipeline.planner import Plan, make_plan
from distil_ray.pipeline.progress import Progress, ProgressTracker
from distil_ray.pipeline.ray_logging import filter_stderr
from distil_ray.pipeline.setup import RunSetup, check_output, clear_run_folder, prepare_run, write_run_settings
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.listing import Listing, list_recordings
from distil_ray.storage.storage import StorageError, normalize

logger = logging.getLogger(__name__)


def transcribe(
    config: Config,
    console: Console,
    transcriber: type | None = None,
    only: Container[str] | None = None,
    *,
    force: bool = False,
    write_page: bool = True,
) -> ExitCode:
    """Transcribes what the output does not hold yet; writes the run's folder; prints how it went.

    `transcriber` stands in for the transcribe stage where the pipeline itself is measured. `only`: ids of recordings;
    what else the input lists is passed over. `force`: writes although another run seems to. `write_page`: whether
    report.html is made at the end; a night makes its own, once it is judged.
    """
    clock = RunTimer()
    prepared = prepare_run(config, console)
    run = prepared.run
    with _hold(run, force) as lease:
        _sweep(run, lease, console)
        ledger = check_output(run)
        listing = list_recordings(config.input, run.storage, IndexCache(config.output.uri, run.storage, writable=True))
        plan = _plan(prepared, listing, ledger, only)
        _say_plan(plan, run, listing, console)
        receipts: list[CommitResult] = []
        if plan.num_tasks:
            _work(run, plan, lease, receipts, console, transcriber)
        lease.check()
        return finalize(run, plan, receipts, clock, console, write_page=write_page)


def show_plan(config: Config, console: Console) -> ExitCode:
    """Prints what a run would do. Writes nothing and starts neither a model nor Ray."""
    run = prepare_run(config, console).run
    ledger = check_output(run)
    listing = list_recordings(config.input, run.storage, IndexCache(config.output.uri, run.storage))
    retry = config.retry_failed
    plan = make_plan(listing, ledger, run.fingerprint, config.plan, None, run.storage, retry_failed=retry)
    _say_plan(plan, run, listing, console)
    chunks = plan.num_chunks(run.chunking.length - 2 * run.chunking.stride)
    log_field("to recognize", f"about {chunks:,} chunks", console)
    if plan.num_tasks:
        longest_s = plan.tasks["estimated_s"][0].as_py()
        log_field(
            "longest task",
            f"{format_duration(longest_s)} of audio, in parts of {format_duration(config.plan.part_audio_s)}",
            console,
        )
    _say_time(plan.estimated_s, config, console)
    return ExitCode.DONE


def _say_time(audio_s: float, config: Config, console: Console) -> None:
    rtfx, resources = config.plan.rtfx, config.resources
    if rtfx is None:
        log_field("time", "not known: give plan.rtfx, the audio seconds a second that the whole job reaches", console)
        return
    log_field("time", f"{format_duration(audio_s / rtfx)} at plan.rtfx={rtfx:g}", console)
    if not resources.gpus_per_actor:
        return
    if resources.actors == "auto":
        log_field(
            "GPU-hours", "as many hours for each GPU of the cluster; resources.actors says how many are used", console
        )
        return
    gpus = resources.actors * resources.gpus_per_actor
    log_field(
        "GPU-hours",
        f"{gpus * audio_s / rtfx / 3600:,.2f} of {gpus} GPUs (resources.actors={resources.actors})",
        console,
    )


def _hold(run: Run, force: bool) -> AbstractContextManager[Lease]:
    output = run.config.output
    return acquire_lease(
        normalize(output.uri),
        run.run_id,
        output.lease_s,
        run.storage,
        force=force,
        on_lost=signals.raise_in_main_thread,
    )


def _sweep(run: Run, lease: Lease, console: Console) -> None:
    output = run.config.output
    words = remove_orphans(normalize(output.uri), run.run_id, lease.forced_from, output.lease_s, run.storage)
    if words:
        log_field("swept", words, console)


def _plan(prepared: RunSetup, listing: Listing, ledger: Ledger, only: Container[str] | None) -> Plan:
    run = prepared.run
    config = run.config
    mine = (one for one in listing if only is None or one.recording_id in only)
    try:
        clear_run_folder(run)
        plan = make_plan(
            mine, ledger, run.fingerprint, config.plan, run.plan_uri, run.storage, retry_failed=config.retry_failed
        )
        write_run_settings(prepared)
    except StorageError as error:  # the first writes of a run; the listing's own troubles are InputErrors
        raise SettingsError(f"output.uri={config.output.uri}: {error}") from error
    return plan


def _say_plan(plan: Plan, run: Run, listing: Listing, console: Console) -> None:
    log_field("listed", f"{plan.num_listed + plan.num_left:,} recordings in {', '.join(run.config.input.uri)}", console)
    log_field(
        "read as", ", ".join(title + (f" ({n})" if n > 1 else "") for title, n in listing.formats.items()), console
    )
    if listing.ignored:
        log_field("ignored", str(listing.ignored), console)
    if plan.num_left:
        log_field("left alone", f"{plan.num_left:,} without a failed row: without retry_failed they are done", console)
    log_field("done already", f"{plan.num_done:,}", console)
    tasks = f"{plan.num_tasks:,} task{'s' * (plan.num_tasks != 1)}"
    guessed_s = plan.estimated_s - plan.known_s
    guessed = f" ({format_duration(guessed_s)} of it guessed from file sizes)" if guessed_s > 3 else ""
    audio = f"{format_duration(plan.estimated_s)} of audio{guessed}"
    log_field("to do", f"{plan.num_recordings:,} recordings, {audio}, in {tasks}", console)


def _work(
    run: Run, plan: Plan, lease: Lease, receipts: list[CommitResult], console: Console, transcriber: type | None
) -> None:
    """Runs the graph on the cluster and shows how it goes; `receipts` are filled, and kept whatever happens."""
    from distil_ray.pipeline import ray_cluster, ray_graph, ray_monitor

    with ray_cluster.connect_cluster(run.config.resources) as words:
        signals.restore_handlers()
        ray_cluster.require_decode_capacity(run.config.resources)
        actors = ray_cluster.num_actors(run.config.resources)
        log_field("on", f"{words}, {actors} recognizer actor{'s' * (actors != 1)}", console)
        estimates = dict(zip(*(plan.tasks[name].to_pylist() for name in ("task_id", "estimated_s")), strict=True))
        began_s = time.monotonic()
        told: set[str] = set()

        def tell(note: str) -> None:
            if note not in told:
                told.add(note)
                log_field("note", note, console)

        totals = ProgressTracker(plan.num_recordings, plan.estimated_s, estimates, actors)
        with _watched(console), Progress(totals, console) as progress:
            try:
                with closing(ray_graph.run_graph(run, plan, transcriber, tell, progress.see)) as stream:
                    for receipt in stream:
                        num_before = receipts[-1]["actors_alive"] if receipts else actors
                        receipts.append(receipt | _moment(began_s, ray_monitor.num_actors_alive(), num_before))
                        for note in receipt["warnings"] or ():
                            tell(note)
                        progress.add(receipts[-1])
                        lease.check()
            except BaseException:  # a signal too: before Ray is ended, which takes longer than a stopped job may have
                with suppress(StorageError):
                    write_events(run, receipts)
                raise


def _moment(began_s: float, num_alive: int | None, num_before: int) -> CommitResult:
    """What events.jsonl tells beside a receipt: seconds since the graph was started, and recognizers alive.

    When the last receipts come, Ray may have ended its pool: `num_before`, those of the receipt before or, with the
    first, those that were asked for, stand for it.
    """
    return {"at_s": round(time.monotonic() - began_s, 3), "actors_alive": num_alive or num_before}


def _watched(console: Console) -> AbstractContextManager[None]:
    """Keeps what Ray's core writes by itself out of the view; `--debug` shows it as it comes."""
    if logger.isEnabledFor(logging.DEBUG):
        return nullcontext()
    return filter_stderr(lambda line: log_field("ray", line, console))
