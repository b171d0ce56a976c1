"""A nightly run: what is new or changed goes into the night's partition; the night is judged, told and tidied up after.

    attempt ──> driver.transcribe ──> figures ──> drift ──> night.json ──> pages ──> webhook ──> old run folders
    a run id    (or redo.redo for     of the      beside    in the run     for       one POST    removed
    of the day  a night of the past)  partition   nights    folder         people

What is new is the ledger's answer, not the calendar's: a night that was missed is made up for by the next one. Days
are those of UTC. Every outcome that is not a signal's ends as an exit code and a last line that says it, because the
client of `ray job submit` passes on 0 or 1 only.
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
from distil_ray.pipeline import runner
from distil_ray.redaction import redact
from distil_ray.report.run_page import write_run_page
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join, normalize

logger = logging.getLogger(__name__)

OUTCOMES = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "failed",
    ExitCode.BAD_SETTINGS: "not started",
    ExitCode.TOO_MANY_FAILED: "too many failed",
    ExitCode.DRIFT: "out of line",
}


@dataclass(frozen=True, slots=True)
class Report:
    """The content of night.json and the body of the webhook.

    `text` says all in one sentence. `num_recognized` counts what this attempt has transcribed, `figures` the whole
    night (nights.py). `run_id` is None where the night did not come so far. `assistant` says what a training after the
    night came to (assistant.py); the webhook is told before.
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
    """What is known before anything is transcribed. `earlier`: the attempts of all nights that have a folder."""

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
    """Runs tonight (`given` None or today), or redoes the night of a date in the past; tells how it went.

    `transcriber` and `force` as `driver.transcribe` has them. Raises `SettingsError` only for what is wrong with the
    call itself; whatever goes wrong after that is an exit code.
    """
    require_locations(config)
    _require_unset(config)
    today = _today()
    if requested_date is not None and requested_date > today:
        raise SettingsError(f"--date {requested_date}: lies in the future; today is {today} (UTC).")
    url = webhook.resolve_url(config.nightly)
    day, output = requested_date or today, normalize(config.output.uri)
    night: NightlyRun | None = None
    try:
        night = _begin(config, day, output, day != today, console)
        report = _make_report(night, _transcribe(night, console, transcriber, force), console)
    except Exception as error:  # a fault of this program too has to reach whoever waits for the webhook
        logger.log(logging.DEBUG if isinstance(error, DistilRayError) else logging.ERROR, "failed", exc_info=True)
        report = _failure_report(day, night, output, error)
        for line in str(error).splitlines():
            log_field("error", line, console)
    _write_report(report, night, console)
    if report.exit_code != ExitCode.BAD_SETTINGS:  # else nothing was started, and there is nothing to show
        _write_pages(night, console)
    if url is not None:
        _notify(url, report, config, console)
    _retrain(report, night, console)
    log_field("night", f"{report.text}: exit code {report.exit_code}", console)
    return ExitCode(report.exit_code)


def _require_unset(config: Config) -> None:
    for key, value in (("run_id", config.run_id), ("output.partition", config.output.partition)):
        if value is not None:
            raise SettingsError(f"{key}={value}: a nightly run sets it by its date. Leave it out, or give --date.")


def _begin(config: Config, day: date, output: str, is_redo: bool, console: Console) -> NightlyRun:
    storage = Storage(config.storage)
    try:
        earlier = run_records.find_attempts(output, storage)
        attempt = choose_attempt(day, earlier) if is_redo else run_records.next_attempt(day, earlier)
        for begun in (one for one in find_unfinished_redos(earlier) if one != attempt):
            with acquire_lease(output, begun.run_id, config.output.lease_s, storage):
                replace_rows(begun, output, storage, console)
    except StorageError as error:
        raise SettingsError(f"output.uri={config.output.uri}: {error}") from error
    log_field("night", f"{day}, {'again, ' if is_redo else ''}attempt {attempt.number}", console)
    quiet = config.nightly.model_copy(update={"webhook_url": None})  # no task needs to know it
    return NightlyRun(config.model_copy(update={"nightly": quiet}), attempt, earlier, output, is_redo)


def _transcribe(night: NightlyRun, console: Console, transcriber: type | None, force: bool) -> ExitCode:
    if night.is_redo:
        redo(night.config, night.attempt, console, transcriber, force=force)
        return ExitCode.DONE
    partition = night.config.output.model_copy(update={"partition": night.attempt.day})
    settings = night.config.model_copy(update={"output": partition, "run_id": night.attempt.run_id})
    return runner.transcribe(settings, console, transcriber, force=force, write_page=False)


