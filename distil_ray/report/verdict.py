"""The verdict on a run in one line, and the list of its problems: the first screen of the page.

The verdict follows the same rules as the exit code: the setting `max_failed_fraction` and the summary of the run, which
counts all listed recordings. These may differ from the rows that the page covers. No other thresholds are used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from distil_ray.evaluation.summary import exceeds_failed_fraction
from distil_ray.evaluation.summary_table import mixed_versions_warning
from distil_ray.report.chunk_boundaries import DOUBLED, LOST, UNMATCHED
from distil_ray.report.run_folder import Figures, RunFolder
from distil_ray.report.statistics import RunStatistics

Tone = Literal["good", "warn", "bad"]

BOUNDARY_PROBLEM_LABELS = {
    DOUBLED: "the same words on both sides",
    UNMATCHED: "overlapping chunks that agree on nothing",
    LOST: "words of the reference missing",
}


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """`headline` says how the run went, `because` why, in a sentence; `tone` is never told by color alone."""

    tone: Tone
    headline: str
    because: str


@dataclass(frozen=True, slots=True)
class Oddity:
    """Something to look at: a number, what of, and the section of the page that shows it (None: nothing more to see).

    `is_bad`: it costs recordings or an alarm; else it is worth a look.
    """

    number: str
    words: str
    section: str | None
    is_bad: bool = False


@dataclass(frozen=True, slots=True)
class Drift:
    """A figure of a night beside the nights before, as drift.py says it."""

    out_of_line: bool | None
    words: str


def decide_verdict(folder: RunFolder, drift: Sequence[Drift]) -> RunVerdict:
    """Returns the verdict on a run."""
    summary = folder.summary
    if summary is None:
        words = "There is no summary. The same command goes on from what is committed."
        return RunVerdict("bad", "Did not come to its end", words)
    if not folder.succeeded:
        return RunVerdict("bad", "Listing and output do not agree", "The same command does what is missing.")
    if not summary["num_recordings"]:
        return RunVerdict("warn", "Nothing was listed", "The input held no recording.")
    if (failed := _judge_failures(summary, folder.config.max_failed_fraction)) is not None:
        return failed
    if any(one.out_of_line for one in drift):
        words = "; ".join(one.words for one in drift if one.out_of_line)
        return RunVerdict("warn", "Out of line with the nights before", words)
    return _well(summary)


def _judge_failures(summary: Figures, allowed: float) -> RunVerdict | None:
    failed, total = summary["num_failed"], summary["num_recordings"]
    too_many = exceeds_failed_fraction(summary, allowed)
    if failed == total:
        kinds = ", ".join(f"{kind} {num:,}" for kind, num in summary["failures_by_kind"].items())
        words = f"No transcript came of it: {kinds}."
        return RunVerdict("bad" if too_many else "warn", "Every recording failed", words)
    if too_many:
        words = f"{_share(failed, total)}; max_failed_fraction={allowed:g} allows fewer."
        return RunVerdict("bad", "Too many recordings failed", words)
    return None


def _well(summary: Figures) -> RunVerdict:
    failed, total = summary["num_failed"], summary["num_recordings"]
    share = f"{_share(failed, total)}, no more than allowed."
    if not summary["num_recognized"]:
        words = "Every listed recording was done already."
        return RunVerdict("good", "Nothing was left to do", f"{words} {share}" if failed else words)
    if failed:
        return RunVerdict("good", f"Went well, but for {failed:,} recording{_s(failed)}", share)
    return RunVerdict("good", "Went well", f"Each of the {total:,} listed recordings has its row, and none failed.")


def find_oddities(folder: RunFolder, figures: Figures, picture: RunStatistics, drift: Sequence[Drift]) -> list[Oddity]:
    """Returns the problems of a run, the worst first."""
    found = [Oddity("!", one.words, None, is_bad=True) for one in drift if one.out_of_line]
    kinds = [_of_kind(status, kind, num) for (status, kind), num in picture.kinds.most_common()]
    found += sorted(kinds, key=lambda oddity: not oddity.is_bad)
    errors = {event["task_id"]: str(event["error"]) for event in folder.events if event.get("error")}
    if errors:
        words = f"task{_s(len(errors))} with errors: {next(iter(errors.values()))}"
        found.append(Oddity(f"{len(errors):,}", words, None, is_bad=True))
    if note := mixed_versions_warning(figures["normalizer"]):
        found.append(Oddity("!", note, None))
    if figures["num_empty"]:
        words = f"recording{_s(figures['num_empty'])} without words (empty)"
        found.append(Oddity(f"{figures['num_empty']:,}", words, None))
    if flagged := figures["num_untranscribed_speech"]:
        words = f"recording{_s(flagged)} with speech that has no text, {figures['unheard_s'] or 0.0:,.1f} s in all"
        found.append(Oddity(f"{flagged:,}", words, "untranscribed"))
    if mixed := figures["num_mixed_languages"]:
        words = f"recording{_s(mixed)} with more than one language, transcribed in one of them"
        found.append(Oddity(f"{mixed:,}", words, "quality_flags"))
    if picture.num_flagged:
        words = f"chunk{_s(picture.num_flagged)} that may not say what was said, of {picture.num_chunks:,}"
        found.append(Oddity(f"{picture.num_flagged:,}", words, "quality_flags"))
    for kind, num in picture.joints.most_common():
        found.append(Oddity(f"{num:,}", f"joint{_s(num)} of chunks: {BOUNDARY_PROBLEM_LABELS[kind]}", "joints"))
    found += _lost_recognizers(folder.events)
    return found


def _of_kind(status: str, kind: str, num: int) -> Oddity:
    return Oddity(f"{num:,}", f"{status}: {kind}", "failures", is_bad=status == "failed")


def _lost_recognizers(events: Sequence[Figures]) -> list[Oddity]:
    """Returns the loss of recognizers. Ray stops idle ones toward the end, so only a number that rose again counts."""
    alive = [event["actors_alive"] for event in events if event.get("actors_alive")]
    highest = accumulate(alive, max)
    dips = [now for now, after, most in zip(alive, alive[1:], highest, strict=False) if after > now and now < most]
    if not dips:
        return []
    return [Oddity(f"{min(dips):,}", f"of {max(alive):,} recognizers were left for a while", "course")]


def _share(failed: int, total: int) -> str:
    return f"{failed:,} of {total:,} listed recordings failed ({100 * failed / total:.1f} %)"


def _s(number: int) -> str:
    return "" if number == 1 else "s"
