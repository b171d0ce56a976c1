"""What came of a training, in words, and whether its student is better than the assistant in use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from distil_ray.assistant_training.training_examples import Lessons
from distil_ray.cli.console import format_duration, log_field
from distil_ray.config import AssistantConfig
from distil_ray.pipeline.assistant_selection import student_uri

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a training: its name, the student's figures, and whether it is in use from now on, and why."""

    training: str
    figures: Figures
    replaced: bool
    reason: str


def verdict(assistants: list[Figures], settings: AssistantConfig) -> tuple[bool, str]:
    """Whether the first is better than the second, if there is one, and than none; and the reason in words."""
    new, *others = assistants
    beside = others[0] if others else None
    name = "expected speed-up" if settings.compare_by == "speed" else "tokens of a main-model pass"

    def value(worth: Mapping[str, Any]) -> float:
        if settings.compare_by == "speed":
            return float(worth["speed_up"])
        return float(max(worth["tokens_per_pass"].values()))

    mine, needed = value(new), settings.min_gain * max(1.0, value(beside) if beside else 1.0)
    rival = f"the one in use has {value(beside):.2f}" if beside else "none has 1.00"
    told = f"{name} {mine:.2f}, {rival}, assistant.min_gain={settings.min_gain:g}"
    return mine >= needed, told


def say_lessons(lessons: Lessons, console: Console) -> None:
    words = f"{format_duration(lessons.train_s)} of audio, {len(lessons.token_ids):,} different tokens"
    log_field("to learn", words, console)
    log_field("held out", f"{format_duration(lessons.held_out_s)}, by {lessons.hold_out_by}", console)
    if lessons.left_out:
        left = ", ".join(f"{reason} {number:,}" for reason, number in lessons.left_out.most_common())
        log_field("left out", left, console)


def in_words(figures: Figures) -> str | None:
    if figures.get("stage") != "training":
        return None
    right = f", {100 * figures['agreement']:.1f} % of held-out tokens right"
    return f"step {figures['step']:,}, {figures['elapsed_s']:,.0f} s, loss {figures['loss']:.3f}{right}"


def say_outcome(outcome: Outcome, uri: str, console: Console) -> None:
    figures = outcome.figures
    for worth in figures["assistants"]:
        per_pass = ", ".join(f"{number:.2f} of {drafts}" for drafts, number in worth["tokens_per_pass"].items())
        right = f"{100 * worth['agreement']:.1f} % of the held-out tokens right"
        log_field(worth["name"], f"{right}; tokens a pass by drafts: {per_pass}", console)
        faster = f"{worth['speed_up']:.2f} times as fast as without, with {worth['best_drafts']} drafts"
        log_field("", f"expected at batch {figures['batch_size']} on {figures['device']}: {faster}", console)
    log_field("alone", f"as a recognizer, {_rates(figures['words'])}", console)
    log_field("in use" if outcome.replaced else "left", outcome.reason, console)
    log_field("student", student_uri(uri, outcome.training), console)


def _rates(words: Figures) -> str:
    """A student's words beside the main model's and the references'."""
    told = f"over {format_duration(words['audio_s'])}: "
    if words["wer_to_main"] is not None:
        told += f"{100 * words['wer_to_main']:.1f} % of the words differ from the main model's"
    if words["wer"] is not None:
        told += f"; WER {100 * words['wer']:.1f} %, the main model's {100 * words['main_wer']:.1f} %"
    return f"{told}; normalizer {words['normalizer']}"
