"""The sequence of a nightly run: transcribe, check for drift, write the report, notify the webhook, remove old folders.

    attempt ──> runner.transcribe ──> figures ──> drift check ──> report ──> pages ──> webhook ──> assistant
    a run ID    (redo.redo for a      of the      against         in the run     HTML      one POST    training, if
    per date    past date)            partition   earlier runs    folder                               requested

Old run folders are removed after nightly_run.json is written. The ledger decides which recordings are new, not the
date: the next nightly run catches up on one that was missed. Dates are UTC.

Every outcome except a signal is an exit code and a last log line that contains it, because the client of
`ray job submit` passes on only 0 or 1.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any

from rich.console import Console

from distil_ray.cli.console import log_field
from distil_ray.config import Config
from distil_ray.config.loader import require_locations
from distil_ray.errors import DistilRayError, ExitCode, SettingsError
from distil_ray.nightly import run_records, webhook
from distil_ray.nightly.assistant_retraining import retrain_assistant
from distil_ray.nightly.drift import Verdict, check_drift, format_verdict
from distil_ray.nightly.history_page import load_drift, write_history
from distil_ray.nightly.redo import choose_attempt, find_unfinished_redos, redo, replace_rows
from distil_ray.nightly.run_records import Attempt, Attempts, Figures
from distil_ray.output.lease import acquire_lease
from distil_ray.output.run_context import RUNS_FOLDER
from distil_ray.output.run_outcome import OUTCOMES, write_outcome
from distil_ray.pipeline import runner
from distil_ray.pipeline.plan_report import show_plan
from distil_ray.redaction import redact
from distil_ray.report.run_page import write_run_page
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join, normalize

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """The content of nightly_run.json and the body of the webhook request.

    Attributes:
        date: ISO date of the nightly run.
        run_id: Run ID of the attempt; None if the run ended before it had one.
        output: Redacted URI of the output.
        outcome: A value of `OUTCOMES`.
        exit_code: Exit code of the process.
        text: Summary in one sentence.
        num_recognized: Recordings that this attempt transcribed.
        figures: Figures of all rows of the date (`run_records.compute_figures`), and `rtfx` of the attempt.
        drift: Verdicts of the drift check; empty if it was not done.
        finished_at: End time, UTC.
        assistant: Result of the assistant training; None if there was none. The webhook is called before the training.
    """

    date: str
    run_id: str | None
    output: str
    outcome: str
    exit_code: int
    text: str
    num_recognized: int = 0
    figures: Figures = field(default_factory=dict)
    drift: Sequence[Verdict] = ()
    finished_at: str = ""
    assistant: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class NightlyRun:
    """A nightly run before transcription begins.

    Attributes:
        config: Settings, without the address of the webhook.
        attempt: Date and number of this run.
        earlier: Attempts that have a run folder, with the names of its files.
        output: Normalized URI of the output.
        is_redo: True if a past date is repeated.
    """

    config: Config
    attempt: Attempt
    earlier: Attempts
    output: str
    is_redo: bool

    @property
    def storage(self) -> Storage:
        return Storage(self.config.storage)


def run_nightly(
    config: Config,
    requested_date: date | None,
    console: Console,
    transcriber: type | None = None,
    *,
    force: bool = False,
) -> ExitCode:
    """Does one nightly run, writes its report, and notifies the webhook.

    Args:
        config: Settings; `run_id` and `output.partition` must be unset.
        requested_date: A past date to repeat; None or today for the run of today (UTC).
        console: Receives the messages.
        transcriber: Class of the transcribe stage, as in `runner.transcribe`; for tests.
        force: Writes although another run holds the lease of the output.

    Returns:
        The exit code. Errors after the first checks are reported and returned as an exit code.

    Raises:
        SettingsError: A required setting is missing or one that the run sets itself is given, the date is in the
            future, or the address of the webhook is malformed.
    """
    require_locations(config)
    _require_unset(config)
    today = _today()
    if requested_date is not None and requested_date > today:
        raise SettingsError(f"--date {requested_date}: is in the future; today is {today} (UTC).")
    url = webhook.resolve_url(config.nightly)
    day, output = requested_date or today, normalize(config.output.uri)
    run: NightlyRun | None = None
    try:
        run = _begin(config, day, output, day != today, console)
        report = _make_report(run, _transcribe(run, console, transcriber, force), console)
    except Exception as error:  # internal errors must be reported to the webhook too
        logger.log(logging.DEBUG if isinstance(error, DistilRayError) else logging.ERROR, "failed", exc_info=True)
        report = _failure_report(day, run, output, error)
        for line in str(error).splitlines():
            log_field("error", line, console)
    _write_report(report, run, console)
    if report.exit_code != ExitCode.BAD_SETTINGS:  # otherwise no run was started, so there is no run folder
        _write_pages(run, console)
    if url is not None:
        _notify(url, report, config, console)
    _retrain(report, run, console)
    log_field("nightly run", f"{report.text}: exit code {report.exit_code}", console)
    return ExitCode(report.exit_code)


def show_nightly_plan(config: Config, requested_date: date | None, console: Console) -> ExitCode:
    """Prints the work of the nightly run of today. Writes nothing, and calls no webhook.

    Raises:
        SettingsError: As `run_nightly`; also for a past date, whose recordings are known.
    """
    require_locations(config)
    _require_unset(config)
    if requested_date is not None and requested_date != _today():
        raise SettingsError(
            f"--plan --date {requested_date}: the run of another date transcribes the recordings of that date again,"
            " and no others. Leave out one of the two options."
        )
    return show_plan(config, console)


def _require_unset(config: Config) -> None:
    """Raises `SettingsError` if a setting is given that a nightly run derives from its date."""
    for key, value in (("run_id", config.run_id), ("output.partition", config.output.partition)):
        if value is not None:
            raise SettingsError(f"{key}={value}: a nightly run sets this from its date. Leave it out, or use --date.")


def _begin(config: Config, day: date, output: str, is_redo: bool, console: Console) -> NightlyRun:
    """Chooses the attempt, and completes replacements that earlier redos left unfinished."""
    storage = Storage(config.storage)
    try:
        earlier = run_records.find_attempts(output, storage)
        attempt = choose_attempt(day, earlier) if is_redo else run_records.next_attempt(day, earlier)
        for begun in (one for one in find_unfinished_redos(earlier) if one != attempt):
            with acquire_lease(output, begun.run_id, config.output.lease_s, storage):
                replace_rows(begun, output, storage, console)
    except StorageError as error:
        raise SettingsError(f"output.uri={config.output.uri}: {error}") from error
    log_field("nightly run", f"{day}, {'repeated, ' if is_redo else ''}attempt {attempt.number}", console)
    nightly = config.nightly.model_copy(update={"webhook_url": None})  # a secret that workers do not need
    return NightlyRun(config.model_copy(update={"nightly": nightly}), attempt, earlier, output, is_redo)


def _transcribe(run: NightlyRun, console: Console, transcriber: type | None, force: bool) -> ExitCode:
    if run.is_redo:
        redo(run.config, run.attempt, console, transcriber, force=force)
        return ExitCode.DONE
    partition = run.config.output.model_copy(update={"partition": run.attempt.day})
    settings = run.config.model_copy(update={"output": partition, "run_id": run.attempt.run_id})
    return runner.transcribe(settings, console, transcriber, force=force, write_page=False, is_last_step=False)


def _make_report(run: NightlyRun, code: ExitCode, console: Console) -> Report:
    """Returns the report of a run that is complete: every listed recording has a row."""
    summary = _read_summary(run)
    figures = run_records.compute_figures(run_records.partition_uri(run.output, run.attempt.day), run.storage)
    figures["rtfx"] = summary["rtfx_model"]
    verdicts = _check_drift(run, figures, console)
    drifted = [verdict.figure for verdict in verdicts if verdict.has_drifted]
    if drifted and code == ExitCode.DONE:
        code = ExitCode.DRIFT
    recognized = summary["num_recognized"]
    words = f"{recognized:,} recording{'s' * (recognized != 1)}" if recognized else "no new recordings"
    words += f", outside the limits: {', '.join(drifted)}" if drifted else ""
    return Report(
        date=run.attempt.day.isoformat(),
        run_id=run.attempt.run_id,
        output=redact(run.output),
        outcome=OUTCOMES[code],
        exit_code=code,
        text=f"{run.attempt.run_id} {OUTCOMES[code]}, {words}",
        num_recognized=recognized,
        figures=figures,
        drift=verdicts,
        finished_at=_now(),
    )


def _read_summary(run: NightlyRun) -> dict[str, Any]:
    uri = join(run.output, RUNS_FOLDER, run.attempt.run_id, "summary.json")
    return dict(json.loads(run.storage.read(uri)))


def _check_drift(run: NightlyRun, figures: Figures, console: Console) -> list[Verdict]:
    """Returns and logs the drift verdicts; none if the run is too small or there are too few earlier runs."""
    settings, recordings = run.config.nightly, figures["num_recordings"]
    if recordings < settings.min_recordings:
        few = f"{recordings:,} recordings, fewer than nightly.min_recordings={settings.min_recordings}"
        log_field("drift", f"not checked: {few}" if recordings else "not checked: no new recordings", console)
        return []
    history = run_records.read_history(run.attempt.day, run.earlier, settings, run.output, run.storage)
    if len(history) < settings.min_history_runs:
        few = f"{len(history)} nightly runs to compare with, nightly.min_history_runs={settings.min_history_runs}"
        log_field("drift", f"not checked yet: {few}", console)
        return []
    verdicts = check_drift(figures, history, settings)
    for verdict in verdicts:
        log_field("drift", format_verdict(verdict), console)
    if words := run_records.describe_normalizer_change(figures, history):
        log_field("note", words, console)
    return verdicts


def _failure_report(day: date, run: NightlyRun | None, output: str, error: Exception) -> Report:
    """Returns the report of a run that ended with an error."""
    code = error.exit_code if isinstance(error, DistilRayError) else ExitCode.FAILED
    run_id = run.attempt.run_id if run else None
    words = redact(" ".join(str(error).split())) or type(error).__name__
    text = f"{run_id or day} {OUTCOMES[code]}: {words}"
    return Report(day.isoformat(), run_id, redact(output), OUTCOMES[code], code, text, finished_at=_now())


def _write_report(report: Report, run: NightlyRun | None, console: Console) -> None:
    """Writes nightly_run.json and the outcome, and removes old run folders; does nothing if no run was started."""
    if run is None or report.exit_code == ExitCode.BAD_SETTINGS:
        return
    body = json.dumps(asdict(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        run.storage.put(run_records.report_uri(run.attempt, run.output), body.encode())
        folder = join(run.output, RUNS_FOLDER, run.attempt.run_id)
        text = report.text.removeprefix(f"{report.run_id} {report.outcome}").lstrip(",: ")
        write_outcome(folder, report.exit_code, text, run.storage)
    except StorageError as error:
        log_field("note", str(error), console)
    try:
        _remove_old(run, console)
    except (StorageError, SettingsError) as error:  # another run may hold the lease by now
        log_field("note", f"old run folders were not removed: {error}", console)


def _retrain(report: Report, run: NightlyRun | None, console: Console) -> None:
    """Trains the assistant if that is requested, and adds the result to nightly_run.json."""
    if run is None or run.is_redo or not report.figures.get("num_recordings"):
        return
    partition = run_records.partition_uri(run.output, run.attempt.day)
    if (entry := retrain_assistant(run.config, partition, report.figures, console)) is not None:
        _write_report(replace(report, assistant=entry), run, console)


def _write_pages(run: NightlyRun | None, console: Console) -> None:
    """Writes report.html with the drift verdicts, and history.html. An error is logged and does not fail the run."""
    if run is None or not run.config.report.write:
        return
    run_id, output = run.attempt.run_id, run.output

    def write_report_page() -> str:
        return write_run_page(output, run_id, run.config, load_drift(run_id, output, run.storage))

    def write_history_page() -> str:
        return write_history(output, run.storage)

    for what, make in (("report.html", write_report_page), ("history.html", write_history_page)):
        try:
            log_field("report", make(), console)
        except Exception as error:
            words = redact(" ".join(str(error).split())) or type(error).__name__
            logger.log(logging.DEBUG if isinstance(error, DistilRayError) else logging.ERROR, what, exc_info=True)
            log_field("note", f"{what} could not be written: {words}", console)


def _remove_old(run: NightlyRun, console: Console) -> None:
    """Removes the run folders of all dates but the latest `nightly.keep_runs`."""
    keep = run.config.nightly.keep_runs
    if keep is None:
        return
    attempts = {**run.earlier, run.attempt: set[str]()}
    old = [one for one in run_records.old_attempts(attempts, keep) if one != run.attempt]
    if not old:
        return
    with acquire_lease(run.output, run.attempt.run_id, run.config.output.lease_s, run.storage):
        for attempt in old:
            run.storage.delete(join(run.output, RUNS_FOLDER, attempt.run_id))
    log_field("removed", f"{len(old)} run folders, {old[0].run_id} to {old[-1].run_id}; transcripts stay", console)


def _notify(url: str, report: Report, config: Config, console: Console) -> None:
    problem = webhook.post(url, asdict(report), config.nightly.webhook_timeout_s, config.nightly.webhook_attempts)
    if problem is not None:
        log_field("note", problem, console)


def _today() -> date:
    return datetime.now(UTC).date()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
