"""history.html: all runs of an output on one page, the nights among them with the limits that they were held to.

Figures and limits are those that were written when a night ended (night.json); nothing is judged again. An output
without nights shows its other runs, whose figures count everything that they listed.
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
MAX_RUNS = 400  # the latest

TONES: dict[ExitCode, Tone] = {ExitCode.DONE: "good", ExitCode.DRIFT: "warn"}
HEADLINES: dict[Tone, str] = {
    "good": "The last run went well",
    "warn": "The last night is out of line",
    "bad": "The last run failed",
}
NOT_ENDED = "not ended"  # killed, or still under way

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HistoryRun:
    """A run of the output: `night` is its night.json, `summary` its summary.json, each None where there is none."""

    run_id: str
    has_page: bool
    summary: Figures | None
    night: Figures | None

    @property
    def label(self) -> str:
        return str(self.night["date"]) if self.night else self.run_id

    @property
    def figures(self) -> Figures | None:
        """A night's own; of any other run those of everything that it listed; None if it did not come so far."""
        if self.night is not None:
            return self.night["figures"] or None
        return _figures(self.summary) if self.summary is not None else None

    @property
    def outcome(self) -> str:
        if self.night is not None:
            return str(self.night["outcome"])
        return "done" if self.summary is not None else NOT_ENDED

    @property
    def tone(self) -> Tone:
        if self.night is not None:
            return TONES.get(ExitCode(self.night["exit_code"]), "bad")
        return "good" if self.summary is not None else "bad"

    def verdict(self, figure: str) -> Figures:
        found = (one for one in (self.night or {}).get("drift", ()) if one["figure"] == figure)
        return next(found, {"lowest": None, "highest": None, "out_of_line": None})


def write_history(output: str, storage: Storage) -> str:
    """Makes the page; gives its URI. Raises `SettingsError` for an output without runs."""
    uri = join(output, HISTORY)
    storage.put(uri, render_history(output, storage))
    return uri


def render_history(output: str, storage: Storage) -> bytes:
    """The page as UTF-8. Raises as `write_history` does."""
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
    """What the night of this run was found to be beside those before it; nothing where the run is no night's."""
    night = _read_json(join(output, RUNS_FOLDER, run_id, REPORT), storage) if parse_run_id(run_id) else None
    verdicts = [Verdict(**one) for one in (night or {}).get("drift", ())]
    return [Drift(verdict.out_of_line, format_verdict(verdict)) for verdict in verdicts]


def _read_runs(output: str, storage: Storage) -> list[HistoryRun]:
    """By the time they began. A night that failed before it had settings to keep is told by its report alone."""
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
        raise SettingsError(f"{uri}: is no JSON ({error}). Restore it, or delete it to leave it out.") from error


def _latest_attempts(runs: Sequence[HistoryRun]) -> list[HistoryRun]:
    """Of each night its last attempt with figures, by date; without nights the other runs as they came."""
    nights = {run.label: run for run in runs if run.night is not None and run.figures}
    return [nights[day] for day in sorted(nights)] or [run for run in runs if run.figures]


def _figures(summary: Figures) -> Figures:
    """A summary's figures by the names that a night's have."""
    total = summary["num_recordings"]
    return {
        **{name: summary[name] for name in ("num_recordings", "audio_s", "wer", "num_failed", "num_empty")},
        "failed_fraction": pooled_rate(summary[f"num_{Status.FAILED}"], total),
        "empty_fraction": pooled_rate(summary[f"num_{Status.EMPTY}"], total),
        "rtfx": summary["rtfx_model"],
    }


def _judgment(last: HistoryRun) -> RunVerdict:
    """By how it ended, whether it has figures or none."""
    if last.outcome == NOT_ENDED:
        words = f"{last.run_id} was killed, or is still under way. The same command goes on from what is committed."
        return RunVerdict("bad", "The last run has not come to its end", words)
    words = str(last.night["text"]) if last.night else f"{last.run_id}, {last.outcome}"
    return RunVerdict(last.tone, HEADLINES[last.tone], words)


def _plots(runs: Sequence[HistoryRun]) -> Iterator[tuple[str, Plot | None]]:
    """Each with its title."""
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
    """Nights by their day, other runs by when they ended."""
    return [_day(run.night["date"]) if run.night else _moment((run.summary or {})["finished_at"]) for run in runs]


def _day(iso: str) -> str:
    return f"{date.fromisoformat(iso):%-d %b}"


def _moment(iso: str) -> str:
    return f"{datetime.fromisoformat(iso):%-d %b %H:%M}"
