"""The forget command: finds the recordings, stores the request, removes them from place after place.

    select ──> store the request ──> hashes ──> transcripts, ──> run folders, ──> exports ──> record
               names, while it       runs skip  labels           indexes                      without
               is not finished       them now                                                 names

Everything happens while the lease of the output is held. The command may end at any moment: the next one, with whatever
arguments, finishes the request first. Files are replaced as a whole, so readers see the rows before or after.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from rich.console import Console

from distil_ray.cli import signals
from distil_ray.cli.console import abbreviate, format_count, log_field
from distil_ray.config import Config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.forget import exports, labels, rows, run_folders
from distil_ray.forget.request import Request, read_request
from distil_ray.forget.selection import read_names, select_recordings
from distil_ray.forget.settings import ForgetSettings
from distil_ray.forget.tree import OutputTree, list_outputs
from distil_ray.output.cleanup import remove_orphans
from distil_ray.output.forgotten import Forgotten, allow_again
from distil_ray.output.lease import acquire_lease
from distil_ray.output.run_context import new_run_id
from distil_ray.storage.storage import Storage
from distil_ray.verify.verify import require_existing_output

Step = Callable[..., int]

# In this order: readers of the output first, then what is made of it.
STEPS: dict[str, Step] = {
    "rows of transcripts": rows.clear_transcripts,
    "rows of the data set": labels.clear_labels,
    "planned recordings": run_folders.clear_plans,
    "lines of lists": run_folders.clear_lists,
    "messages": run_folders.clear_messages,
    "groups of summaries": run_folders.clear_groups,
    "indexes of archives": rows.clear_indexes,
}
PAGES, EXPORTS = "pages", "files, lines and samples of exports"
NOTE = (
    "not removed: the audio itself, copies of this output, exports in other folders, earlier versions of objects that"
    " the store keeps, and what models have learned"
)


def forget(
    config: Config, settings: ForgetSettings, console: Console, *, plan_only: bool = False, force: bool = False
) -> ExitCode:
    """Removes recordings from `output.uri` and from exports of it.

    Args:
        config: Provides `output`, `storage` and, with `deleted_sources`, `input`.
        settings: The options of the command.
        console: Receives the counts.
        plan_only: Only prints what would be removed.
        force: Take the output's lease although a run seems to hold it.

    Raises:
        SettingsError: There is no output, no recording is named or found, or another run writes to the output.
        StorageError: The storage does not answer.
    """
    storage = Storage(config.storage)
    output = require_existing_output(config, storage)
    if plan_only:
        return _show_plan(output, config, settings, storage, console)
    run_id = new_run_id()
    with acquire_lease(
        output, run_id, config.output.lease_s, storage, force=force, on_lost=signals.raise_in_main_thread
    ) as lease:
        for tree in list_outputs(output, storage):  # results of parts quote recordings, in the folder of a redo too
            remove_orphans(tree.uri, run_id, lease.forced_from, config.output.lease_s, storage)
        pending = Forgotten.read(output, storage).pending
        for name in pending:
            request = read_request(name, output, storage)
            log_field("finishing", f"the request of {request.requested_at}", console, requested_at=request.requested_at)
            _carry_out(request, output, config, storage, lease.check, console)
        if settings.allow:
            return _allow(settings, output, storage, console)
        if pending and settings == ForgetSettings():
            return ExitCode.DONE
        request = _prepare(output, config, settings, storage, console)
        request.store(output, storage)
        _carry_out(request, output, config, storage, lease.check, console)
    log_field("note", NOTE, console)
    return ExitCode.DONE


def _show_plan(output: str, config: Config, settings: ForgetSettings, storage: Storage, console: Console) -> ExitCode:
    if settings.allow:
        raise SettingsError("--plan: has nothing to show with allow=true. Leave one of them out.")
    if pending := Forgotten.read(output, storage).pending:
        log_field("unfinished", f"{format_count(len(pending), 'request')}, finished by the next call", console)
    request = _prepare(output, config, settings, storage, console)
    for place, count in request.removed.items():
        log_field("to remove", f"{count:,} {place}", console, place=place, count=count)
    return ExitCode.DONE


def _prepare(output: str, config: Config, settings: ForgetSettings, storage: Storage, console: Console) -> Request:
    """Returns the request with the counts of what there is to remove. Raises `SettingsError` if it finds nobody."""
    trees = list_outputs(output, storage)
    request, unmatched = select_recordings(config, settings, trees, storage)
    if settings.exports:
        found = {example for tree in trees for example, _ in labels.find_examples(request, tree, storage)}
        request = replace(request, examples=sorted(found))
    if unmatched:
        log_field("not found", abbreviate(unmatched, len(unmatched)), console, names=unmatched)
    if not request.ids and not request.sources:
        raise SettingsError(f"output.uri={config.output.uri}: no recording of it is selected")
    counts = _run_steps(request, trees, config, storage, lambda: None, apply=False)
    log_field("recordings", f"{len(request.ids):,}", console, num_recordings=len(request.ids))
    return replace(request, removed=dict(counts))


def _carry_out(
    request: Request, output: str, config: Config, storage: Storage, check: Callable[[], None], console: Console
) -> None:
    """Does all steps of a stored request. Each can be repeated."""
    request.store_hashes(output, storage)
    _run_steps(request, list_outputs(output, storage), config, storage, check, apply=True)
    record = {
        "request_id": request.request_id,
        "requested_at": request.requested_at,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "num_recordings": len(request.ids),
        "rows_by_fingerprint": dict(request.rows_by_fingerprint),
        "removed": dict(request.removed),
        "num_exports": len(request.exports),
        "not_removed": NOTE.partition(": ")[2],
    }
    request.finish(record, output, storage)
    for place, count in request.removed.items():
        log_field("removed", f"{count:,} {place}", console, place=place, count=count)


def _run_steps(
    request: Request,
    trees: list[OutputTree],
    config: Config,
    storage: Storage,
    check: Callable[[], None],
    *,
    apply: bool,
) -> Mapping[str, int]:
    """Returns the counts by place, of places that have any."""
    counts = Counter[str]()
    for place, step in STEPS.items():
        for tree in trees:
            check()
            counts[place] += step(request, tree, storage, apply=apply)
    for tree in trees:
        check()
        counts[PAGES] += run_folders.clear_pages(request, tree, config, storage, apply=apply)
    counts[EXPORTS] += exports.clear_exports(request, storage, apply=apply)
    return {place: count for place, count in counts.items() if count}


def _allow(settings: ForgetSettings, output: str, storage: Storage, console: Console) -> ExitCode:
    """Lets runs transcribe recordings again: those that are named, else all."""
    names = read_names(settings, storage)
    if names.has_patterns:
        raise SettingsError("allow=true: only hashes of forgotten recordings are known; name them without wildcards")
    counts = allow_again(names.exact or None, output, storage)
    log_field("allowed", f"{counts[0]:,} ids and {counts[1]:,} sources", console, num_ids=counts[0])
    return ExitCode.DONE
