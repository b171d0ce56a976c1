"""A transcription run, from settings to summary: lease, ledger, plan, Ray graph, finalization.

    setup.py ──> lease.py ──> planner.py ──> ray_graph.py ──> finalize.py
    settings     one writer   work that      decode,          completeness
    checked      per output   is left        transcribe,      checked, summary
                                             commit

The driver holds little in memory: one key per listed recording, and one row per task. The results of commits are on its
disk. All reported counts are read back from the output. A run may end at any moment by a signal (`cli/signals.py`), a
lost lease or a crash: committed tasks stay, and the next run with the same command continues from there.
"""

import logging
import time
from collections.abc import Container, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import replace

import numpy as np
from rich.console import Console

from distil_ray.cli import signals
from distil_ray.cli.console import format_count, log_field
from distil_ray.config import Config, ResourcesConfig
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.output.cleanup import remove_orphans
from distil_ray.output.forgotten import Forgotten, Remembered
from distil_ray.output.lease import Lease, acquire_lease
from distil_ray.output.ledger import Ledger, isin_sorted
from distil_ray.output.ledger_rows import drop_rows
from distil_ray.output.run_context import Run
from distil_ray.output.run_outcome import record_failure, write_failure, write_outcome, write_running
from distil_ray.pipeline.capacity import (
    Node,
    actor_cpus,
    cluster_address,
    describe_memory_excess,
    num_actors,
    starts_local_ray,
)
from distil_ray.pipeline.commit_results import CommitResults
from distil_ray.pipeline.committed_files import CommittedFiles
from distil_ray.pipeline.finalize import RunTimer, finalize, write_events
from distil_ray.pipeline.int8_dtypes import INT8, NodeDtype, describe_node_dtypes, find_dtype
from distil_ray.pipeline.model_setup import start_weights_download
from distil_ray.pipeline.plan_report import log_plan
from distil_ray.pipeline.planner import Plan, make_plan
from distil_ray.pipeline.progress import Progress, ProgressTracker
from distil_ray.pipeline.ray_logging import filter_stderr
from distil_ray.pipeline.setup import (
    RunSetup,
    check_capacity,
    check_output,
    clear_run_folder,
    prepare_run,
    read_forgotten,
    reserve_memory,
    write_run_settings,
)
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.listing import list_recordings
from distil_ray.recognition.base import is_automatic_choice
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import normalize
from distil_ray.types import Recording

logger = logging.getLogger(__name__)


def transcribe(
    config: Config,
    console: Console,
    transcriber: type | None = None,
    recording_ids: Container[str] | None = None,
    *,
    force: bool = False,
    write_page: bool = True,
    is_last_step: bool = True,
    is_new: bool = False,
) -> ExitCode:
    """Transcribes the recordings that the output lacks, writes the run folder and prints a summary.

    Args:
        config: Settings of the run.
        console: Destination of the progress and summary lines.
        transcriber: Replacement for the transcribe stage, for tests and measurements of the pipeline itself.
        recording_ids: Ids to process; other listed recordings are skipped. None: all.
        force: Take the output's lease although another run seems to hold it.
        write_page: Write report.html at the end. A nightly run writes its own page after the drift check.
        is_last_step: The outcome of the run is final. Otherwise the caller writes it after its later steps.
        is_new: No other run has had `config.run_id`. If one has by now, nothing is done.

    Returns:
        `ExitCode.DONE`, or `TOO_MANY_FAILED` where more recordings failed than `max_failed_fraction` allows.

    Raises:
        SettingsError: For wrong settings or input; nothing was started.
        RunError: If the run failed, or if the output does not hold exactly one row per listed recording.
    """
    timer = RunTimer()
    setup = prepare_run(config, console)
    check_capacity(config)
    run = setup.run
    with _acquire_lease(run, force) as lease:
        if is_new:
            _check_new(run)
        _remove_orphans(run, lease, console)
        forgotten = read_forgotten(run, console)
        ledger = _without_forgotten(run, check_output(run), forgotten, lease, console)
        listing = list_recordings(config.input, run.storage, IndexCache(config.output.uri, run.storage, writable=True))
        remembered = Remembered(listing, forgotten)
        plan = _write_plan(setup, remembered, ledger, recording_ids)
        log_plan(plan, run, listing, console, remembered.num_forgotten)
        with (
            record_failure(run.folder_uri, run.storage),
            CommitResults() as results,
            CommittedFiles() as committed,
        ):
            if plan.num_tasks:
                _run_graph(setup, config.resources, plan, lease, results, committed, console, transcriber)
            lease.check()
            code = finalize(run, plan, results, committed, timer, console, check=lease.check, write_page=write_page)
        try:
            if is_last_step:
                write_outcome(run.folder_uri, code, "", run.storage)
            else:
                write_running(run.folder_uri, config.output.lease_s, run.storage)
        except StorageError as error:  # the run is complete all the same
            logger.warning("the outcome of the run could not be stored: %s", error)
        return code


