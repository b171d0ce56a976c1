"""The page history.html: all runs of an output, and for nightly runs the drift limits that applied to them.

Figures and limits are those that night.json recorded at the end of each nightly run; nothing is checked again. An
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
from distil_ray.output.run_context import RUNS_FOLDER
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.report.charts import Plot, track
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

TONES: dict[ExitCode, Tone] = {ExitCode.DONE: "good", ExitCode.DRIFT: "warn"}
HEADLINES: dict[Tone, str] = {
    "good": "The last run went well",
    "warn": "The last nightly run is out of line",
    "bad": "The last run failed",
}
NOT_ENDED = "not ended"  # killed, or still running

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HistoryRun:
    """A run of the output, nightly or not.

    Attributes:
        run_id: Name of the run.
        has_page: True if the run folder contains report.html.
        summary: Content of summary.json; None if the file does not exist.
        night: Content of night.json; None if the file does not exist.
    """

    run_id: str
    has_page: bool
    summary: Figures | None
    night: Figures | None

    @property
    def label(self) -> str:
        """The date of a nightly run; the name of any other run."""
        return str(self.night["date"]) if self.night else self.run_id

    @property
    def figures(self) -> Figures | None:
        """Figures of the date of a nightly run, or of all recordings that another run listed; None if it has none."""
        if self.night is not None:
            return self.night["figures"] or None
        return _figures(self.summary) if self.summary is not None else None

    @property
    def outcome(self) -> str:
        """Outcome in words, as in night.json; `NOT_ENDED` without night.json and summary.json."""
        if self.night is not None:
            return str(self.night["outcome"])
        return "done" if self.summary is not None else NOT_ENDED

    @property
    def tone(self) -> Tone:
        """Color class of the outcome on the page."""
        if self.night is not None:
            return TONES.get(ExitCode(self.night["exit_code"]), "bad")
        return "good" if self.summary is not None else "bad"

    def verdict(self, figure: str) -> Figures:
        """Returns the drift verdict of a figure; one without limits if the figure was not checked."""
        found = (one for one in (self.night or {}).get("drift", ()) if one["figure"] == figure)
        return next(found, {"lowest": None, "highest": None, "out_of_line": None})


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
        judgment=_judgment(runs[-1]),
        has_nights=any(run.night for run in runs),
        plots=[pair for pair in _plots(shown) if pair[1] is not None],
    )


def load_drift(run_id: str, output: str, storage: Storage) -> list[Drift]:
    """Returns the drift verdicts of a run; an empty list if it is not a nightly run or was not checked."""
    night = _read_json(join(output, RUNS_FOLDER, run_id, REPORT), storage) if parse_run_id(run_id) else None
    verdicts = [Verdict(**one) for one in (night or {}).get("drift", ())]
    return [Drift(verdict.out_of_line, format_verdict(verdict)) for verdict in verdicts]


def _read_runs(output: str, storage: Storage) -> list[HistoryRun]:
    """Returns the latest `MAX_RUNS` runs in the order of their start.

    The start is the modification time of config.yaml. A nightly run that failed before this file was written has only
    night.json.
    """
    root = join(output, RUNS_FOLDER)
    names: dict[str, set[str]] = {}
    begun: dict[str, float] = {}
    for entry in storage.list_files(root):
        run_id, _, name = entry.uri.removeprefix(f"{root}/").partition("/")
        names.setdefault(run_id, set()).add(name)
        if name == CONFIG or (name == REPORT and run_id not in begun):
            begun[run_id] = entry.modified or 0.0

    def read(run_id: str) -> HistoryRun:
        summary, night = (
            _read_json(join(root, run_id, name), storage) if name in names[run_id] else None
            for name in (SUMMARY, REPORT)
        )
        return HistoryRun(run_id, PAGE in names[run_id], summary, night)

    latest = sorted(begun, key=lambda run_id: (begun[run_id], run_id))[-MAX_RUNS:]
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
    nights = {run.label: run for run in runs if run.night is not None and run.figures}
    return [nights[day] for day in sorted(nights)] or [run for run in runs if run.figures]


def _figures(summary: Figures) -> Figures:
    """Returns the figures of summary.json under the keys of night.json."""
    total = summary["num_recordings"]
    return {
        **{name: summary[name] for name in ("num_recordings", "audio_s", "wer", "num_failed", "num_empty")},
        "failed_fraction": pooled_rate(summary[f"num_{Status.FAILED}"], total),
        "empty_fraction": pooled_rate(summary[f"num_{Status.EMPTY}"], total),
        "rtfx": summary["rtfx_model"],
    }


def _judgment(last: HistoryRun) -> RunVerdict:
    """Returns the headline of the page, from the outcome of the last run."""
    if last.outcome == NOT_ENDED:
        words = f"{last.run_id} was killed, or is still running. Re-run the same command to resume."
        return RunVerdict("bad", "The last run has not ended", words)
    words = str(last.night["text"]) if last.night else f"{last.run_id}, {last.outcome}"
    return RunVerdict(last.tone, HEADLINES[last.tone], words)


def _plots(runs: Sequence[HistoryRun]) -> Iterator[tuple[str, Plot | None]]:
    """Yields the title and the plot of each measure; None where there is nothing to plot."""
    for measure in MEASURES:
        label = measure.label[0].upper() + measure.label[1:]
        yield f"{label}, per cent" if measure.per_cent else label, _plot(runs, measure)
        if measure.figure == "wer":
            hours = [run.figures["audio_s"] / 3600 if run.figures else None for run in runs]
            yield (
                "Hours of audio",
                track(_labels(runs), hours, [(None, None)] * len(runs), [False] * len(runs), 1, "Hours"),
            )


def _plot(runs: Sequence[HistoryRun], measure: Measure) -> Plot | None:
    verdicts = [run.verdict(measure.figure) for run in runs]
    return track(
        _labels(runs),
        [(run.figures or {}).get(measure.figure) for run in runs],
        [(verdict["lowest"], verdict["highest"]) for verdict in verdicts],
        [bool(verdict["out_of_line"]) for verdict in verdicts],
        100 if measure.per_cent else 1,
        measure.label,
    )


def _labels(runs: Sequence[HistoryRun]) -> list[str]:
    """Returns the axis labels: the date of a nightly run, the end time of any other run."""
    return [_day(run.night["date"]) if run.night else _moment((run.summary or {})["finished_at"]) for run in runs]


def _day(iso: str) -> str:
    return f"{date.fromisoformat(iso):%-d %b}"


def _moment(iso: str) -> str:
    return f"{datetime.fromisoformat(iso):%-d %b %H:%M}"
