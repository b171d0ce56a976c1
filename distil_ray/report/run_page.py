"""report.html: what a run has come to, made from its folder and the rows of the output.

    folder ──> scope ──> tally ────┐
                    └──> picture ──┴─> details ──> clips ──> page
    what the   which     figures       the worst   their     one
    run left   rows      and plots     in full     sound     file

It can be made again at any time, and is then a page about the output as it stands: rows that a later run has replaced
are gone from it.
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
from distil_ray.report.charts import Plot, histogram
from distil_ray.report.chunk_boundaries import BoundaryProblem, chunk_times
from distil_ray.report.clips import IDLE, Clip, ClipRequest, make_clips, make_empty_clips
from distil_ray.report.details import Piece, build_alignment_pieces, find_lost_words, format_text, read_details
from distil_ray.report.page import per_cent, render
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
from distil_ray.report.verdict import BOUNDARY_PROBLEM_LABELS, Drift, decide_verdict, find_oddities
from distil_ray.schema import parse_metadata, parse_recording
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import EDITS, SAMPLE_RATE

PAGE = "report.html"

GROUPS_SHOWN = 60  # values of a column; groups.csv has them all
SURE_LOGPROB = -0.3  # a token: recordings without a reference that are surer need no ear
JOINT_S = 4.0  # seconds heard before and after a joint


@dataclass(frozen=True, slots=True)
class Shown:
    """A recording on the page: its alignment, or its text where there is no reference."""

    row: Row
    speaker: str
    edits: int
    pieces: Sequence[Piece]
    num_more: int
    text: str
    clip: Clip


@dataclass(frozen=True, slots=True)
class Doubt:
    """A chunk with a sign of doubt."""

    recording_id: str
    start_s: float
    end_s: float
    text: str
    quality_flags: Sequence[str]
    avg_logprob: float | None
    clip: Clip


@dataclass(frozen=True, slots=True)
class Untranscribed:
    """A recording with `unheard_s` seconds of speech that has no text, in `num_chunks` of its chunks, and of these the
    one with the most: where it begins, its seconds of such speech, its text."""

    recording_id: str
    unheard_s: float
    num_chunks: int
    at_s: float
    most_s: float
    text: str
    clip: Clip


@dataclass(frozen=True, slots=True)
class OddJoint:
    """Problem at a chunk boundary, `at_s` seconds into the recording."""

    recording_id: str
    at_s: float
    kind: str
    finding: BoundaryProblem
    clip: Clip


def write_run_page(output: str, run_id: str, config: Config, drift: Sequence[Drift] = ()) -> str:
    """Makes the page of a run and puts it into its folder; gives its URI.

    `output` is where the run's output lies now; of `config` count `storage` and `report`, everything else is the
    run's own. Raises as `read_folder` does.
    """
    storage = Storage(config.storage)
    folder = read_run_folder(output, run_id, storage)
    now = {"storage": config.storage, "report": config.report}
    folder = replace(folder, config=folder.config.model_copy(update=now))
    uri = join(folder.uri, PAGE)
    storage.put(uri, run_page(folder, output, storage, drift))
    return uri


def run_page(folder: RunFolder, output: str, storage: Storage, drift: Sequence[Drift] = ()) -> bytes:
    """The page as UTF-8."""
    scope = load_scope(folder, output, storage)
    config = folder.config
    figures = compute_figures(
        read_statistics(scope.files, storage, scope.choose, config.scoring.group_by), config.scoring
    )
    picture = compute_run_statistics(scope, storage, _has_overlap(folder), config.report.num_worst)
    odd = [spot for spot, _ in (*picture.untranscribed, *picture.flagged, *picture.odd_joints)]
    rows = read_details([*picture.worst, *odd, *picture.with_deletions], scope, storage)
    joints = _all_joints(picture, rows)
    wishes = _wishes(picture, rows, joints)
    # A rerun looks at no recording that is done, nor does its page.
    clips = make_clips(wishes, config) if folder.planned.num_recordings else make_empty_clips(wishes, IDLE)
    course = compute_throughput(folder.events)
    return render(
        "run.html",
        folder=folder,
        summary=folder.summary or {},
        figures=figures,
        sounds=[clip for clip in clips.values() if clip.source],
        picture=picture,
        judgment=decide_verdict(folder, drift),
        oddities=find_oddities(folder, figures, picture, drift),
        drift=drift,
        course=course,
        cost=compute_cost(folder, course),
        groups=_groups(figures),
        num_groups={name: len(values) for name, values in figures["groups"].items()},
        certainty=_median(picture["avg_logprob"]),
        histograms=_histograms(picture),
        shown=sorted(
            (_shown(rows[spot], clips) for spot in picture.worst if spot in rows),
            key=lambda one: one.edits,
            reverse=True,
        ),
        untranscribed=[
            _untranscribed(rows[spot], index, clips) for spot, index in picture.untranscribed if spot in rows
        ],
        max_unheard_s=MAX_UNTRANSCRIBED_S,
        doubts=[_doubt(rows[spot], index, clips) for spot, index in picture.flagged if spot in rows],
        joints=[_joint(rows[spot], finding, clips) for spot, finding in joints],
        num_aligned=NUM_ALIGNED,
        num_committed=sum(bool(event.get("committed")) for event in folder.events),
        num_from_run=picture.runs[folder.run_id],
        started=_moment(folder.summary, "started_at"),
        finished=_moment(folder.summary, "finished_at"),
    )


def _has_overlap(folder: RunFolder) -> bool:
    """Returns True if neighboring chunks of the run share audio: by its summary, else by its strategy."""
    stored = (folder.summary or {}).get("chunking", {}).get("overlaps")
    if stored is not None:
        return bool(stored)
    try:
        return load_chunker(folder.config.chunking.strategy).overlaps
    except SettingsError:  # a strategy of a package that is not installed here
        return False


def _all_joints(picture: RunStatistics, rows: dict[RowReference, Row]) -> list[tuple[RowReference, BoundaryProblem]]:
    """Those told without a reference, and those at which words of the reference are missing."""
    odd = [(spot, finding) for spot, finding in picture.odd_joints if spot in rows]
    lost = list(find_lost_words({spot: rows[spot] for spot in picture.with_deletions if spot in rows}))
    picture.joints.update(finding.kind for _, finding in lost)
    return [*odd, *sorted(lost, key=lambda pair: -pair[1].weight)[:NUM_BOUNDARIES]]


def _wishes(
    picture: RunStatistics, rows: dict[RowReference, Row], joints: Sequence[tuple[RowReference, BoundaryProblem]]
) -> list[ClipRequest]:
    """Returns the clips to include, the least reliable first.

    Speech without text, flagged chunks and bad recordings alternate; chunk boundaries follow.
    """
    untranscribed, flagged = (
        [_chunk_wish(rows[spot], index) for spot, index in chunks if spot in rows]
        for chunks in (picture.untranscribed, picture.flagged)
    )
    worst = [wish for spot in picture.worst if spot in rows and (wish := _worst_wish(rows[spot]))]
    turns = zip_longest(untranscribed, flagged, worst)
    mixed = [wish for turn in turns for wish in turn if wish is not None]
    return [*mixed, *(_joint_wish(rows[spot], finding) for spot, finding in joints)]


def _chunk_wish(row: Row, index: int) -> ClipRequest:
    return ClipRequest(parse_recording(row), *chunk_times(row["chunks"][index]))


def _worst_wish(row: Row) -> ClipRequest | None:
    """Of a recording its least probable chunk; None where it has none, or where nothing is doubtful about it."""
    chunks = row["chunks"] or ()
    is_sure = row["num_ref_words"] is None and (row["avg_logprob"] or 0.0) > SURE_LOGPROB
    if is_sure or not chunks:
        return None
    index = min(range(len(chunks)), key=lambda place: chunks[place]["avg_logprob"] or 0.0)
    return _chunk_wish(row, index)


def _joint_wish(row: Row, finding: BoundaryProblem) -> ClipRequest:
    middle = chunk_times(row["chunks"][finding.index + 1])[0]
    around = round(JOINT_S * SAMPLE_RATE)
    start = max(0, middle - around)
    return ClipRequest(parse_recording(row), start, middle + around - start)


def _shown(row: Row, clips: dict[tuple[str, int, int], Clip]) -> Shown:
    pieces, num_more = build_alignment_pieces(row)
    wish = _worst_wish(row)
    clip = clips[wish.key] if wish else Clip("", None, None, 0.0, 0.0)
    edits = sum(row[name] or 0 for name in EDITS)
    return Shown(row, parse_metadata(row).get(SPEAKER, ""), edits, pieces, num_more, format_text(row), clip)


def _doubt(row: Row, index: int, clips: dict[tuple[str, int, int], Clip]) -> Doubt:
    chunk = row["chunks"][index]
    return Doubt(
        recording_id=row["recording_id"],
        start_s=chunk["start_s"],
        end_s=chunk["end_s"],
        text=format_text(chunk),
        quality_flags=[flag for flag in chunk["quality_flags"] if flag in UNRELIABLE_TEXT_FLAGS],
        avg_logprob=chunk["avg_logprob"],
        clip=clips[_chunk_wish(row, index).key],
    )


def _untranscribed(row: Row, index: int, clips: dict[tuple[str, int, int], Clip]) -> Untranscribed:
    chunk = row["chunks"][index]
    return Untranscribed(
        recording_id=row["recording_id"],
        unheard_s=row["unheard_s"] or 0.0,
        num_chunks=sum(map(is_untranscribed, row["chunks"])),
        at_s=chunk["start_s"],
        most_s=chunk["unheard_s"] or 0.0,
        text=format_text(chunk),
        clip=clips[_chunk_wish(row, index).key],
    )


def _joint(row: Row, finding: BoundaryProblem, clips: dict[tuple[str, int, int], Clip]) -> OddJoint:
    at_s = row["chunks"][finding.index + 1]["start_s"]
    clip = clips[_joint_wish(row, finding).key]
    return OddJoint(row["recording_id"], at_s, BOUNDARY_PROBLEM_LABELS[finding.kind], finding, clip)


def _groups(figures: Figures) -> dict[str, Sequence[tuple[str, Figures]]]:
    """By column, the values with the highest WER first; nothing where no value has one."""
    ordered = {name: sort_by_wer(values)[:GROUPS_SHOWN] for name, values in figures["groups"].items()}
    return {name: values for name, values in ordered.items() if values and values[0][1]["wer"] is not None}


def _histograms(picture: RunStatistics) -> list[tuple[str, Plot]]:
    """Distributions over recordings, each with its title."""
    plots = [
        ("WER", histogram(picture["wer"], 0, 1, lambda v: per_cent(v, 0), "WER", "per cent, above 100 in the last")),
        ("Log-probability", _of_logprob(picture)),
        ("Speaking rate", _of_rate(picture)),
    ]
    return [(title, plot) for title, plot in plots if plot is not None]


def _of_logprob(picture: RunStatistics) -> Plot | None:
    return histogram(
        picture["avg_logprob"], -1.5, 0, lambda v: f"{v:.1f}".replace("-", "−"), "Mean log-probability", "a token"
    )


def _of_rate(picture: RunStatistics) -> Plot | None:
    return histogram(picture["chars_per_s"], 0, 30, lambda v: f"{v:.0f}", "Characters a second", "characters a second")


def _median(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else None


def _moment(summary: Figures | None, name: str) -> datetime | None:
    return datetime.fromisoformat(summary[name]) if summary else None
