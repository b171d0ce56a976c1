"""report.html: the page of one run, made from the run folder and the rows of the output.

    run folder ──> scope ──> figures ─────┐
                        └──> statistics ──┴──> details ──> clips ──> page
    settings,      rows to   counts and        rows that   their     one HTML
    events, plan   include   distributions     are shown   audio     file

The page can be written again at any time. It then describes the current state of the output: rows that a later run has
replaced are not included.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from distil_ray.chunking.base import load_chunker
from distil_ray.config import Config
from distil_ray.errors import SettingsError
from distil_ray.evaluation.statistics import SPEAKER, read_statistics
from distil_ray.evaluation.summary import compute_figures, sort_by_wer
from distil_ray.recognition.quality_flags import MAX_UNTRANSCRIBED_S, UNRELIABLE_TEXT_FLAGS
from distil_ray.report.audio_clips import NOTHING_RECOGNIZED, Clip, ClipRequest, make_clips, make_empty_clips
from distil_ray.report.charts import Plot, plot_histogram
from distil_ray.report.chunk_boundaries import BoundaryProblem, chunk_times
from distil_ray.report.details import Piece, build_alignment_pieces, find_lost_words, format_text, read_details
from distil_ray.report.page import percent, render
from distil_ray.report.run_folder import Figures, RunFolder, load_scope, read_run_folder
from distil_ray.report.statistics import (
    NUM_ALIGNED,
    NUM_BOUNDARIES,
    Row,
    RowReference,
    RunStatistics,
    compute_run_statistics,
    is_untranscribed,
)
from distil_ray.report.throughput import compute_cost, compute_throughput
from distil_ray.report.verdict import BOUNDARY_PROBLEM_LABELS, Drift, decide_verdict, find_problems
from distil_ray.schema import parse_metadata, parse_recording
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import EDITS, SAMPLE_RATE

PAGE = "report.html"

GROUPS_SHOWN = 60  # values of a column; groups.csv has all of them
CONFIDENT_LOGPROB = -0.3  # per token; recordings without a reference get no audio clip above this
BOUNDARY_CONTEXT_S = 4.0  # seconds of audio before and after a chunk boundary


@dataclass(frozen=True, slots=True)
class WorstRecording:
    """A recording shown in full: its word alignment, or its text if it has no reference.

    `num_more` is the number of pieces of the alignment that are left out.
    """

    row: Row
    speaker: str
    edits: int
    pieces: Sequence[Piece]
    num_more: int
    text: str
    clip: Clip


@dataclass(frozen=True, slots=True)
class FlaggedChunk:
    """A chunk with a quality flag that says its text may be wrong."""

    recording_id: str
    start_s: float
    end_s: float
    text: str
    quality_flags: Sequence[str]
    avg_logprob: float | None
    clip: Clip


@dataclass(frozen=True, slots=True)
class UntranscribedRecording:
    """A recording with untranscribed speech, and the chunk of it that has the most.

    Attributes:
        recording_id: The recording.
        unheard_s: Seconds of untranscribed speech in the recording.
        num_chunks: Number of chunks with the flag `untranscribed_speech`.
        at_s: Start of the chunk with the most, in seconds.
        most_s: Seconds of untranscribed speech in that chunk.
        text: Text of that chunk.
        clip: Audio of that chunk.
    """

    recording_id: str
    unheard_s: float
    num_chunks: int
    at_s: float
    most_s: float
    text: str
    clip: Clip


@dataclass(frozen=True, slots=True)
class BoundaryExcerpt:
    """A problem at the chunk boundary `at_s` seconds into a recording; `label` is its kind in words."""

    recording_id: str
    at_s: float
    label: str
    problem: BoundaryProblem
    clip: Clip


def write_run_page(output: str, run_id: str, config: Config, drift: Sequence[Drift] = ()) -> str:
    """Writes report.html into the folder of a run and returns its URI.

    Args:
        output: Current URI of the output.
        run_id: The run.
        config: Sections `storage` and `report` are used; all other settings are those that the run has stored.
        drift: Results of the drift check, if it is a nightly run.

    Raises:
        SettingsError: The output has no such run.
        StorageError: A file cannot be read or written.
    """
    storage = Storage(config.storage)
    folder = read_run_folder(output, run_id, storage)
    current = {"storage": config.storage, "report": config.report}
    folder = replace(folder, config=folder.config.model_copy(update=current))
    uri = join(folder.uri, PAGE)
    storage.put(uri, render_run_page(folder, output, storage, drift))
    return uri


def render_run_page(folder: RunFolder, output: str, storage: Storage, drift: Sequence[Drift] = ()) -> bytes:
    """Returns the page as UTF-8."""
    scope = load_scope(folder, output, storage)
    config = folder.config
    figures = compute_figures(
        read_statistics(scope.files, storage, scope.choose, config.scoring.group_by), config.scoring
    )
    overlaps = _has_overlap(folder)
    statistics = compute_run_statistics(scope, storage, overlaps, config.report.num_worst)
    listed = [ref for ref, _ in (*statistics.untranscribed, *statistics.flagged, *statistics.boundary_problems)]
    rows = read_details([*statistics.worst, *listed, *statistics.with_deletions], scope, storage)
    boundaries = _all_boundary_problems(statistics, rows)
    requests = _clip_requests(statistics, rows, boundaries)
    # A run that had nothing to transcribe fetches no audio, and neither does its page.
    clips = (
        make_clips(requests, config)
        if folder.planned.num_recordings
        else make_empty_clips(requests, NOTHING_RECOGNIZED)
    )
    throughput = compute_throughput(folder.events)
    return render(
        "run.html",
        folder=folder,
        summary=folder.summary or {},
        figures=figures,
        clips=[clip for clip in clips.values() if clip.source],
        statistics=statistics,
        verdict=decide_verdict(folder, drift),
        problems=find_problems(folder, figures, statistics, drift),
        drift=drift,
        throughput=throughput,
        cost=compute_cost(folder, throughput),
        groups=_groups(figures),
        num_groups={name: len(values) for name, values in figures["groups"].items()},
        median_logprob=_median(statistics["avg_logprob"]),
        histograms=_histograms(statistics),
        worst=sorted(
            (_worst_recording(rows[ref], clips) for ref in statistics.worst if ref in rows),
            key=lambda one: one.edits,
            reverse=True,
        ),
        untranscribed=[
            _untranscribed(rows[ref], index, clips) for ref, index in statistics.untranscribed if ref in rows
        ],
        max_unheard_s=MAX_UNTRANSCRIBED_S,
        flagged=[_flagged_chunk(rows[ref], index, clips) for ref, index in statistics.flagged if ref in rows],
        boundaries=[_boundary_excerpt(rows[ref], problem, clips) for ref, problem in boundaries],
        num_aligned=NUM_ALIGNED,
        overlaps=overlaps,
        messages=folder.events.messages,
        num_committed=folder.events.num_committed,
        num_from_run=statistics.runs[folder.run_id],
        finished=datetime.fromisoformat(folder.summary["finished_at"]) if folder.summary else None,
    )


def _has_overlap(folder: RunFolder) -> bool:
    """Returns True if neighboring chunks of the run share audio, by its summary or else by its strategy."""
    stored = (folder.summary or {}).get("chunking", {}).get("overlaps")
    if stored is not None:
        return bool(stored)
    try:
        return load_chunker(folder.config.chunking.strategy).overlaps
    except SettingsError:  # a strategy of a package that is not installed here
        return False


def _all_boundary_problems(
    statistics: RunStatistics, rows: dict[RowReference, Row]
) -> list[tuple[RowReference, BoundaryProblem]]:
    """Returns the problems found without a reference, then those at which words of the reference are missing.

    Adds the latter to the counts in `statistics`.
    """
    found = [(ref, problem) for ref, problem in statistics.boundary_problems if ref in rows]
    lost = list(find_lost_words({ref: rows[ref] for ref in statistics.with_deletions if ref in rows}))
    statistics.boundary_problem_kinds.update(problem.kind for _, problem in lost)
    return [*found, *sorted(lost, key=lambda pair: -pair[1].weight)[:NUM_BOUNDARIES]]


def _clip_requests(
    statistics: RunStatistics, rows: dict[RowReference, Row], boundaries: Sequence[tuple[RowReference, BoundaryProblem]]
) -> list[ClipRequest]:
    """Returns the clips to include, in order of priority.

    Chunks with untranscribed speech, flagged chunks and the worst recordings alternate; chunk boundaries follow.
    """
    untranscribed, flagged = (
        [_chunk_clip(rows[ref], index) for ref, index in chunks if ref in rows]
        for chunks in (statistics.untranscribed, statistics.flagged)
    )
    worst = [request for ref in statistics.worst if ref in rows and (request := _worst_clip(rows[ref]))]
    turns = zip_longest(untranscribed, flagged, worst)
    mixed = [request for turn in turns for request in turn if request is not None]
    return [*mixed, *(_boundary_clip(rows[ref], problem) for ref, problem in boundaries)]


def _chunk_clip(row: Row, index: int) -> ClipRequest:
    return ClipRequest(parse_recording(row), *chunk_times(row["chunks"][index]))


def _worst_clip(row: Row) -> ClipRequest | None:
    """Returns a clip of the least probable chunk.

    None if the recording has no chunk, or has no reference and a log-probability above `CONFIDENT_LOGPROB`.
    """
    chunks = row["chunks"] or ()
    is_confident = row["num_ref_words"] is None and (row["avg_logprob"] or 0.0) > CONFIDENT_LOGPROB
    if is_confident or not chunks:
        return None
    index = min(range(len(chunks)), key=lambda number: chunks[number]["avg_logprob"] or 0.0)
    return _chunk_clip(row, index)


def _boundary_clip(row: Row, problem: BoundaryProblem) -> ClipRequest:
    boundary = chunk_times(row["chunks"][problem.index + 1])[0]
    context = round(BOUNDARY_CONTEXT_S * SAMPLE_RATE)
    start = max(0, boundary - context)
    return ClipRequest(parse_recording(row), start, boundary + context - start)


def _worst_recording(row: Row, clips: dict[tuple[str, int, int], Clip]) -> WorstRecording:
    pieces, num_more = build_alignment_pieces(row)
    request = _worst_clip(row)
    clip = clips[request.key] if request else Clip("", None, None, 0.0, 0.0)
    edits = sum(row[name] or 0 for name in EDITS)
    return WorstRecording(row, parse_metadata(row).get(SPEAKER, ""), edits, pieces, num_more, format_text(row), clip)


def _flagged_chunk(row: Row, index: int, clips: dict[tuple[str, int, int], Clip]) -> FlaggedChunk:
    chunk = row["chunks"][index]
    return FlaggedChunk(
        recording_id=row["recording_id"],
        start_s=chunk["start_s"],
        end_s=chunk["end_s"],
        text=format_text(chunk),
        quality_flags=[flag for flag in chunk["quality_flags"] if flag in UNRELIABLE_TEXT_FLAGS],
        avg_logprob=chunk["avg_logprob"],
        clip=clips[_chunk_clip(row, index).key],
    )


def _untranscribed(row: Row, index: int, clips: dict[tuple[str, int, int], Clip]) -> UntranscribedRecording:
    chunk = row["chunks"][index]
    return UntranscribedRecording(
        recording_id=row["recording_id"],
        unheard_s=row["unheard_s"] or 0.0,
        num_chunks=sum(map(is_untranscribed, row["chunks"])),
        at_s=chunk["start_s"],
        most_s=chunk["unheard_s"] or 0.0,
        text=format_text(chunk),
        clip=clips[_chunk_clip(row, index).key],
    )


def _boundary_excerpt(row: Row, problem: BoundaryProblem, clips: dict[tuple[str, int, int], Clip]) -> BoundaryExcerpt:
    at_s = row["chunks"][problem.index + 1]["start_s"]
    clip = clips[_boundary_clip(row, problem).key]
    return BoundaryExcerpt(row["recording_id"], at_s, BOUNDARY_PROBLEM_LABELS[problem.kind], problem, clip)


def _groups(figures: Figures) -> dict[str, Sequence[tuple[str, Figures]]]:
    """Returns the groups by column, the highest WER first. Columns without a WER are left out."""
    ordered = {name: sort_by_wer(values)[:GROUPS_SHOWN] for name, values in figures["groups"].items()}
    return {name: values for name, values in ordered.items() if values and values[0][1]["wer"] is not None}


def _histograms(statistics: RunStatistics) -> list[tuple[str, Plot]]:
    """Returns the distributions over recordings, each with its title."""
    wer = plot_histogram(
        statistics["wer"], 0, 1, lambda v: percent(v, 0), "WER", "percent; the last bar includes values above 100"
    )
    logprob = plot_histogram(
        statistics["avg_logprob"], -1.5, 0, lambda v: f"{v:.1f}".replace("-", "−"), "Mean log-probability", "per token"
    )
    rate = plot_histogram(
        statistics["chars_per_s"], 0, 30, lambda v: f"{v:.0f}", "Speaking rate", "characters per second"
    )
    plots = [("WER", wer), ("Log-probability", logprob), ("Speaking rate", rate)]
    return [(title, plot) for title, plot in plots if plot is not None]


def _median(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else None
