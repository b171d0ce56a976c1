"""subtitles (SubRip), a file per recording."""

from collections.abc import Sequence

from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.calls import add_speaker
from distil_ray.export.cues import Cue
from distil_ray.export.subtitles import CUE_COLUMNS, format_time

# SubRip has no escapes. An invisible word joiner keeps an arrow in the text from being parsed as a line of times.
_ARROW, _HARMLESS_ARROW = "-->", "--\u2060>"


def render_srt(cues: Sequence[Cue]) -> str:
    """Returns cues as SubRip, numbered from 1. A cue whose speaker is known begins with the name and a colon."""
    blocks = [
        f"{number}\n{format_time(cue.start, ',')} --> {format_time(cue.end, ',')}\n"
        f"{add_speaker(cue.speaker, cue.text).replace(_ARROW, _HARMLESS_ARROW)}\n"
        for number, cue in enumerate(cues, 1)
    ]
    return "\n".join(blocks)


FORMAT = ExportFormat(Layout.FILE, ("*.srt",), columns=CUE_COLUMNS, cue_writer=render_srt)
