"""The sequence of a nightly run: transcribe, check for drift, write the report, notify the webhook, remove old folders.

    attempt ──> runner.transcribe ──> figures ──> drift check ──> report ──> pages ──> webhook ──> assistant
    a run ID    (redo_date for        of the      against         in the run     HTML      one POST    training, if
    per date    `--redo`)             partition   earlier dates   folder                               requested

Old run folders are removed after nightly_run.json is written. The ledger decides which recordings are new, not the
date: the next nightly run catches up on one that was missed. Without `--as-of` or `--redo`, the date is today in
`nightly.timezone`.

Every outcome except a signal is an exit code and a last log line that contains it, because the client of
`ray job submit` passes on only 0 or 1.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Console

from distil_ray.cli.command_line import ErrorPrinter, describe_error, print_error
from distil_ray.cli.console import format_count, log_field
from distil_ray.config import Config
from distil_ray.config.loader import require_locations
from distil_ray.errors import DistilRayError, ExitCode, SettingsError
from distil_ray.nightly import run_records, webhook
from distil_ray.nightly.assistant_retraining import retrain_assistant
from distil_ray.nightly.drift import Verdict, check_drift, format_verdict
from distil_ray.nightly.history_page import load_drift, write_history
from distil_ray.nightly.redo import choose_attempt, find_unfinished_redos, has_redo_files, redo_date, replace_rows
from distil_ray.nightly.run_records import Attempt, Attempts, Figures
from distil_ray.output.lease import acquire_lease
from distil_ray.output.run_context import RUNS_FOLDER
from distil_ray.output.run_outcome import OUTCOMES, record_later_steps, write_outcome
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
        timezone: Value of `nightly.timezone`, the time zone of the date.
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
    timezone: str
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
        is_redo: True if the recordings of the date are transcribed again (`--redo`).
    """

    config: Config
    attempt: Attempt
    earlier: Attempts
    output: str
    is_redo: bool

    @property
    def storage(self) -> Storage:
        return Storage(self.config.storage)

    @property
    def folder_uri(self) -> str:
        """URI of the run folder."""
        return join(self.output, RUNS_FOLDER, self.attempt.run_id)


def run_nightly(
    config: Config,
    console: Console,
    transcriber: type | None = None,
    *,
    as_of: date | None = None,
    redo: date | None = None,
    force: bool = False,
    on_error: ErrorPrinter = print_error,
) -> ExitCode:
    """Does one nightly run, writes its report, and notifies the webhook.

    Args:
        config: Settings; `run_id` and `output.partition` must be unset.
        console: Receives the messages.
        transcriber: Class of the transcribe stage, as in `runner.transcribe`; for tests.
        as_of: Date of this run; None for today in `nightly.timezone`.
        redo: Date whose recordings are transcribed again; None for a run that transcribes new recordings.
        force: Writes although another run holds the lease of the output.
        on_error: Prints the error that ended the run, as in `run_cli`.

    Returns:
        The exit code. Errors after the first checks are reported and returned as an exit code.

    Raises:
        SettingsError: A required setting is missing or one that the run sets itself is given, both dates are given or
            one is in the future, or the address of the webhook is malformed.
    """
    require_locations(config)
    _require_unset(config)
    day = _choose_date(as_of, redo, config.nightly.timezone)
    url = webhook.resolve_url(config.nightly)
    output = normalize(config.output.uri)
    run: NightlyRun | None = None
    try:
        run = _begin(config, day, output, redo is not None, console)
        code = _transcribe(run, console, transcriber, force)
        with record_later_steps(run.folder_uri, config.output.lease_s, run.storage):
            report = _make_report(run, code, console)
    except Exception as error:  # internal errors must be reported to the webhook too
        logger.debug("failed", exc_info=True)
        report = _failure_report(day, run, config, error)
        on_error("error", describe_error(error), report.exit_code)
    _write_report(report, run, console)
    if report.exit_code != ExitCode.BAD_SETTINGS:  # otherwise no run was started, so there is no run folder
        _write_pages(run, console)
    if url is not None:
        _notify(url, report, config, console)
    _retrain(report, run, console)
    _log_report(report, console)
    return ExitCode(report.exit_code)


def _log_report(report: Report, console: Console) -> None:
    log_field(
        "nightly run",
        f"{report.text}: exit code {report.exit_code}",
        console,
        level=_LEVELS.get(ExitCode(report.exit_code), "error"),
        date=report.date,
        timezone=report.timezone,
        run_id=report.run_id,
        outcome=report.outcome,
        exit_code=report.exit_code,
        num_recognized=report.num_recognized,
    )


