"""The summary of a run: summary.json, groups.csv and failed.csv.

Counts come from the rows of the output (`statistics.py`). Seconds come from this run's stages only, because rows of
earlier runs cost it nothing. `pipeline/finalize.py` checks that every listed recording has exactly one row; this module
does not. The overall WER adds words of languages with spaces and characters of unsegmented languages;
`scoring.group_by: [language]` separates them.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from distil_ray.config import ScoringConfig
from distil_ray.evaluation.normalizers import SEPARATOR
from distil_ray.evaluation.statistics import (
    SPEAKER,
    Example,
    GroupLabels,
    RowStatistics,
    read_statistics,
    select_listed,
)
from distil_ray.evaluation.statistics_index import StatisticsIndex
from distil_ray.evaluation.wer import bootstrap_interval, pooled_rate
from distil_ray.output.ledger import Keys
from distil_ray.recognition.quality_flags import MIXED_LANGUAGES, UNTRANSCRIBED_SPEECH
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import WORD_COUNTS, Status

PACKAGES = ("distil-ray", "ray", "torch", "transformers")  # packages whose versions the summary names
UNKNOWN = "(unknown)"  # group of recordings that have no value for a grouping
GROUP_COLUMNS = (
    *("num_recordings", "audio_s", *WORD_COUNTS),
    *("wer", "wer_ci95", "cer", "normalizer"),
)

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StageTotals:
    """Totals over the results of one run: seconds of audio, and seconds of each stage summed over all workers.

    `drafted_audio_s` is the audio for which an assistant drafted tokens: less than `audio_s` if drafting was switched
    off.
    """

    audio_s: float
    drafted_audio_s: float
    drafts_proposed: int
    drafts_accepted: int
    decode_s: float
    recognize_s: float
    commit_s: float
    device: str | None
    dtype: str | None
    actor_rss_mb: float | None  # maximum over all actors, MiB

    @classmethod
    def of(cls, results: Iterable[Mapping[str, Any]]) -> Self:
        """Returns the sums over results; device and number type name all that occur."""
        seconds = dict.fromkeys(("audio_s", "drafted_audio_s", "decode_s", "recognize_s", "commit_s"), 0.0)
        drafts = dict.fromkeys(("drafts_proposed", "drafts_accepted"), 0)
        devices: set[str] = set()
        dtypes: set[str] = set()
        rss_mb: float | None = None
        for result in results:
            for name in seconds:
                seconds[name] += result[name] or 0.0
            for name in drafts:
                drafts[name] += result[name] or 0
            devices.update(filter(None, [result["device"]]))
            dtypes.update(filter(None, [result["dtype"]]))
            rss_mb = max(filter(None, [rss_mb, result["actor_rss_mb"]]), default=None)
        names = {"device": ", ".join(sorted(devices)) or None, "dtype": ", ".join(sorted(dtypes)) or None}
        return cls(**seconds, **drafts, **names, actor_rss_mb=rss_mb)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Facts about a run that are not in its rows.

    Attributes:
        run_id: Name of the run.
        fingerprint: Fingerprint of its settings.
        model: Identity of the checkpoint.
        chunking: Resolved chunking settings, as written to summary.json.
        listed_keys: Ledger keys of the listed recordings.
        num_done_before: Recordings that the output held when the run began.
        work: Totals of this run.
        started_at: Start time, UTC.
        finished_at: End time, UTC.
        wall_s: Seconds between the two, by a monotonic clock.
        assistant: The checkpoint that drafts; None without one.
        english_only: The model knows no other language.
        keeps_others: Rows of other fingerprints count as this run's; `listed_keys` then include theirs.
        num_deleted_sources: Recordings with rows that the input no longer lists; None if the run cannot tell.
    """

    run_id: str
    fingerprint: str
    model: str
    chunking: Mapping[str, Any]
    listed_keys: Keys
    num_done_before: int
    work: StageTotals
    started_at: datetime
    finished_at: datetime
    wall_s: float
    assistant: str | None = None
    english_only: bool = False
    keeps_others: bool = False
    num_deleted_sources: int | None = None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Contents of summary.json and failed.csv, and a few transcripts with their references."""

    summary: Figures
    failed_recordings: bytes
    examples: Sequence[Example]


def summarize(
    files: Sequence[str],
    storage: Storage,
    run: RunInfo,
    scoring: ScoringConfig,
    index: StatisticsIndex | None = None,
) -> RunSummary:
    """Returns the summary of a run from the rows of its listed recordings.

    Args:
        files: Data files of the output.
        storage: Access to them.
        run: Facts that are not in the rows.
        scoring: Grouping and bootstrap.
        index: Index over the same files; it gets what it lacks.

    Returns:
        The summary. Rates are fractions, and null without references.
    """
    choose = select_listed(run.listed_keys, run.fingerprint, keeps_others=run.keeps_others)
    tally = read_statistics(files, storage, choose, scoring.group_by, index)
    counted = compute_figures(tally, scoring)
    work = run.work
    summary = {
        "run_id": run.run_id,
        "num_done_before": run.num_done_before,
        "num_recognized": counted["num_recordings"] - run.num_done_before,
        **counted,
        "num_deleted_sources": run.num_deleted_sources,
        "rtfx_job": _rate(work.audio_s, run.wall_s),
        "rtfx_model": _rate(work.audio_s, work.recognize_s),
        "audio_recognized_s": round(work.audio_s, 3),
        "wall_s": round(run.wall_s, 3),
        **{name: round(getattr(work, name), 3) for name in ("decode_s", "recognize_s", "commit_s")},
        "actor_rss_mb": work.actor_rss_mb,
        "device": work.device,
        "dtype": work.dtype,
        "assistant": _drafting(run),
        "model": run.model,
        "english_only": run.english_only,
        "fingerprint": run.fingerprint,
        "rows_by_fingerprint": dict(tally.fingerprints),
        "chunking": dict(run.chunking),
        "started_at": run.started_at.isoformat(timespec="seconds"),
        "finished_at": run.finished_at.isoformat(timespec="seconds"),
        "versions": {name: _version(name) for name in PACKAGES},
    }
    return RunSummary(summary, tally.failed_recordings, tally.examples)


def compute_figures(tally: RowStatistics, scoring: ScoringConfig) -> Figures:
    """Returns what the rows contain: recordings by status, error rates, and both by group."""
    everything = np.arange(len(tally.duration_s))
    return {
        "num_recordings": len(everything),
        **{f"num_{status}": tally.statuses[status] for status in Status},
        "failures_by_kind": dict(tally.failures.most_common()),
        "num_scored": int(tally.scored.sum()),
        **{name: value for name, value in _figures(tally, everything, scoring).items() if name != "num_recordings"},
        "unheard_s": _total(tally.unheard_s),
        "num_untranscribed_speech": tally.quality_flags[UNTRANSCRIBED_SPEECH],
        "num_mixed_languages": tally.quality_flags[MIXED_LANGUAGES],
        "groups": {name: _groups(tally, tally.labels[name], scoring) for name in scoring.group_by},
    }


def write_run_files(report: RunSummary, folder_uri: str, storage: Storage) -> None:
    """Writes summary.json, groups.csv and failed.csv to the run's folder."""
    text = json.dumps(report.summary, indent=2, ensure_ascii=False, allow_nan=False)
    storage.put(join(folder_uri, "summary.json"), (text + "\n").encode())
    storage.put(join(folder_uri, "groups.csv"), _groups_csv(report.summary["groups"]))
    storage.put(join(folder_uri, "failed.csv"), report.failed_recordings)


