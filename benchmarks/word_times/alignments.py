"""Errors of word timestamps on recordings made of utterances whose edges are known.

A recording `NAME.flac` has its utterances in `NAME.segments.jsonl` beside it, one JSON object per line with `start`,
`end` (seconds) and `text`. The words of a transcript are aligned with those of all utterances. If the first word of an
utterance was recognized, its start is compared with the start of the utterance, and likewise the end of the last word.
Utterances of corpora often begin and end with silence: the edges of the speech within each utterance, by Silero's VAD
of the utterance alone, are the second ground truth. This module does not depend on any recognizer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import mean, median

import numpy as np

from benchmarks.clips import decode_audio, list_local_recordings
from distil_ray.audio.pcm import PCM16
from distil_ray.chunking.silero_vad import FRAME, SileroVad
from distil_ray.errors import SettingsError
from distil_ray.evaluation.wer import align
from distil_ray.types import SAMPLE_RATE, Segment

LISTED, SPEECH = "listed", "speech"
TRUTHS = {LISTED: "edges of the utterances as listed", SPEECH: "edges of the speech within, by Silero's VAD"}
UTTERANCES = ".segments.jsonl"  # in place of the extension of a recording
FAR_S = 0.3  # an error beyond it is counted by itself
SILENT_FRAMES = 16  # of digital silence around an utterance: the VAD needs some to start from
LIKELY = 0.5  # probability of speech

Edges = tuple[float, float]  # seconds from the first sample of the recording


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording:

    16 kHz mono samples, the text of each utterance, and its edges by each ground truth (a key of `TRUTHS`).
    """

    name: str
    pcm: PCM16
    texts: tuple[str, ...]
    edges: Mapping[str, Sequence[Edges]]


@dataclass(frozen=True, slots=True)
class Errors:
    """Time minus ground truth in seconds, for every edge whose word was recognized, by ground truth."""

    starts: Mapping[str, Sequence[float]]
    ends: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """Mean and median absolute error, signed mean (seconds), share of errors beyond `FAR_S`, number of edges."""

    mean_s: float
    median_s: float
    bias_s: float
    far: float
    number: int


def load_recordings(source: str, folder: Path, names: Sequence[str]) -> list[Recording]:
    """Returns the recordings of `source` (a folder, a glob or a manifest) that have utterances.

    Args:
        source: Folder, glob or manifest.
        folder: Folder for the demo's samples.
        names: File names without extension to load; empty for all.

    Raises:
        SettingsError: There is none, or utterances cannot be read.
    """
    found = []
    for listed in list_local_recordings(source, folder):
        path = Path(listed.uri)
        utterances = path.with_name(path.stem + UTTERANCES)
        if utterances.exists() and (not names or path.stem in names):
            found.append(_load(path, utterances))
    if not found:
        raise SettingsError(f"recordings={source}: no recording with its utterances in NAME{UTTERANCES} beside it")
    return found


def _load(path: Path, utterances: Path) -> Recording:
    try:
        rows = [json.loads(line) for line in utterances.read_text(encoding="utf-8").splitlines() if line.strip()]
        listed = [(float(row["start"]), float(row["end"])) for row in rows]
        texts = tuple(str(row["text"]) for row in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{utterances}: a line is not a JSON object with start, end and text: {error}") from error
    pcm = decode_audio(str(path))
    return Recording(path.stem, pcm, texts, {LISTED: listed, SPEECH: [speech_edges(pcm, each) for each in listed]})


def speech_edges(pcm: PCM16, listed: Edges) -> Edges:
    """Returns start and end of the speech between two times, to 32 ms; the given times if the VAD finds no speech."""
    first, last = (round(edge_s * SAMPLE_RATE) for edge_s in listed)
    silence = np.zeros(SILENT_FRAMES * FRAME, np.int16)
    probability = SileroVad()
    heard = np.concatenate((silence, pcm[first:last], silence))
    likely = np.flatnonzero(np.concatenate((probability.push(heard), probability.finish())) >= LIKELY)
    if not len(likely):
        return listed
    begin, end = (int(frame - SILENT_FRAMES) * FRAME for frame in (likely[0], likely[-1] + 1))
    return (first + max(0, begin)) / SAMPLE_RATE, (first + min(last - first, end)) / SAMPLE_RATE


def measure_errors(recording: Recording, words: Sequence[Segment]) -> Errors:
    """Returns the errors of the words of a transcript at the edges of all utterances."""
    truth = [(word, number) for number, text in enumerate(recording.texts) for word in _normalize_words(text.split())]
    heard = [(folded, word) for word in words for folded in _normalize_words([word.text])]
    recognized = _match_words([word for word, _ in truth], [word for word, _ in heard])
    counts = [sum(owner == number for _, owner in truth) for number in range(len(recording.texts))]
    lasts = list(accumulate(counts))
    starts: dict[str, list[float]] = {name: [] for name in recording.edges}
    ends: dict[str, list[float]] = {name: [] for name in recording.edges}
    for number, (count, last) in enumerate(zip(counts, lasts, strict=True)):
        for name, edges in recording.edges.items():
            if count and (place := recognized.get(last - count)) is not None:
                starts[name].append(heard[place][1].start_s - edges[number][0])
            if count and (place := recognized.get(last - 1)) is not None:
                ends[name].append(heard[place][1].end_s - edges[number][1])
    return Errors(starts, ends)


def _normalize_words(words: Sequence[str]) -> list[str]:
    """Returns the casefolded letters and digits of each word, without words that have none."""
    letters = ("".join(sign for sign in word.casefold() if sign.isalnum()) for word in words)
    return [word for word in letters if word]


def _match_words(reference: Sequence[str], heard: Sequence[str]) -> dict[int, int]:
    """Returns the indices of the recognized words of `reference`, each with its index in `heard`."""
    found: dict[int, int] = {}
    mine = theirs = 0
    for run in align(" ".join(reference), " ".join(heard), spaceless=False):
        if run.kind == "equal":
            found.update((mine + i, theirs + i) for i in range(len(run.reference)))
        mine += len(run.reference)
        theirs += len(run.hypothesis)
    return found


def pool_errors(each: Sequence[Errors]) -> Errors:
    """Returns the errors of several recordings together."""

    def joined(parts: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
        return {name: [error for part in parts for error in part[name]] for name in parts[0]}

    return Errors(joined([one.starts for one in each]), joined([one.ends for one in each]))


def summarize_errors(seconds: Sequence[float]) -> ErrorSummary | None:
    """Returns the summary; None if there is no error value."""
    if not seconds:
        return None
    sizes = [abs(error) for error in seconds]
    return ErrorSummary(mean(sizes), median(sizes), mean(seconds), mean(size > FAR_S for size in sizes), len(sizes))
