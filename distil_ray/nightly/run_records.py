"""Records of nightly runs in an output: names of run folders, figures of a date, reports of earlier runs.

    OUTPUT/transcripts/date=2026-11-22/     rows of all attempts of the date
    OUTPUT/runs/2026-11-22.1/nightly_run.json     report of the first attempt, with the figures of the date

The figures of a date are those of its whole partition, so that a second attempt that only completed the first is not
reported as a small run. Figures of earlier dates are read from their nightly_run.json and not computed again, because
transcripts move: the new row of a changed recording replaces the one in the partition of the earlier date.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distil_ray.config import NightlyConfig
from distil_ray.errors import RunError
from distil_ray.evaluation.normalizers import SEPARATOR
from distil_ray.evaluation.wer import pooled_rate
from distil_ray.output.ledger import TRANSCRIPTS, list_data_files
from distil_ray.output.reader import open_transcripts
from distil_ray.output.run_context import PARTITION_PREFIX, RUNS_FOLDER
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import EDITS, STATUSES_WITH_TEXT, WORD_COUNTS, Status

REPORT = "nightly_run.json"

_RUN_ID = re.compile(r"(\d{4}-\d{2}-\d{2})\.([1-9]\d{0,5})")
_MEANS = ("chars_per_s", "avg_logprob", "acceptance_rate")

Figures = dict[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, order=True)
class Attempt:
    """One nightly run of a date; `number` counts from 1."""

    day: date
    number: int

    @property
    def run_id(self) -> str:
        """Run ID, such as ``2026-11-22.1``."""
        return f"{self.day.isoformat()}.{self.number}"


Attempts = Mapping[Attempt, set[str]]  # attempts with a run folder, and the names of its files


def parse_run_id(run_id: str) -> Attempt | None:
    """Returns the attempt with this run ID; None if it is not the ID of a nightly run."""
    found = _RUN_ID.fullmatch(run_id)
    try:
        return Attempt(date.fromisoformat(found[1]), int(found[2])) if found else None
    except ValueError:  # not a valid date
        return None


def find_attempts(output: str, storage: Storage) -> dict[Attempt, set[str]]:
    """Returns the attempts that have a run folder, with the names of its files relative to the folder."""
    found: dict[Attempt, set[str]] = defaultdict(set)
    folder = join(output, RUNS_FOLDER)
    for entry in storage.list_files(folder):
        run_id, _, name = entry.uri.removeprefix(f"{folder}/").partition("/")
        if attempt := parse_run_id(run_id):
            found[attempt].add(name)
    return dict(found)


def next_attempt(day: date, attempts: Attempts) -> Attempt:
    """Returns a new attempt of this date."""
    return Attempt(day, max((one.number for one in attempts if one.day == day), default=0) + 1)


def read_history(day: date, attempts: Attempts, config: NightlyConfig, output: str, storage: Storage) -> list[Figures]:
    """Returns the figures of earlier dates for comparison, latest first, at most `nightly.history_runs`.

    Each date is represented by its last attempt with figures. Dates with fewer recordings than
    `nightly.min_recordings` are left out.
    """
    history: list[Figures] = []
    seen: set[date] = set()
    for attempt in sorted((one for one in attempts if one.day < day and REPORT in attempts[one]), reverse=True):
        if attempt.day in seen or len(history) == config.history_runs:
            continue
        report = read_report(attempt, output, storage)
        if report["figures"]:  # empty if the attempt failed
            seen.add(attempt.day)
            if report["figures"]["num_recordings"] >= config.min_recordings:
                history.append(report["figures"])
    return history


def describe_normalizer_change(current: Figures, history: Sequence[Figures]) -> str | None:
    """Returns a sentence if earlier WERs were computed with another normalizer or version; None otherwise."""
    scored = [earlier for earlier in history if earlier["wer"] is not None]
    # Reports without the key count as different.
    others = sum(earlier.get("normalizer") != current["normalizer"] for earlier in scored)
    if current["wer"] is None or not others:
        return None
    return (
        f"{others} of {len(scored)} earlier WERs used another normalizer than {current['normalizer']}, which may"
        " explain a change in WER"
    )


def read_report(attempt: Attempt, output: str, storage: Storage) -> dict[str, Any]:
    """Returns the content of an attempt's nightly_run.json. Raises `RunError` if it is not valid JSON."""
    uri = report_uri(attempt, output)
    try:
        return dict(json.loads(storage.read(uri)))
    except ValueError as error:
        raise RunError(
            f"{uri}: is not the report of a nightly run ({error}). Delete it to leave this run out."
        ) from error