def sort_by_wer(groups: Mapping[str, Figures]) -> list[tuple[str, Figures]]:
    """Returns groups by descending WER, those without a WER last."""
    return sorted(groups.items(), key=lambda item: -1.0 if item[1]["wer"] is None else item[1]["wer"], reverse=True)


def _figures(tally: RowStatistics, chosen: NDArray[np.int64], scoring: ScoringConfig) -> Figures:
    """Returns `GROUP_COLUMNS` of the recordings with the indices `chosen`."""
    sums = {name: int(counts[chosen].sum()) for name, counts in tally.counts.items()}
    edits = sums["substitutions"] + sums["deletions"] + sums["insertions"]
    return {
        "num_recordings": len(chosen),
        "audio_s": round(float(tally.duration_s[chosen].sum()), 3),
        **{name: sums[name] for name in WORD_COUNTS},
        "wer": pooled_rate(edits, sums["num_ref_words"]),
        "wer_ci95": _interval(tally, chosen[tally.scored[chosen]], scoring),
        "cer": pooled_rate(sums["char_edits"], sums["num_ref_chars"]),
        "normalizer": _normalizers(tally.normalizers, chosen),
    }


def _normalizers(labels: GroupLabels, chosen: NDArray[np.int64]) -> str | None:
    """Returns all normalizers of the recordings, by name and version; None if none has a reference."""
    codes = np.unique(labels.codes[chosen])
    return SEPARATOR.join(sorted(labels.names[code] for code in codes if code >= 0)) or None


