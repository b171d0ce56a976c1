"""Cues of subtitles: divides timed words into cues that can be read, and gives them their times.

The words come in passages: segments, phrases or chunks. Cues are made in four steps:

1. A passage that keeps all limits is one cue. Any other is divided where the sum of the costs of its cues is lowest
   (dynamic programming). A cue costs 1, the square of how full it is, its distance from the reading speed and from the
   minimum time, and the break at its end: nothing after a sentence, 0.25 after a clause, 0.5 at a pause, else 1.
   Line width, lines, words and maximum time are never exceeded, except by a cue of one word.
2. A cue that is shorter than the minimum is joined with a neighbor of the same speaker, if both fit into one cue.
3. A cue begins with its first word. It ends with its last word, or later if the text needs more time to be read: up to
   the next cue, the maximum time or the end of the recording. A text that is spoken faster than `max_chars_per_s` stays
   as it is.
4. The words of each cue are distributed over lines (`line_breaks`).

Times are in milliseconds from the first sample of the recording. Cues never overlap, and every word is in one cue.
Where a format has coarser times, those of cues are rounded down to multiples of its step.

The defaults follow two public guides. The Timed Text Style Guide of Netflix has 42 characters per line, two lines,
5/6 s to 7 s per event and, for adult programs in most languages, 17 characters per second (20 in English). The Subtitle
Guidelines of the BBC have 160 to 180 words per minute, which is about the same speed, and breaks at the ends of
sentences and clauses.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from distil_ray.errors import SettingsError
from distil_ray.export.line_breaks import (
    CueWord,
    break_cost,
    break_lines,
    is_unspaced,
    line_text,
    text_width,
)

JOIN_PAUSE_MS = 700  # longest pause between the parts of a cue that are joined because they are short
SHORT_WEIGHT = 2.0  # cost of a cue that is not visible at all, against that of a break inside of a phrase


@dataclass(frozen=True, slots=True)
class CueSettings:
    """Limits of a cue; 0 switches a limit off. `export.settings` describes the fields.

    Raises:
        SettingsError: A limit is negative, or the minimum time is above the maximum.
    """

    max_line_width: int = 42
    max_lines: int = 2
    max_words: int = 0
    max_chars_per_s: float = 17.0
    min_cue_s: float = 0.833
    max_cue_s: float = 7.0
    highlight_words: bool = False

    def __post_init__(self) -> None:
        for name in ("max_line_width", "max_lines", "max_words", "max_chars_per_s", "min_cue_s", "max_cue_s"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name}={getattr(self, name)}: must be 0 or greater; 0 is no limit")
        if self.max_cue_s and self.min_cue_s > self.max_cue_s:
            raise SettingsError(f"min_cue_s={self.min_cue_s}: must not be greater than max_cue_s={self.max_cue_s}")

    @property
    def max_ms(self) -> float:
        """Longest time of a cue in milliseconds, infinite without a limit."""
        return self.max_cue_s * 1000 or float("inf")

    def reading_ms(self, width: int) -> int:
        """Returns the least time in milliseconds that a text of `width` columns is to be visible."""
        reading_s = width / self.max_chars_per_s if self.max_chars_per_s else 0.0
        return round(1000 * max(reading_s, self.min_cue_s))

    def speaker_width(self, speaker: str | None) -> int:
        """Returns the columns that the name of a speaker takes of the first line, at most half of it."""
        return 0 if speaker is None else min(text_width(speaker) + 2, self.max_line_width // 2)


@dataclass(frozen=True, slots=True)
class Passage:
    """Words that belong together, in order of time; no cue has words of two passages unless they are short."""

    words: tuple[CueWord, ...]
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Cue:
    """A subtitle.

    Attributes:
        start: Milliseconds from the recording's first sample.
        end: Greater than `start`.
        lines: The words of each line.
        speaker: The speaker; None if it is not known or not to be written.
        highlights_words: The words have times of their own and are to be highlighted.
    """

    start: int
    end: int
    lines: tuple[tuple[CueWord, ...], ...]
    speaker: str | None = None
    highlights_words: bool = False

    @property
    def text(self) -> str:
        """The text, with a line feed between lines."""
        return "\n".join(map(line_text, self.lines))

    @property
    def one_line_text(self) -> str:
        """The text in one line."""
        return line_text([word for line in self.lines for word in line])


def build_cues(passages: Iterable[Passage], settings: CueSettings, duration: int, step: int = 1) -> list[Cue]:
    """Returns the cues of passages, which do not overlap.

    Args:
        passages: In order of time, of one recording. Passages without words are skipped.
        settings: The limits.
        duration: No cue ends later, in milliseconds. There are no cues if it is less than `step`.
        step: Milliseconds that the starts and ends of cues are multiples of.
    """
    duration -= duration % step
    ordered = _order([passage for passage in passages if passage.words], duration)
    starts = [passage.words[0].start for passage in ordered[1:]]
    parts: list[Passage] = []
    for passage, following in zip(ordered, [*starts, duration], strict=False):
        parts += _Division(passage, settings, following).divide()
    return _time_cues(_join_short(parts, settings, duration), settings, duration, step)


def _order(passages: Sequence[Passage], duration: int) -> list[Passage]:
    """Returns the passages with times that do not decrease and lie within the recording."""
    clipped = (min(max(word.start, 0), duration) for passage in passages for word in passage.words)
    spans = pairwise([*accumulate(clipped, max), duration])
    return [
        replace(
            passage,
            words=tuple(
                replace(word, start=start, end=min(max(word.end, start), following))
                for word, (start, following) in zip(passage.words, spans, strict=False)
            ),
        )
        for passage in passages
    ]


def _shown_ms(first: CueWord, last: CueWord, width: int, settings: CueSettings, following: int) -> int:
    """Returns the time that a cue of the words from `first` to `last` is visible if the next starts at `following`."""
    start, end = first.start, last.end
    wanted = max(end - start, settings.reading_ms(width))
    return int(min(wanted, settings.max_ms, max(following - start, 0)))


class _Division:
    """Divides a passage. `following` is the start of the next passage, or the end of the recording."""

    def __init__(self, passage: Passage, settings: CueSettings, following: int) -> None:
        self._passage = passage
        self._words = passage.words
        self._settings = settings
        self._label_width = settings.speaker_width(passage.speaker)
        self._starts = [*(word.start for word in passage.words), following]
        self._widths = [text_width(word.text) for word in passage.words]

    def divide(self) -> list[Passage]:
        """Returns the passage, or its parts."""
        whole = self._costs_from(0).get(len(self._words))
        if whole is not None and whole[1]:
            return [self._passage]
        num = len(self._words)
        best = [0.0] + [float("inf")] * num
        begins = [0] * (num + 1)
        for begin in range(num):
            for end, (cost, _) in self._costs_from(begin).items():
                if best[begin] + cost < best[end]:
                    best[end], begins[end] = best[begin] + cost, begin
        parts: list[Passage] = []
        while num:
            parts.append(replace(self._passage, words=self._words[begins[num] : num]))
            num = begins[num]
        return parts[::-1]

    def _costs_from(self, begin: int) -> dict[int, tuple[float, bool]]:
        """Returns the cues that may begin with a word, by their ends: the cost, and whether all limits are kept."""
        settings, words = self._settings, self._words
        found: dict[int, tuple[float, bool]] = {}
        width, line, lines = 0, self._label_width, 1
        for end in range(begin + 1, len(words) + 1):
            text = words[end - 1].text
            own = self._widths[end - 1] - (not width and text.startswith(" "))
            width += own
            line += own
            if settings.max_line_width and line > settings.max_line_width and end > begin + 1:
                lines, line = lines + 1, text_width(text.lstrip())
            is_within = (
                (not settings.max_lines or lines <= settings.max_lines)
                and (not settings.max_words or end - begin <= settings.max_words)
                and words[end - 1].end - words[begin].start <= settings.max_ms
            )
            if not is_within and end > begin + 1:
                break
            found[end] = self._cost(begin, end, width, is_within)
        return found

    def _cost(self, begin: int, end: int, width: int, is_within: bool) -> tuple[float, bool]:
        settings, words = self._settings, self._words
        shown = _shown_ms(words[begin], words[end - 1], width, settings, self._starts[end])
        too_short = max(0.0, 1 - shown / (1000 * settings.min_cue_s)) if settings.min_cue_s else 0.0
        too_fast = 0.0
        if settings.max_chars_per_s:
            too_fast = max(0.0, min(1.0, 1000 * width / max(shown, 1) / settings.max_chars_per_s - 1))
        columns = settings.max_line_width * settings.max_lines
        fullness = max(
            width / columns if columns else 0,
            (end - begin) / settings.max_words if settings.max_words else 0,
            (words[end - 1].end - words[begin].start) / settings.max_ms,
        )
        cost = 1 + fullness**2 + SHORT_WEIGHT * too_short + too_fast
        if end < len(words):
            cost += break_cost(words[end - 1], words[end])
        return cost, is_within and not too_fast


def _fits(passage: Passage, settings: CueSettings) -> bool:
    """Returns True if the words can be one cue."""
    words = passage.words
    lines = break_lines(words, settings.max_line_width, settings.speaker_width(passage.speaker))
    return (
        (not settings.max_lines or len(lines) <= settings.max_lines)
        and (not settings.max_words or len(words) <= settings.max_words)
        and words[-1].end - words[0].start <= settings.max_ms
    )


def _join(before: Passage, after: Passage) -> Passage:
    first = after.words[0]
    if not first.text.startswith(" ") and not (is_unspaced(before.words[-1].text[-1]) and is_unspaced(first.text[0])):
        first = replace(first, text=f" {first.text}")
    return replace(before, words=(*before.words, first, *after.words[1:]))


def _join_short(parts: Sequence[Passage], settings: CueSettings, duration: int) -> list[Passage]:
    """Joins each part that cannot be visible for the minimum time with the one before or after it, where both fit."""
    if not settings.min_cue_s:
        return list(parts)
    joined: list[Passage] = []
    starts = [*(part.words[0].start for part in parts[1:]), duration]
    for part, following in zip(parts, starts, strict=False):
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.speaker == part.speaker
            and part.words[0].start - last.words[-1].end <= JOIN_PAUSE_MS
            and (_is_short(last, part.words[0].start, settings) or _is_short(part, following, settings))
            and _fits(whole := _join(last, part), settings)
        ):
            joined[-1] = whole
        else:
            joined.append(part)
    return joined


def _is_short(part: Passage, following: int, settings: CueSettings) -> bool:
    return _part_shown_ms(part, following, settings) < round(1000 * settings.min_cue_s)


def _part_shown_ms(part: Passage, following: int, settings: CueSettings) -> int:
    words = part.words
    return _shown_ms(words[0], words[-1], text_width(line_text(words)), settings, following)


def _time_cues(parts: Sequence[Passage], settings: CueSettings, duration: int, step: int) -> list[Cue]:
    """Returns a cue per part. Where no step is left for a part, its words are added to the cue before it."""
    timed: list[tuple[int, int, Passage]] = []
    starts = [*(part.words[0].start for part in parts[1:]), duration]
    for part, following in zip(parts, starts, strict=False):
        last = timed[-1][1] if timed else 0
        begin = part.words[0].start
        start = max(begin - begin % step, last)
        end = begin + _part_shown_ms(part, following, settings)
        end = min(max(end - end % step, start + step), duration)
        if start < end:
            timed.append((start, end, part))
        elif timed:
            timed[-1] = (*timed[-1][:2], _join(timed[-1][2], part))
        elif duration:
            timed.append((duration - step, duration, part))
    return [_make_cue(start, end, part, settings) for start, end, part in timed]


def _make_cue(start: int, end: int, part: Passage, settings: CueSettings) -> Cue:
    lines = break_lines(part.words, settings.max_line_width, settings.speaker_width(part.speaker))
    return Cue(start, end, lines, part.speaker, settings.highlight_words)