def _make_report(night: NightlyRun, code: ExitCode, console: Console) -> Report:
    """The report of a night whose every recording has its row."""
    summary = _read_summary(night)
    figures = run_records.compute_figures(run_records.partition_uri(night.output, night.attempt.day), night.storage)
    figures["rtfx"] = summary["rtfx_model"]
    verdicts = _check_drift(night, figures, console)
    passed = [verdict.figure for verdict in verdicts if verdict.out_of_line]
    if passed and code == ExitCode.DONE:
        code = ExitCode.DRIFT
    recognized = summary["num_recognized"]
    words = f"{recognized:,} recording{'s' * (recognized != 1)}" if recognized else "nothing was new"
    words += f", out of line: {', '.join(passed)}" if passed else ""
    return Report(
        date=night.attempt.day.isoformat(),
        run_id=night.attempt.run_id,
        output=redact(night.output),
        outcome=OUTCOMES[code],
        exit_code=code,
        text=f"{night.attempt.run_id} {OUTCOMES[code]}, {words}",
        num_recognized=recognized,
        figures=figures,
        drift=verdicts,
        finished_at=_now(),
    )


def _read_summary(night: NightlyRun) -> dict[str, Any]:
    uri = join(night.output, RUNS_FOLDER, night.attempt.run_id, "summary.json")
    return dict(json.loads(night.storage.read(uri)))


def _check_drift(night: NightlyRun, figures: Figures, console: Console) -> list[Verdict]:
    """Verdicts on the night, a line each; none where the night is too small or has too few before it."""
    settings, recordings = night.config.nightly, figures["num_recordings"]
    if recordings < settings.min_recordings:
        few = f"{recordings:,} recordings, fewer than nightly.min_recordings={settings.min_recordings}"
        log_field("drift", f"not judged: {few}" if recordings else "nothing was new, so nothing is judged", console)
        return []
    history = run_records.read_history(night.attempt.day, night.earlier, settings, night.output, night.storage)
    if len(history) < settings.min_nights:
        few = f"{len(history)} nights to compare with, nightly.min_nights={settings.min_nights}"
        log_field("drift", f"nothing is judged yet: {few}", console)
        return []
    verdicts = check_drift(figures, history, settings)
    for verdict in verdicts:
        log_field("drift", format_verdict(verdict), console)
    if words := run_records.describe_normalizer_change(figures, history):
        log_field("note", words, console)
    return verdicts


def _failure_report(day: date, night: NightlyRun | None, output: str, error: Exception) -> Report:
    code = error.exit_code if isinstance(error, DistilRayError) else ExitCode.FAILED
    run_id = night.attempt.run_id if night else None
    words = redact(" ".join(str(error).split())) or type(error).__name__
    text = f"{run_id or day} {OUTCOMES[code]}: {words}"
    return Report(day.isoformat(), run_id, redact(output), OUTCOMES[code], code, text, finished_at=_now())


def _write_report(report: Report, night: NightlyRun | None, console: Console) -> None:
    """night.json, and the folders of old nights; only a night that was started has a folder of its own."""
    if night is None or report.exit_code == ExitCode.BAD_SETTINGS:
        return
    body = json.dumps(asdict(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        night.storage.put(run_records.report_uri(night.attempt, night.output), body.encode())
    except StorageError as error:
        log_field("note", str(error), console)
    try:
        _remove_old(night, console)
    except (StorageError, SettingsError) as error:  # another run may hold the lease by now
        log_field("note", f"old run folders were not looked at: {error}", console)


def _retrain(report: Report, night: NightlyRun | None, console: Console) -> None:
    """An assistant, where the night asks for one; what came of it is added to night.json."""
    if night is None or night.is_redo or not report.figures.get("num_recordings"):
        return
    partition = run_records.partition_uri(night.output, night.attempt.day)
    if (entry := retrain_assistant(night.config, partition, report.figures, console)) is not None:
        _write_report(replace(report, assistant=entry), night, console)


def _write_pages(night: NightlyRun | None, console: Console) -> None:
    """The page of the night, now that it is judged, and that of all nights. A night never fails over them."""
    if night is None or not night.config.report.write:
        return
    run_id, output = night.attempt.run_id, night.output

    def of_the_night() -> str:
        return write_run_page(output, run_id, night.config, load_drift(run_id, output, night.storage))

    for what, make in (("report.html", of_the_night), ("history.html", lambda: write_history(output, night.storage))):
        try:
            log_field("report", make(), console)
        except Exception as error:
            words = redact(" ".join(str(error).split())) or type(error).__name__
            logger.log(logging.DEBUG if isinstance(error, DistilRayError) else logging.ERROR, what, exc_info=True)
            log_field("note", f"{what} could not be made: {words}", console)


def _remove_old(night: NightlyRun, console: Console) -> None:
    keep = night.config.nightly.keep_nights
    if keep is None:
        return
    attempts = {**night.earlier, night.attempt: set[str]()}
    old = [one for one in run_records.old_attempts(attempts, keep) if one != night.attempt]
    if not old:
        return
    with acquire_lease(night.output, night.attempt.run_id, night.config.output.lease_s, night.storage):
        for attempt in old:
            night.storage.delete(join(night.output, RUNS_FOLDER, attempt.run_id))
    log_field("removed", f"{len(old)} run folders, {old[0].run_id} to {old[-1].run_id}; transcripts stay", console)


def _notify(url: str, report: Report, config: Config, console: Console) -> None:
    problem = webhook.post(url, asdict(report), config.nightly.webhook_timeout_s, config.nightly.webhook_attempts)
    if problem is not None:
        log_field("note", problem, console)


def _today() -> date:
    return datetime.now(UTC).date()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
