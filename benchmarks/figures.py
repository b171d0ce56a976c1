"""From answers to figures: medians over rounds, word errors, and how many times faster one engine is than another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.clips import Clip
from benchmarks.comparison.worker import Answer
from distil_ray.config import ScoringConfig
from distil_ray.evaluation.wer import Scorer, pooled_rate


@dataclass(frozen=True, slots=True)
class Figure:
    """One engine on one set. Seconds are medians over `rounds`; `speeds` are the slowest and the fastest round's."""

    engine: str
    set: str
    rounds: int
    audio_s: float
    cpu_s: float
    wall_s: float
    speeds: tuple[float, float]  # audio seconds per CPU second
    num_ref_words: int
    substitutions: int
    deletions: int
    insertions: int
    normalizer: str  # with its version
    peak_rss_mb: float

    @property
    def speed(self) -> float:
        """Audio seconds per CPU second."""
        return self.audio_s / self.cpu_s

    @property
    def speed_wall(self) -> float:
        """Audio seconds per second of the clock."""
        return self.audio_s / self.wall_s

    @property
    def wer(self) -> float | None:
        return pooled_rate(self.substitutions + self.deletions + self.insertions, self.num_ref_words)


def figures(answers: Mapping[str, Sequence[Answer]], sets: Mapping[str, Sequence[Clip]], language: str) -> list[Figure]:
    """A figure for every engine and set that it answered for; texts are those of the first round."""
    found = []
    for engine, given in answers.items():
        for name, clips in sets.items():
            mine = [answer for answer in given if answer.set == name]
            if mine:
                found.append(_figure(engine, name, mine, clips, language))
    return found


def _figure(engine: str, name: str, answers: Sequence[Answer], clips: Sequence[Clip], language: str) -> Figure:
    scorer = Scorer(ScoringConfig(normalizer="auto"))
    scores = [scorer.score(text, clip.reference, language) for text, clip in zip(answers[0].texts, clips, strict=True)]
    audio_s = sum(clip.audio_s for clip in clips)
    rates = [audio_s / answer.cpu_s for answer in answers]
    return Figure(
        engine=engine,
        set=name,
        rounds=len(answers),
        audio_s=audio_s,
        cpu_s=median(answer.cpu_s for answer in answers),
        wall_s=median(answer.wall_s for answer in answers),
        speeds=(min(rates), max(rates)),
        num_ref_words=sum(score.num_ref_words or 0 for score in scores),
        substitutions=sum(score.substitutions or 0 for score in scores),
        deletions=sum(score.deletions or 0 for score in scores),
        insertions=sum(score.insertions or 0 for score in scores),
        normalizer=scores[0].normalizer,
        peak_rss_mb=max(answer.peak_rss_mb for answer in answers),
    )


def ratio(found: Sequence[Figure], ours: str, peer: str, name: str) -> float | None:
    """How many times as much audio `ours` does in a CPU second as `peer`, on a set; None where one has no figure."""
    speeds = {(figure.engine, figure.set): figure.speed for figure in found}
    mine, other = speeds.get((ours, name)), speeds.get((peer, name))
    return mine / other if mine and other else None