def _acquire_lease(run: Run, force: bool) -> AbstractContextManager[Lease]:
    output = run.config.output
    return acquire_lease(
        normalize(output.uri),
        run.run_id,
        output.lease_s,
        run.storage,
        force=force,
        on_lost=signals.raise_in_main_thread,
    )


def _check_new(run: Run) -> None:
    """Raises `SettingsError` if the run folder exists. To be called while the lease is held."""
    if next(iter(run.storage.list_files(run.folder_uri)), None) is not None:
        raise SettingsError(
            f"{run.folder_uri}: exists, as another process has used this run id since the command was started."
            " Nothing was done. Start the command again, if it is to run once more"
        )


def _remove_orphans(run: Run, lease: Lease, console: Console) -> None:
    output = run.config.output
    removed = remove_orphans(normalize(output.uri), run.run_id, lease.forced_from, output.lease_s, run.storage)
    if removed:
        log_field("cleaned up", removed, console)


def _without_forgotten(run: Run, ledger: Ledger, forgotten: Forgotten, lease: Lease, console: Console) -> Ledger:
    """Removes rows that the last task of a dead run has written after their recordings were forgotten."""
    rows = np.flatnonzero(isin_sorted(ledger.ids, forgotten.ids))
    if not len(rows):
        return ledger
    log_field("forgotten", f"{len(rows):,} rows removed that came after the request", console, num_rows=len(rows))
    drop_rows(ledger, rows, run.storage, lease.check)
    return check_output(run)


def _write_plan(
    setup: RunSetup, listing: Iterable[Recording], ledger: Ledger, recording_ids: Container[str] | None
) -> Plan:
    run = setup.run
    config = run.config
    chosen = (one for one in listing if recording_ids is None or one.recording_id in recording_ids)
    try:
        clear_run_folder(run)
        plan = make_plan(
            chosen, ledger, run.fingerprint, config.plan, run.plan_uri, run.storage, retry_failed=config.retry_failed
        )
        write_run_settings(setup)
    except StorageError as error:  # these are the first writes of a run; errors of the listing are InputErrors
        raise SettingsError(f"output.uri={config.output.uri}: {error}") from error
    return plan


def _run_graph(
    setup: RunSetup,
    settings: ResourcesConfig,
    plan: Plan,
    lease: Lease,
    results: CommitResults,
    committed: CommittedFiles,
    console: Console,
    transcriber: type | None,
) -> None:
    """Runs the Ray graph and shows its progress.

    Adds to `results` and to `committed`, also if an exception ends the run.
    """
    from distil_ray.pipeline import ray_cluster, ray_graph

    run = setup.run
    address = cluster_address(run.config.resources)
    place = "Ray on this machine" if address is None else f"connection to Ray at {address}"
    log_field("starting", place, console, address=address)
    if address is None:
        start_weights_download(run)
    with ray_cluster.connect_cluster(run.config.resources) as description:
        signals.restore_handlers()
        run, dtypes = _allocate_resources(setup, settings, console)
        resources = run.config.resources
        nodes = ray_cluster.node_resources()
        actors = num_actors(resources, nodes)
        executors = ray_cluster.count_executors(resources, actors, plan.num_tasks)
        _log_cluster(description, nodes, actors, executors, resources, console)
        estimates = dict(zip(*(plan.tasks[name].to_pylist() for name in ("task_id", "estimated_s")), strict=True))
        started_s = time.monotonic()
        warnings = _WarningLog(console, {each.remark for each in dtypes if each.remark})  # actors state them too
        tracker = ProgressTracker(plan.num_recordings, plan.estimated_s, estimates, actors)
        with _filter_ray_output(console), Progress(tracker, console) as progress:
            try:
                graph = ray_graph.run_graph(run, plan, transcriber, warnings.add, progress.update)
                with closing(graph) as stream:
                    for result in stream:
                        num_before = results.last["actors_alive"] if results.last else actors
                        num_alive = result.pop("actors_alive", None) or num_before  # 0 when Ray has ended the pool
                        at_s = round(time.monotonic() - started_s, 3)
                        committed.add(result.pop("index_entry"))
                        result |= {"at_s": at_s, "actors_alive": num_alive}
                        results.add(result)
                        for message in result["warnings"] or ():
                            warnings.add(message)
                        warnings.add_memory_excess(resources, result["actor_rss_mb"])
                        progress.add(result)
                        lease.check()
            except (
                BaseException
            ) as error:  # signals too: write before Ray shuts down, which may outlast the grace period
                with suppress(StorageError):
                    write_events(run, results)
                write_failure(run.folder_uri, error, run.storage)
                raise


