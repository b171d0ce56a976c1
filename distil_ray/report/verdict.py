"""The verdict on a run in one line, and the list of its problems: the beginning of the page.

The verdict follows the same rules as the exit code: the settings `max_failed_fraction` and `max_failed_count`, and the
summary of the run, which counts all listed recordings. These may differ from the rows that the page includes. No other
thresholds are used. A complete run with failures below the limits is a warning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from distil_ray.config import Config
from distil_ray.evaluation.summary_table import deleted_sources_note, doubtful_text_warning, mixed_versions_warning
from distil_ray.report.chunk_boundaries import DOUBLED, LOST, UNMATCHED
from distil_ray.report.run_folder import Figures, RunEvents, RunFolder
from distil_ray.report.statistics import RunStatistics

Tone = Literal["good", "warn", "bad"]

BOUNDARY_PROBLEM_LABELS = {
    DOUBLED: "the same words on both sides",
    UNMATCHED: "overlapping chunks without a common token",
    LOST: "words of the reference missing",
}


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """A verdict: `headline`, the `reason` in a sentence, and `tone`, which selects color and symbol."""

    tone: Tone
    headline: str
    reason: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a run.

    Attributes:
        number: Number of occurrences, or ``!``.
        text: Description, without the number.
        section: Section of the page that lists the occurrences; None if there is none.
        is_severe: True for failures, errors and drift.
    """

    number: str
    text: str
    section: str | None
    is_severe: bool = False


@dataclass(frozen=True, slots=True)
class Drift:
    """The result of the drift check of one figure (`nightly/drift.py`), in words.

    `has_drifted` is None if the figure could not be checked.
    """

    has_drifted: bool | None
    text: str


def decide_verdict(folder: RunFolder, drift: Sequence[Drift]) -> RunVerdict:
    """Returns the verdict on a run."""
    summary = folder.summary
    if summary is None:
        reason = "There is no summary.json. Re-run the same command to resume."
        return RunVerdict("bad", "The run did not finish", reason)
    if not folder.succeeded:
        reason = "Some listed recordings have no row, or more than one. Re-run the same command to resume."
        return RunVerdict("bad", "Listing and output do not agree", reason)
    if not summary["num_recordings"]:
        return RunVerdict("warn", "No recordings were listed", "The input is empty.")
    if (failed := _failure_verdict(summary, folder.config)) is not None:
        return failed
    if any(one.has_drifted for one in drift):
        reason = "; ".join(one.text for one in drift if one.has_drifted)
        return RunVerdict("warn", "Drift from earlier nightly runs", reason)
    return _success_verdict(summary)


def _failure_verdict(summary: Figures, config: Config) -> RunVerdict | None:
    failed, total = summary["num_failed"], summary["num_recordings"]
    exceeded = config.too_many_failed(failed, total)
    if failed == total:
        kinds = ", ".join(f"{kind} {num:,}" for kind, num in summary["failures_by_kind"].items())
        return RunVerdict("bad" if exceeded else "warn", "All recordings failed", f"Failures by kind: {kinds}.")
    if exceeded:
        return RunVerdict("bad", "Too many recordings failed", f"{_share(failed, total)}, {exceeded}.")
    return None


def _success_verdict(summary: Figures) -> RunVerdict:
    failed, total = summary["num_failed"], summary["num_recordings"]
    share = f"{_share(failed, total)}, which max_failed_fraction or max_failed_count allows."
    level: Tone = "warn" if failed else "good"
    if not summary["num_recognized"]:
        reason = "All listed recordings were already done."
        return RunVerdict(level, "Nothing to do", f"{reason} {share}" if failed else reason)
    if failed:
        return RunVerdict(level, f"Complete, {failed:,} recording{_s(failed)} failed", share)
    return RunVerdict(level, "Succeeded", f"All {total:,} listed recordings have a row, and none failed.")


def find_problems(
    folder: RunFolder, figures: Figures, statistics: RunStatistics, drift: Sequence[Drift]
) -> list[Problem]:
    """Returns the problems of a run, the worst first."""
    found = [Problem("!", one.text, None, is_severe=True) for one in drift if one.has_drifted]
    kinds = [_of_kind(status, kind, num) for (status, kind), num in statistics.error_kinds.most_common()]
    found += sorted(kinds, key=lambda problem: not problem.is_severe)
    if errors := folder.events.errors:
        words = f"task{_s(len(errors))} with errors: {next(iter(errors.values()))}"
        found.append(Problem(f"{len(errors):,}", words, None, is_severe=True))
    if note := mixed_versions_warning(figures["normalizer"]):
        found.append(Problem("!", note, None))
    if doubtful := figures["num_doubtful"]:
        is_english_only = bool(folder.summary and folder.summary.get("english_only"))
        warning = doubtful_text_warning(figures, english_only=is_english_only)
        found.append(Problem(f"{doubtful:,}", warning, "flagged"))
    if figures["num_empty"]:
        words = f"recording{_s(figures['num_empty'])} without words (empty)"
        found.append(Problem(f"{figures['num_empty']:,}", words, None))
    if flagged := figures["num_untranscribed_speech"]:
        words = f"recording{_s(flagged)} with untranscribed speech, {figures['unheard_s'] or 0.0:,.1f} s in total"
        found.append(Problem(f"{flagged:,}", words, "untranscribed"))
    if mixed := figures["num_mixed_languages"]:
        words = f"recording{_s(mixed)} with more than one language, transcribed in one of them"
        found.append(Problem(f"{mixed:,}", words, None))
    if note := deleted_sources_note(folder.summary or {}):
        found.append(Problem("!", note, None))
    if statistics.num_flagged:
        words = f"of {statistics.num_chunks:,} chunks with unreliable text"
        found.append(Problem(f"{statistics.num_flagged:,}", words, "flagged"))
    for kind, num in statistics.boundary_problem_kinds.most_common():
        words = f"chunk {'boundary' if num == 1 else 'boundaries'}: {BOUNDARY_PROBLEM_LABELS[kind]}"
        found.append(Problem(f"{num:,}", words, "boundaries"))
    found += _lost_recognizers(folder.events)
    return found


def _of_kind(status: str, kind: str, num: int) -> Problem:
    return Problem(f"{num:,}", f"{status}: {kind}", "failures", is_severe=status == "failed")


def _lost_recognizers(events: RunEvents) -> list[Problem]:
    """Returns the loss of recognizers, if there was one.

    Ray stops idle recognizers at the end of a run, so a loss counts only if their number rose again.
    """
    alive = events.actors_alive[events.actors_alive > 0]
    now, after, highest = alive[:-1], alive[1:], np.maximum.accumulate(alive)[:-1]
    dips = now[(after > now) & (now < highest)]
    if not len(dips):
        return []
    words = f"of {alive.max():,.0f} recognizers were alive for some time"
    return [Problem(f"{dips.min():,.0f}", words, "throughput")]


def _share(failed: int, total: int) -> str:
    return f"{failed:,} of {total:,} listed recordings failed ({100 * failed / total:.1f} %)"


def _s(number: int) -> str:
    return "" if number == 1 else "s"