_LEVELS = {ExitCode.DONE: "info", ExitCode.DRIFT: "warning", ExitCode.TOO_MANY_FAILED: "warning"}  # of the last event


def show_nightly_plan(
    config: Config, console: Console, *, as_of: date | None = None, redo: date | None = None
) -> ExitCode:
    """Prints the work of a nightly run. Writes nothing, and calls no webhook.

    Raises:
        SettingsError: As `run_nightly`; also for a redo, whose recordings are known.
    """
    require_locations(config)
    _require_unset(config)
    _choose_date(as_of, redo, config.nightly.timezone)
    if redo is not None:
        raise SettingsError(
            f"--plan --redo {redo}: a redo transcribes the recordings of that date again, and no others. Leave out one"
            " of the two options."
        )
    return show_plan(config, console)


def _choose_date(as_of: date | None, redo: date | None, timezone: str) -> date:
    """Returns the date of the run: the requested one, else today. Raises `SettingsError` if it cannot be used."""
    if as_of is not None and redo is not None:
        raise SettingsError(
            f"--as-of {as_of} and --redo {redo}: only one of them can be given. --as-of transcribes new and changed"
            " recordings into the partition of its date; --redo transcribes the recordings of that partition again."
        )
    today = _utc_now().astimezone(ZoneInfo(timezone)).date()
    day = as_of or redo or today
    if day > today:
        flag = "--as-of" if as_of is not None else "--redo"
        raise SettingsError(f"{flag} {day}: is in the future; today is {today} (nightly.timezone={timezone}).")
    return day


def _require_unset(config: Config) -> None:
    """Raises `SettingsError` if a setting is given that a nightly run derives from its date."""
    for key, value in (("run_id", config.run_id), ("output.partition", config.output.partition)):
        if value is not None:
            raise SettingsError(f"{key}={value}: a nightly run sets this from its date. Leave it out, or use --as-of.")


def _begin(config: Config, day: date, output: str, is_redo: bool, console: Console) -> NightlyRun:
    """Chooses the attempt, and completes replacements that earlier redos left unfinished."""
    storage = Storage(config.storage)
    try:
        earlier = run_records.find_attempts(output, storage)
        attempt = choose_attempt(day, earlier) if is_redo else run_records.next_attempt(day, earlier)
        for begun in (one for one in find_unfinished_redos(earlier) if one != attempt):
            with acquire_lease(output, begun.run_id, config.output.lease_s, storage) as lease:
                replace_rows(begun, output, storage, console, lease.check)
    except StorageError as error:
        raise SettingsError(f"output.uri={config.output.uri}: {error}") from error
    timezone = config.nightly.timezone
    log_field(
        "date",
        f"{day} ({timezone}), attempt {attempt.number}{', transcribing its recordings again' * is_redo}",
        console,
        date=day,
        timezone=timezone,
        run_id=attempt.run_id,
        attempt=attempt.number,
        is_redo=is_redo,
    )
    nightly = config.nightly.model_copy(update={"webhook_url": None})  # a secret that workers do not need
    return NightlyRun(config.model_copy(update={"nightly": nightly}), attempt, earlier, output, is_redo)


def _transcribe(run: NightlyRun, console: Console, transcriber: type | None, force: bool) -> ExitCode:
    if run.is_redo:
        redo_date(run.config, run.attempt, console, transcriber, force=force)
        return ExitCode.DONE
    partition = run.config.output.model_copy(update={"partition": run.attempt.day})
    settings = run.config.model_copy(update={"output": partition, "run_id": run.attempt.run_id})
    return runner.transcribe(
        settings, console, transcriber, force=force, write_page=False, is_last_step=False, is_new=True
    )


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
    words = format_count(recognized, "recording") if recognized else "no new recordings"
    words += f", outside the limits: {', '.join(drifted)}" if drifted else ""
    return Report(
        date=run.attempt.day.isoformat(),
        timezone=run.config.nightly.timezone,
        run_id=run.attempt.run_id,
        output=redact(run.output),
        outcome=OUTCOMES[code],
        exit_code=code,
        text=f"{run.attempt.run_id} {OUTCOMES[code]}, {words}",
        num_recognized=recognized,
        figures=figures,
        drift=verdicts,
        finished_at=_format_now(),
    )


def _read_summary(run: NightlyRun) -> dict[str, Any]:
    return dict(json.loads(run.storage.read(join(run.folder_uri, "summary.json"))))