def _allocate_resources(setup: RunSetup, settings: ResourcesConfig, console: Console) -> tuple[Run, list[NodeDtype]]:
    """Returns the run with the resources that recognizers get, and what int8 is on the nodes of this cluster."""
    from distil_ray.pipeline import ray_cluster

    run = setup.run
    is_local = starts_local_ray(run.config.resources)
    run = _with_resources(run, ray_cluster.allocate_resources(run.config.resources))
    if run.config.model.dtype != INT8:
        return run, []
    if is_local:
        return run, [find_dtype()]
    dtypes = ray_cluster.call_on_nodes(find_dtype, actor_cpus(run.config.resources))
    dtype = describe_node_dtypes(dtypes, console)
    run = reserve_memory(_with_resources(run, settings), setup.model, dtype)
    return _with_resources(run, ray_cluster.allocate_resources(run.config.resources)), dtypes


def _log_cluster(
    description: str,
    nodes: Sequence[Node],
    actors: int,
    executors: int,
    resources: ResourcesConfig,
    console: Console,
) -> None:
    """Prints what the cluster has, and the recognizers and scheduling processes that it gets."""
    size = f"{actor_cpus(resources):g} CPUs" + (f", {gpus} GPUs" if (gpus := resources.gpus_per_actor) else "")
    log_field(
        "cluster",
        f"{description}; {format_count(actors, 'recognizer actor')} of {size}"
        + (f"; {executors} processes schedule the tasks" if executors > 1 else ""),
        console,
        num_nodes=len(nodes),
        cpus=sum(node.get("CPU", 0.0) for node in nodes),
        gpus=sum(node.get("GPU", 0.0) for node in nodes),
        num_recognizers=actors,
        num_executors=executors,
        cpus_per_recognizer=actor_cpus(resources),
        gpus_per_recognizer=resources.gpus_per_actor,
    )


class _WarningLog:
    """Prints each warning of a run once, and what recognizers have chosen for settings of ``auto``."""

    def __init__(self, console: Console, known: set[str]) -> None:
        """`known`: warnings that have been printed."""
        self._console, self._logged = console, known
        self._is_excess_logged = False

    def add(self, message: str) -> None:
        if message not in self._logged:
            self._logged.add(message)
            if is_automatic_choice(message):
                log_field("chosen", message, self._console)
            else:
                log_field("warning", message, self._console, level="warning")

    def add_memory_excess(self, resources: ResourcesConfig, peak_rss_mb: float | None) -> None:
        """Prints `describe_memory_excess` for the first actor that took too much; the size grows with the parts."""
        message = None if self._is_excess_logged else describe_memory_excess(resources, peak_rss_mb)
        if message is not None:
            self._is_excess_logged = True
            self.add(message)


def _with_resources(run: Run, resources: ResourcesConfig) -> Run:
    return replace(run, config=run.config.model_copy(update={"resources": resources}))


def _filter_ray_output(console: Console) -> AbstractContextManager[None]:
    """Prints what Ray's core writes to standard error as fields of the console; with `--debug` it stays as it is."""
    if logger.isEnabledFor(logging.DEBUG):
        return nullcontext()
    return filter_stderr(lambda line: log_field("ray", line, console, level="warning"))