def _interval(tally: RowStatistics, scored: NDArray[np.int64], scoring: ScoringConfig) -> list[float] | None:
    """Returns the interval by speakers if at least two are known, else by recordings."""
    substitutions, deletions, insertions, words = (
        tally.counts[name][scored] for name in ("substitutions", "deletions", "insertions", "num_ref_words")
    )
    edits = substitutions + deletions + insertions
    for speakers in (tally.labels[SPEAKER].codes[scored].astype(np.int64), None):
        interval = bootstrap_interval(edits, words, speakers, scoring.bootstrap_samples, scoring.seed)
        if interval is not None:
            return list(interval)
    return None


def _groups(tally: RowStatistics, labels: GroupLabels, scoring: ScoringConfig) -> dict[str, Figures]:
    """Returns the figures of each group, sorted by name; empty if no recording has a value."""
    if not labels.names:
        return {}
    order = np.argsort(labels.codes, kind="stable")
    codes, starts = np.unique(labels.codes[order], return_index=True)
    members = np.split(order, starts[1:])
    named = {UNKNOWN if code < 0 else labels.names[code]: part for code, part in zip(codes, members, strict=True)}
    return {name: _figures(tally, np.sort(named[name]), scoring) for name in sorted(named)}


def _groups_csv(groups: Mapping[str, Mapping[str, Figures]]) -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    head = [name for name in GROUP_COLUMNS if name != "wer_ci95"]
    writer.writerow(["group_by", "value", *head, "wer_low", "wer_high"])
    for name, values in groups.items():
        for value, figures in sort_by_wer(values):
            writer.writerow([name, value, *(figures[column] for column in head), *(figures["wer_ci95"] or ("", ""))])
    return sink.getvalue().encode()


def _drafting(run: RunInfo) -> Figures | None:
    """Returns the work of the assistant in this run; None without an assistant."""
    if run.assistant is None:
        return None
    work = run.work
    return {
        "model": run.assistant,
        "drafts_proposed": work.drafts_proposed,
        "drafts_accepted": work.drafts_accepted,
        "acceptance_rate": pooled_rate(work.drafts_accepted, work.drafts_proposed),
        "audio_s": round(work.drafted_audio_s, 3),
    }


def _rate(audio_s: float, seconds: float) -> float | None:
    return round(audio_s / seconds, 3) if audio_s and seconds else None


def _total(seconds: NDArray[np.float64]) -> float | None:
    """Returns the sum of the known values; None if none is known."""
    known = seconds[~np.isnan(seconds)]
    return round(float(known.sum()), 3) if len(known) else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