def partition_uri(output: str, day: date) -> str:
    """Returns the folder of the transcripts of a date."""
    return join(output, TRANSCRIPTS, f"{PARTITION_PREFIX}{day.isoformat()}")


def report_uri(attempt: Attempt, output: str) -> str:
    """Returns the URI of an attempt's nightly_run.json."""
    return join(output, RUNS_FOLDER, attempt.run_id, REPORT)


def old_attempts(attempts: Attempts, keep_runs: int) -> list[Attempt]:
    """Returns the attempts of all dates but the latest `keep_runs`, in order."""
    kept = set(sorted({one.day for one in attempts}, reverse=True)[:keep_runs])
    return sorted(one for one in attempts if one.day not in kept)


def compute_figures(folder: str, storage: Storage) -> Figures:
    """Returns the figures of the rows in a partition: counts, fractions, WER, and means.

    Means (characters per second, log-probability, acceptance rate) are weighted by seconds of audio. They are taken
    over recordings with words only, because `empty_fraction` already covers the others. WER is a fraction.
    """
    statuses, sums = Counter[str](), Counter[str]()
    normalizers = set[str]()
    columns: dict[str, list[Floats]] = defaultdict(list)
    for rows in ordered_parallel_map(
        lambda uri: _read(uri, storage), list_data_files(folder, storage), num_request_threads(folder)
    ):
        statuses.update(rows["status"])
        sums.update({name: sum(filter(None, rows[name])) for name in WORD_COUNTS})
        scored = zip(rows["normalizer"], rows["num_ref_words"], strict=True)
        normalizers.update(name for name, words in scored if name and words is not None)
        spoken = np.isin(rows["status"], STATUSES_WITH_TEXT)
        for name in _MEANS:
            values = np.array(rows[name], np.float64)
            columns[name].append(np.where(spoken, values, np.nan))
        columns["duration_s"].append(np.nan_to_num(np.array(rows["duration_s"], np.float64)))
    seconds = np.concatenate([*columns["duration_s"], np.empty(0)])
    total = statuses.total()
    return {
        "num_recordings": total,
        "audio_s": round(float(seconds.sum()), 3),
        **{f"num_{status}": statuses[status] for status in Status},
        "empty_fraction": pooled_rate(statuses[Status.EMPTY], total),
        "failed_fraction": pooled_rate(statuses[Status.FAILED], total),
        "num_ref_words": sums["num_ref_words"],
        "wer": pooled_rate(sum(sums[name] for name in EDITS), sums["num_ref_words"]),
        "normalizer": SEPARATOR.join(sorted(normalizers)) or None,
        **{name: _mean(columns[name], seconds) for name in _MEANS},
    }


def _read(uri: str, storage: Storage) -> dict[str, Sequence[Any]]:
    with open_transcripts(uri, storage) as file:
        return dict(file.read(["status", "duration_s", "normalizer", *_MEANS, *WORD_COUNTS]).to_pydict())


def _mean(parts: Sequence[Floats], seconds: Floats) -> float | None:
    """Returns the mean weighted by seconds, without NaN values; None if nothing is left."""
    values = np.concatenate([*parts, np.empty(0)])
    known = ~np.isnan(values)
    weight = float(seconds[known].sum())
    return float(values[known] @ seconds[known]) / weight if weight else None
