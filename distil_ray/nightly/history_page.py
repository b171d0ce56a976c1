"""The page history.html: all runs of an output, and for nightly runs the drift limits that applied to them.

Figures and limits are those that nightly_run.json recorded at the end of each nightly run; nothing is checked again. An
output without nightly runs shows its other runs, whose figures count every recording that the run listed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from distil_ray.errors import ExitCode, SettingsError
from distil_ray.evaluation.wer import pooled_rate
from distil_ray.nightly.drift import MEASURES, Measure, Verdict, format_verdict
from distil_ray.nightly.run_records import REPORT, parse_run_id
from distil_ray.output.run_context import RUNS_FOLDER, SUCCESS_FILE
from distil_ray.output.run_outcome import OUTCOME_FILE, OUTCOMES
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.report.charts import Plot, plot_series
from distil_ray.report.page import render
from distil_ray.report.run_folder import CONFIG, SUMMARY, no_runs_error
from distil_ray.report.run_page import PAGE
from distil_ray.report.verdict import Drift, RunVerdict, Tone
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import MissingError
from distil_ray.storage.uris import join
from distil_ray.types import Status

HISTORY = "history.html"
MAX_RUNS = 400  # only the latest runs are shown

TONES: dict[int | None, Tone] = {ExitCode.DONE: "good", ExitCode.DRIFT: "warn"}
HEADLINES: dict[Tone, str] = {
    "good": "The last run succeeded",
    "warn": "Drift in the last nightly run",
    "bad": "The last run failed",
}
NOT_ENDED = "not finished"  # killed, stopped, or still running
ENDED: dict[int | None, str] = {code: text for code, text in OUTCOMES.items() if code != ExitCode.RUNNING}

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HistoryRun:
    """A run of the output, nightly or not.

    Attributes:
        run_id: Name of the run.
        has_page: True if the run folder contains report.html.
        exit_code: Exit code that the run stored, `ExitCode.DONE` for one with `_SUCCESS` alone; None if there is none.
        summary: Content of summary.json; None if the file does not exist.
        report: Content of nightly_run.json; None if the file does not exist.
    """

    run_id: str
    has_page: bool
    exit_code: int | None
    summary: Figures | None
    report: Figures | None

    @property
    def label(self) -> str:
        """The date of a nightly run; the name of any other run."""
        return str(self.report["date"]) if self.report else self.run_id

    @property
    def figures(self) -> Figures | None:
        """Figures of the date of a nightly run, or of all recordings that another run listed; None if it has none."""
        if self.report is not None:
            return self.report["figures"] or None
        return _figures(self.summary) if self.summary is not None else None

    @property
    def outcome(self) -> str:
        """Outcome in words, as in nightly_run.json; `NOT_ENDED` for a run that was killed, stopped, or still runs."""
        if self.report is not None:
            return str(self.report["outcome"])
        return ENDED.get(self.exit_code, NOT_ENDED)

    @property
    def tone(self) -> Tone:
        """Color class of the outcome on the page."""
        return TONES.get(self.report["exit_code"] if self.report is not None else self.exit_code, "bad")

    def verdict(self, figure: str) -> Figures:
        """Returns the drift verdict of a figure; one without limits if the figure was not checked."""
        found = (one for one in (self.report or {}).get("drift", ()) if one["figure"] == figure)
        return next(found, {"lower_limit": None, "upper_limit": None, "has_drifted": None})


def write_history(output: str, storage: Storage) -> str:
    """Writes history.html and returns its URI.

    Raises:
        SettingsError: The output has no runs, or a JSON file of a run is damaged.
    """
    uri = join(output, HISTORY)
    storage.put(uri, render_history(output, storage))
    return uri


def render_history(output: str, storage: Storage) -> bytes:
    """Returns the page as UTF-8. Raises the same errors as `write_history`."""
    runs = _read_runs(output, storage)
    if not runs:
        raise no_runs_error(output)
    shown = _latest_attempts(runs)
    return render(
        "history.html",
        output=output,
        runs=list(reversed(runs)),
        verdict=_last_run_verdict(runs[-1]),
        has_nightly_runs=any(run.report for run in runs),
        plots=[pair for pair in _plots(shown) if pair[1] is not None],
    )


def load_drift(run_id: str, output: str, storage: Storage) -> list[Drift]:
    """Returns the drift verdicts of a run; an empty list if it is not a nightly run or was not checked."""
    report = _read_json(join(output, RUNS_FOLDER, run_id, REPORT), storage) if parse_run_id(run_id) else None
    verdicts = [Verdict(**one) for one in (report or {}).get("drift", ())]
    return [Drift(verdict.has_drifted, format_verdict(verdict)) for verdict in verdicts]


def _read_runs(output: str, storage: Storage) -> list[HistoryRun]:
    """Returns the latest `MAX_RUNS` runs in the order of their start.

    The start is the modification time of config.yaml. A nightly run that failed before this file was written has only
    nightly_run.json.
    """
    root = join(output, RUNS_FOLDER)
    names: dict[str, set[str]] = {}
    started: dict[str, float] = {}
    for entry in storage.list_files(root):
        run_id, _, name = entry.uri.removeprefix(f"{root}/").partition("/")
        names.setdefault(run_id, set()).add(name)
        if name == CONFIG or (name == REPORT and run_id not in started):
            started[run_id] = entry.modified or 0.0

    def read(run_id: str) -> HistoryRun:
        summary, report, outcome = (
            _read_json(join(root, run_id, name), storage) if name in names[run_id] else None
            for name in (SUMMARY, REPORT, OUTCOME_FILE)
        )
        succeeded = ExitCode.DONE if SUCCESS_FILE in names[run_id] else None
        exit_code = outcome["exit_code"] if outcome else succeeded
        return HistoryRun(run_id, PAGE in names[run_id], exit_code, summary, report)

    latest = sorted(started, key=lambda run_id: (started[run_id], run_id))[-MAX_RUNS:]
    return list(ordered_parallel_map(read, latest, num_request_threads(root)))


def _read_json(uri: str, storage: Storage) -> dict[str, Any] | None:
    try:
        return dict(json.loads(storage.read(uri)))
    except MissingError:
        return None
    except ValueError as error:
        raise SettingsError(f"{uri}: is not valid JSON ({error}). Restore or delete the file.") from error


def _latest_attempts(runs: Sequence[HistoryRun]) -> list[HistoryRun]:
    """Returns the last attempt with figures of each date, by date; without nightly runs all runs with figures."""
    latest = {run.label: run for run in runs if run.report is not None and run.figures}
    return [latest[day] for day in sorted(latest)] or [run for run in runs if run.figures]


def _figures(summary: Figures) -> Figures:
    """Returns the figures of summary.json under the keys of nightly_run.json."""
    total = summary["num_recordings"]
    return {
        **{name: summary[name] for name in ("num_recordings", "audio_s", "wer", "num_failed", "num_empty")},
        "failed_fraction": pooled_rate(summary[f"num_{Status.FAILED}"], total),
        "empty_fraction": pooled_rate(summary[f"num_{Status.EMPTY}"], total),
        "rtfx": summary["rtfx_model"],
    }


def _last_run_verdict(last: HistoryRun) -> RunVerdict:
    """Returns the headline of the page, from the outcome of the last run."""
    if last.outcome == NOT_ENDED:
        reason = f"{last.run_id} was killed or stopped, or is still running. Re-run the same command to resume."
        return RunVerdict("bad", "The last run has not finished", reason)
    reason = str(last.report["text"]) if last.report else f"{last.run_id}, {last.outcome}"
    return RunVerdict(last.tone, HEADLINES[last.tone], reason)


def _plots(runs: Sequence[HistoryRun]) -> Iterator[tuple[str, Plot | None]]:
    """Yields the title and the plot of each measure; None where there is nothing to plot."""
    for measure in MEASURES:
        label = measure.label[0].upper() + measure.label[1:]
        yield f"{label}, percent" if measure.percent else label, _plot(runs, measure)
        if measure.figure == "wer":
            hours = [run.figures["audio_s"] / 3600 if run.figures else None for run in runs]
            yield (
                "Hours of audio",
                plot_series(_labels(runs), hours, [(None, None)] * len(runs), [False] * len(runs), 1, "Hours"),
            )


def _plot(runs: Sequence[HistoryRun], measure: Measure) -> Plot | None:
    verdicts = [run.verdict(measure.figure) for run in runs]
    return plot_series(
        _labels(runs),
        [(run.figures or {}).get(measure.figure) for run in runs],
        [(verdict["lower_limit"], verdict["upper_limit"]) for verdict in verdicts],
        [bool(verdict["has_drifted"]) for verdict in verdicts],
        100 if measure.percent else 1,
        measure.label,
    )


def _labels(runs: Sequence[HistoryRun]) -> list[str]:
    """Returns the axis labels: the date of a nightly run, the end time of any other run."""
    return [_day(run.report["date"]) if run.report else _moment((run.summary or {})["finished_at"]) for run in runs]


def _day(iso: str) -> str:
    return f"{date.fromisoformat(iso):%-d %b}"


def _moment(iso: str) -> str:
    return f"{datetime.fromisoformat(iso):%-d %b %H:%M}"
