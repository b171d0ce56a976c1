"""Results of the engines: medians over rounds, word error rates, and speed-ups between engines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.clips import Clip
from benchmarks.comparison.worker import SetResult
from distil_ray.config import ScoringConfig
from distil_ray.evaluation.wer import Scorer, pooled_rate


@dataclass(frozen=True, slots=True)
class EngineResult:
    """One engine on one set.

    Seconds are medians over `rounds`; `speeds` are those of the slowest and the fastest round.
    """

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
        """Audio seconds per wall-clock second."""
        return self.audio_s / self.wall_s

    @property
    def wer(self) -> float | None:
        return pooled_rate(self.substitutions + self.deletions + self.insertions, self.num_ref_words)


def summarize(
    results: Mapping[str, Sequence[SetResult]], sets: Mapping[str, Sequence[Clip]], language: str
) -> list[EngineResult]:
    """Returns a result for every engine and set that it has results for.

    The texts scored are those of the first round.
    """
    found = []
    for engine, given in results.items():
        for name, clips in sets.items():
            mine = [result for result in given if result.set == name]
            if mine:
                found.append(_summarize_set(engine, name, mine, clips, language))
    return found


def _summarize_set(
    engine: str, name: str, results: Sequence[SetResult], clips: Sequence[Clip], language: str
) -> EngineResult:
    scorer = Scorer(ScoringConfig(normalizer="auto"))
    scores = [scorer.score(text, clip.reference, language) for text, clip in zip(results[0].texts, clips, strict=True)]
    audio_s = sum(clip.audio_s for clip in clips)
    rates = [audio_s / result.cpu_s for result in results]
    return EngineResult(
        engine=engine,
        set=name,
        rounds=len(results),
        audio_s=audio_s,
        cpu_s=median(result.cpu_s for result in results),
        wall_s=median(result.wall_s for result in results),
        speeds=(min(rates), max(rates)),
        num_ref_words=sum(score.num_ref_words or 0 for score in scores),
        substitutions=sum(score.substitutions or 0 for score in scores),
        deletions=sum(score.deletions or 0 for score in scores),
        insertions=sum(score.insertions or 0 for score in scores),
        normalizer=scores[0].normalizer,
        peak_rss_mb=max(result.peak_rss_mb for result in results),
    )


def ratio(found: Sequence[EngineResult], native: str, baseline: str, name: str) -> float | None:
    """Returns the ratio of audio per CPU second of `ours` to that of `peer`, on a set; None where one has no figure."""
    speeds = {(figure.engine, figure.set): figure.speed for figure in found}
    mine, other = speeds.get((native, name)), speeds.get((baseline, name))
    return mine / other if mine and other else None
