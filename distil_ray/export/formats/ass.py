"""subtitles (Advanced SubStation Alpha) in one default style, a file per recording.

Times have hundredths of a second, as the format demands: cues are made of times that are rounded down.
"""

from collections.abc import Sequence
from itertools import pairwise

from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.cues import Cue
from distil_ray.export.subtitles import CUE_COLUMNS, one_line

STEP_MS = 10  # milliseconds in a hundredth of a second

# Words turn from the secondary color to the primary one when they are spoken. WrapStyle 2: lines are broken at \N only.
_HEADER = """\
[Script Info]
ScriptType: v4.00+
PlayResX: 1920
PlayResY: 1080
WrapStyle: 2
ScaledBorderAndShadow: yes

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,60,&H00FFFFFF,&H00C0C0C0,&H00000000,&H80000000,0,0,0,0,100,100,0,0,1,3,1,2,60,60,54,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
# The format has no escape for a backslash: a word joiner keeps \N and \h in a text from being commands.
_ESCAPES = str.maketrans({"\\": "\\\u2060", "{": "\\{", "}": "\\}"})


def render_ass(cues: Sequence[Cue]) -> str:
    """Returns a script with an event per cue, whose times are multiples of `STEP_MS`; the speaker is in ``Name``."""
    return _HEADER + "".join(map(_render_event, cues))


def _render_event(cue: Cue) -> str:
    start, end = cue.start // STEP_MS, cue.end // STEP_MS
    name = one_line(cue.speaker or "").replace(",", ";")  # a comma ends the field
    text = _highlight(cue) if cue.highlights_words else "\\N".join(map(_escape, cue.text.split("\n")))
    return f"Dialogue: 0,{_format_time(start)},{_format_time(end)},Default,{name},0,0,0,,{text}\n"


def _highlight(cue: Cue) -> str:
    r"""Returns the text with ``{\k}`` before each word: hundredths of a second up to the next word."""
    words = [word for line in cue.lines for word in line]
    starts = [min(max(word.start, cue.start), cue.end) // STEP_MS for word in words]
    durations = iter([after - before for before, after in pairwise([*starts, cue.end // STEP_MS])])
    lines = (
        "".join(
            f"{{\\k{next(durations)}}}{_escape(word.text if number else word.text.lstrip())}"
            for number, word in enumerate(line)
        )
        for line in cue.lines
    )
    return "\\N".join(lines)


def _format_time(hundredths: int) -> str:
    seconds, rest = divmod(hundredths, 100)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:02}"


def _escape(text: str) -> str:
    return text.translate(_ESCAPES)


FORMAT = ExportFormat(
    Layout.FILE,
    ("*.ass",),
    columns=CUE_COLUMNS,
    cue_writer=render_ass,
    cue_step_ms=STEP_MS,
    highlights_words=True,
)
