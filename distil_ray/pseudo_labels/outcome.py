"""What became of the utterances and examples of a build, in counts, and what it ends with."""

from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console

from distil_ray.cli.console import format_duration, log_field
from distil_ray.config import Config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.pseudo_labels.shards import Made
from distil_ray.pseudo_labels.statistics import Figures
from distil_ray.pseudo_labels.utterances import Judged


@dataclass(slots=True)
class Counts:
    """Utterances of a build, and their audio."""

    num_kept: int = 0
    kept_s: float = 0.0
    num_rejected: int = 0
    rejected_s: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    num_timed: int = 0  # with time tokens
    num_spoken_by: int = 0  # with a speaker

    @property
    def had_words(self) -> bool:
        """Whether there was anything for filters to judge."""
        return bool(self.num_kept or set(self.reasons) - {"status", "no_text"})

    def add(self, judged: Judged) -> None:
        if not judged.reasons:
            self.num_kept += 1
            self.kept_s += judged.row["duration_s"]
            self.num_timed += judged.row["is_timed"]
            self.num_spoken_by += judged.row["speaker"] is not None
            return
        self.num_rejected += 1
        self.rejected_s += judged.row["duration_s"]
        self.reasons.update(judged.reasons)

    def print(self, console: Console) -> None:
        log_field("kept", f"{self.num_kept:,} utterances, {format_duration(self.kept_s)}", console)
        if self.num_rejected:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.reasons.most_common())
            log_field(
                "rejected", f"{self.num_rejected:,} utterances, {format_duration(self.rejected_s)}: {reasons}", console
            )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the examples of a build. `num_earlier` are those of an earlier build that this one finished."""

    num_earlier: int
    made: list[Made]
    counts: Counts
    max_lost_fraction: float

    @property
    def num_lost(self) -> int:
        return sum(one.num_lost for one in self.made)

    @property
    def num_tried(self) -> int:
        return self.num_earlier + sum(one.num_examples + one.num_lost for one in self.made)

    @property
    def lost_too_many(self) -> bool:
        return self.num_lost > self.max_lost_fraction * self.num_tried


def verdict(figures: Figures, outcome: Outcome, is_current: bool, config: Config, console: Console) -> ExitCode:
    """`is_current`: all that the data set holds was made by these settings, or is kept with them."""
    lost, tried = outcome.num_lost, outcome.num_tried
    if lost:
        why = next(one.why for one in outcome.made if one.why)
        log_field(
            "without audio", f"{lost:,} of {tried:,} examples, to be tried again by the next build: {why}", console
        )
    if not (figures.num_examples and is_current) and not lost:
        if not outcome.counts.had_words and not figures.was_judged:
            raise SettingsError(f"output.uri={config.output.uri}: none of its transcripts has words to make labels of")
        hint = "--sweep shows what each threshold would keep; labels.filters sets them"
        log_field("nothing kept", f"the filters let no utterance pass ({figures.reason_words()}). {hint}", console)
        return ExitCode.TOO_MANY_FAILED
    if outcome.lost_too_many:
        allowed = f"max_failed_fraction={config.max_failed_fraction:g} allows"
        log_field("too many", f"{lost:,} of {tried:,} examples lack their audio, more than {allowed}", console)
        return ExitCode.TOO_MANY_FAILED
    return ExitCode.DONE
