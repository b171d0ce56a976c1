"""Scores of the transcripts: word error rates with intervals by set, and paired differences between modes.

Every recording is scored with the normalizer of its language, the same for all programs. Intervals and pairs are those
of `distil-ray compare` (report/paired_rows.py): the bootstrap draws speakers where at least two are known, else
recordings.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from benchmarks.accuracy.modes import Mode
from benchmarks.accuracy.transcripts import Transcript
from benchmarks.clips import Clip, ClipSets
from distil_ray.config import ScoringConfig
from distil_ray.evaluation.statistics import SPEAKER
from distil_ray.evaluation.wer import Score, Scorer, bootstrap_interval, pooled_rate
from distil_ray.output.ledger import id_keys
from distil_ray.report.paired_rows import Difference, Side, pair
from distil_ray.report.run_folder import Scope
from distil_ray.types import EDITS

SCORING = ScoringConfig()
ALL = "all"  # the sets together


@dataclass(frozen=True, slots=True)
class Rates:
    """One mode on one set, or on all.

    Attributes:
        num_recordings: Recordings; those that failed count as empty transcripts.
        num_failed: How many failed.
        audio_s: Seconds of audio.
        cpu_s: CPU seconds.
        num_ref_words: Words of the references (characters in unsegmented languages).
        substitutions: Substituted words.
        deletions: Missing words.
        insertions: Words too many.
        interval: 95 % interval of the WER, as fractions; None for fewer than two recordings.
    """

    num_recordings: int
    num_failed: int
    audio_s: float
    cpu_s: float
    num_ref_words: int
    substitutions: int
    deletions: int
    insertions: int
    interval: tuple[float, float] | None

    @property
    def wer(self) -> float | None:
        return pooled_rate(self.substitutions + self.deletions + self.insertions, self.num_ref_words)


@dataclass(frozen=True, slots=True)
class ScoredRecording:
    """A recording with the transcript of one mode and its score."""

    set: str
    clip: Clip
    transcript: Transcript
    score: Score

    @property
    def edits(self) -> tuple[int, int, int]:
        """Returns substitutions, deletions and insertions."""
        substitutions, deletions, insertions = (getattr(self.score, name) for name in EDITS)
        return substitutions, deletions, insertions


@dataclass(frozen=True, slots=True)
class ModeResult:
    """The scored recordings of one mode, in the same order for every mode."""

    mode: Mode
    recordings: Sequence[ScoredRecording]

    @classmethod
    def of(cls, mode: Mode, sets: ClipSets, transcripts: Mapping[str, Transcript]) -> Self:
        """Scores the transcripts of all recordings; `transcripts` are those of the mode by the recording's id."""
        scorer = Scorer(SCORING)
        return cls(
            mode,
            [
                ScoredRecording(
                    name,
                    clip,
                    transcripts[clip.clip_id],
                    scorer.score(transcripts[clip.clip_id].text, clip.reference, clip.language or "en"),
                )
                for name, clips in sets.items()
                for clip in clips
            ],
        )

    @property
    def sets(self) -> list[str]:
        """Returns the names of the sets, `ALL` last."""
        return [*dict.fromkeys(each.set for each in self.recordings), ALL]

    def rates(self, name: str) -> Rates:
        """Returns the rates on a set, or on `ALL`."""
        chosen = [each for each in self.recordings if name in (each.set, ALL)]
        edits = np.array([each.edits for each in chosen], np.int64)
        words = np.array([each.score.num_ref_words for each in chosen], np.int64)
        numbers: dict[str | None, int] = {None: -1}
        speakers = np.array([numbers.setdefault(each.clip.speaker, len(numbers)) for each in chosen], np.int64)
        samples = SCORING.bootstrap_samples, SCORING.seed
        interval = bootstrap_interval(edits.sum(axis=1), words, speakers, *samples)
        substitutions, deletions, insertions = edits.sum(axis=0).tolist()
        return Rates(
            num_recordings=len(chosen),
            num_failed=sum(bool(each.transcript.error) for each in chosen),
            audio_s=sum(each.clip.audio_s for each in chosen),
            cpu_s=sum(each.transcript.cpu_s for each in chosen),
            num_ref_words=int(words.sum()),
            substitutions=substitutions,
            deletions=deletions,
            insertions=insertions,
            interval=interval or bootstrap_interval(edits.sum(axis=1), words, None, *samples),
        )

    def wer(self, name: str) -> float:
        """Returns the WER on a set, or on `ALL`; 0 without a word in the references."""
        return self.rates(name).wer or 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """A mode of this package (b) compared with one of another program (a), on a set or on `ALL`."""

    set: str
    own: Mode
    peer: Mode
    difference: Difference


def compare(own: ModeResult, peer: ModeResult) -> dict[str, Difference]:
    """Returns the paired difference, own minus peer, on each set and on `ALL`."""
    pairs = pair(_side(peer), _side(own))
    by_set = dict(pairs.by_group(_SET, SCORING))
    return {name: pairs.difference(None, SCORING) if name == ALL else by_set[name] for name in own.sets}


def compare_with_best_peers(own: ModeResult, peers: Sequence[ModeResult]) -> list[Comparison]:
    """Compares a mode with the peer that has the lowest WER on each set, and with the one that has it on `ALL`."""
    found = []
    for name in own.sets:
        best = min(peers, key=lambda peer: peer.wer(name))
        found.append(Comparison(name, own.mode, best.mode, compare(own, best)[name]))
    return found


def best_of(results: Sequence[ModeResult]) -> ModeResult:
    """Returns the result with the lowest WER on `ALL`."""
    return min(results, key=lambda result: result.wer(ALL))


_SET = "set"


def _side(result: ModeResult) -> Side:
    """Returns the scored recordings as a side of a paired comparison."""
    recordings = result.recordings
    name = result.mode.engine.name
    return Side(
        name=name,
        scope=Scope([], lambda table: table),
        ids=id_keys([each.clip.clip_id for each in recordings]),
        edits=np.array([each.edits for each in recordings], np.int64),
        words=np.array([each.score.num_ref_words for each in recordings], np.int64),
        refs=[],
        labels={
            SPEAKER: [each.clip.speaker for each in recordings],
            _SET: [each.set for each in recordings],
        },
        models=Counter({name: len(recordings)}),
        normalizers=[each.score.normalizer for each in recordings],
    )