def _check_drift(run: NightlyRun, figures: Figures, console: Console) -> list[Verdict]:
    """Returns and logs the drift verdicts; none if the run is too small or there are too few earlier runs."""
    settings, recordings = run.config.nightly, figures["num_recordings"]
    if recordings < settings.min_recordings:
        few = f"{recordings:,} recordings, fewer than nightly.min_recordings={settings.min_recordings}"
        text = f"not checked: {few}" if recordings else "not checked: no new recordings"
        log_field("drift", text, console, num_recordings=recordings, min_recordings=settings.min_recordings)
        return []
    history = run_records.read_history(run.attempt.day, run.earlier, settings, run.output, run.storage)
    if len(history) < settings.min_history_runs:
        few = f"{len(history)} nightly runs to compare with, nightly.min_history_runs={settings.min_history_runs}"
        log_field(
            "drift",
            f"not checked yet: {few}",
            console,
            num_runs=len(history),
            min_history_runs=settings.min_history_runs,
        )
        return []
    verdicts = check_drift(figures, history, settings)
    for verdict in verdicts:
        level = "warning" if verdict.has_drifted else "info"
        log_field("drift", format_verdict(verdict), console, level=level, **asdict(verdict))
    if words := run_records.describe_normalizer_change(figures, history):
        log_field("note", words, console)
    return verdicts


def _failure_report(day: date, run: NightlyRun | None, config: Config, error: Exception) -> Report:
    """Returns the report of a run that ended with an error."""
    code = error.exit_code if isinstance(error, DistilRayError) else ExitCode.FAILED
    run_id = run.attempt.run_id if run else None
    words = redact(" ".join(str(error).split())) or type(error).__name__
    text = f"{run_id or day} {OUTCOMES[code]}: {words}"
    return Report(
        date=day.isoformat(),
        timezone=config.nightly.timezone,
        run_id=run_id,
        output=redact(normalize(config.output.uri)),
        outcome=OUTCOMES[code],
        exit_code=code,
        text=text,
        finished_at=_format_now(),
    )


def _write_report(report: Report, run: NightlyRun | None, console: Console) -> None:
    """Writes nightly_run.json and the outcome, and removes old run folders; does nothing if no run was started."""
    if run is None or report.exit_code == ExitCode.BAD_SETTINGS:
        return
    body = json.dumps(asdict(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        run.storage.put(run_records.report_uri(run.attempt, run.output), body.encode())
        text = report.text.removeprefix(f"{report.run_id} {report.outcome}").lstrip(",: ")
        write_outcome(run.folder_uri, report.exit_code, text, run.storage)
    except StorageError as error:
        log_field("warning", str(error), console, level="warning")
    try:
        _remove_old(run, console)
    except (StorageError, SettingsError) as error:  # another run may hold the lease by now
        log_field("warning", f"old run folders were not removed: {error}", console, level="warning")


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
            uri = make()
            log_field("report", uri, console, uri=uri)
        except Exception as error:
            words = redact(" ".join(str(error).split())) or type(error).__name__
            logger.log(logging.DEBUG if isinstance(error, DistilRayError) else logging.ERROR, what, exc_info=True)
            log_field("warning", f"{what} could not be written: {words}", console, level="warning")


def _remove_old(run: NightlyRun, console: Console) -> None:
    """Removes the run folders of all dates but the latest `nightly.keep_runs`; unfinished redos stay."""
    keep = run.config.nightly.keep_runs
    if keep is None:
        return
    attempts = {**run.earlier, run.attempt: set[str]()}
    old = [
        one
        for one in run_records.old_attempts(attempts, keep)
        if one != run.attempt and not has_redo_files(attempts[one])
    ]
    if not old:
        return
    with acquire_lease(run.output, run.attempt.run_id, run.config.output.lease_s, run.storage):
        for attempt in old:
            run.storage.delete(join(run.output, RUNS_FOLDER, attempt.run_id))
    text = f"{len(old)} run folders, {old[0].run_id} to {old[-1].run_id}; transcripts stay"
    log_field("removed", text, console, num_folders=len(old), first=old[0].run_id, last=old[-1].run_id)


def _notify(url: str, report: Report, config: Config, console: Console) -> None:
    problem = webhook.post(url, asdict(report), config.nightly.webhook_timeout_s, config.nightly.webhook_attempts)
    if problem is not None:
        log_field("warning", problem, console, level="warning")


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _format_now() -> str:
    return _utc_now().isoformat(timespec="seconds")
