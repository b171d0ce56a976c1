"""Report of the plan of a run: what was found, the work that is left, and the time and cost that it will take.

Every run reports what it found and what is left (`log_plan`). With `--plan` the report is all that is done
(`show_plan`): nothing is written, and neither a model nor Ray is started.
"""

import json
from statistics import median

from rich.console import Console

from distil_ray.cli.console import format_count, format_duration, log_field
from distil_ray.config import Config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.output.forgotten import Remembered
from distil_ray.output.run_context import RUNS_FOLDER, Run
from distil_ray.pipeline.planner import Plan, make_plan
from distil_ray.pipeline.setup import check_capacity, check_output, prepare_run, read_forgotten
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.listing import Listing, list_recordings
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join, normalize

ESTIMATE_SHOWN_FROM_S = 3.0  # less audio than this is not mentioned as estimated from file sizes
MAX_EARLIER_RUNS = 10  # whose RTFx counts, the latest ones
MIN_EARLIER_AUDIO_S = 60.0  # of a run whose RTFx counts: in a shorter one, most of the time is starting


def show_plan(config: Config, console: Console) -> ExitCode:
    """Prints the work that a run would do. Writes nothing and starts neither a model nor Ray."""
    run = prepare_run(config, console).run
    ledger = check_output(run)
    listing = list_recordings(config.input, run.storage, IndexCache(config.output.uri, run.storage))
    retry = config.retry_failed
    remembered = Remembered(listing, read_forgotten(run, console))
    plan = make_plan(remembered, ledger, run.fingerprint, config.plan, None, run.storage, retry_failed=retry)
    log_plan(plan, run, listing, console, remembered.num_forgotten)
    chunks = plan.num_chunks(run.chunking.length - 2 * run.chunking.stride)
    log_field("chunks", f"about {chunks:,}", console, num_chunks=chunks)
    if plan.num_tasks:
        longest_s = plan.tasks["estimated_s"][0].as_py()
        parts = f"in parts of at most {format_duration(run.part_audio_s)}"
        log_field("longest task", f"{format_duration(longest_s)} of audio, {parts}", console, audio_s=longest_s)
    _log_estimated_time(plan, run, console)
    try:
        check_capacity(config)
    except SettingsError as error:  # the plan may be for a cluster that this machine does not know
        log_field("warning", str(error), console, level="warning")
    return ExitCode.DONE


def _log_estimated_time(plan: Plan, run: Run, console: Console) -> None:
    config = run.config
    rtfx, source = config.plan.rtfx, f"plan.rtfx={config.plan.rtfx:g}" if config.plan.rtfx else ""
    if rtfx is None and (earlier := _earlier_rtfx(run)):
        rtfx = median(earlier)
        source = f"RTFx {rtfx:,.1f}, the median of {format_count(len(earlier), 'earlier run')} of this output"
    if rtfx is None:
        unknown = "unknown: the output has no earlier run of this model; set plan.rtfx to the RTFx of the whole job"
        log_field("time", unknown, console, wall_s=None)
        return
    wall_s = plan.estimated_s / rtfx
    log_field("time", f"{format_duration(wall_s)} at {source}", console, wall_s=wall_s, rtfx=rtfx)
    _log_gpu_hours(wall_s / 3600, config, console)
    if price := config.plan.price_per_hour:
        cost = price * wall_s / 3600
        log_field("cost", f"{cost:,.2f} at plan.price_per_hour={price:g}", console, cost=cost)


def _log_gpu_hours(hours: float, config: Config, console: Console) -> None:
    resources = config.resources
    if not resources.gpus_per_actor:
        return
    if resources.actors == "auto":
        log_field("GPU-hours", "that time for each GPU of the cluster; set resources.actors for a number", console)
        return
    gpus = resources.actors * resources.gpus_per_actor
    text = f"{hours * gpus:,.2f} on {gpus} GPUs (resources.actors={resources.actors})"
    log_field("GPU-hours", text, console, gpu_hours=hours * gpus, gpus=gpus)


def _earlier_rtfx(run: Run) -> list[float]:
    """Returns the RTFx of the latest runs of this output with the same model, on the same kind of device."""
    root = join(normalize(run.config.output.uri), RUNS_FOLDER)
    device = "cuda" if run.config.resources.gpus_per_actor else "cpu"
    found: list[float] = []
    try:
        entries = [entry for entry in run.storage.list_files(root) if entry.uri.endswith("/summary.json")]
        for entry in sorted(entries, key=lambda one: one.modified or 0.0, reverse=True):
            summary = json.loads(run.storage.read(entry.uri))
            is_alike = summary["model"] == run.model_identity and str(summary["device"]).startswith(device)
            if is_alike and (summary["audio_recognized_s"] or 0.0) >= MIN_EARLIER_AUDIO_S and summary["rtfx_job"]:
                found.append(summary["rtfx_job"])
            if len(found) == MAX_EARLIER_RUNS:
                break
    except (StorageError, ValueError, KeyError):  # the time is then unknown, which harms nothing
        return found
    return found


def log_plan(plan: Plan, run: Run, listing: Listing, console: Console, num_forgotten: int) -> None:
    """Logs what the listing found, what the output already holds, and the work that is left.

    `num_forgotten`: listed recordings that are not in the plan, because they were removed on request.
    """
    formats = ", ".join(title + (f" ({n})" if n > 1 else "") for title, n in listing.formats.items())
    found = f"{plan.num_listed + plan.num_skipped:,} recordings ({formats})" if formats else "0 recordings"
    skipped = f"{plan.num_skipped:,} without a failed row skipped (retry_failed); " if plan.num_skipped else ""
    log_field("input", ", ".join(run.config.input.uri), console, uri=run.config.input.uri)
    log_field(
        "found",
        f"{found}; {plan.num_done:,} already done; {skipped}{plan.num_recordings:,} to process",
        console,
        num_recordings=plan.num_listed + plan.num_skipped,
        num_done=plan.num_done,
        num_skipped=plan.num_skipped,
        num_to_process=plan.num_recordings,
        formats=listing.formats,
    )
    if num_forgotten:
        words = f"{format_count(num_forgotten, 'recording')} skipped, removed earlier by distil-ray forget"
        log_field("forgotten", words, console, num_forgotten=num_forgotten)
    if listing.ignored:
        log_field("ignored", str(listing.ignored), console, counts=listing.ignored.counts)
    unknown_s = plan.estimated_s - plan.known_s
    estimated = (
        f" ({format_duration(unknown_s)} estimated from file sizes)" if unknown_s > ESTIMATE_SHOWN_FROM_S else ""
    )
    tasks = format_count(plan.num_tasks, "task")
    log_field(
        "work",
        f"{format_duration(plan.estimated_s)} of audio{estimated} in {tasks}",
        console,
        audio_s=plan.estimated_s,
        estimated_audio_s=unknown_s,
        num_tasks=plan.num_tasks,
    )
