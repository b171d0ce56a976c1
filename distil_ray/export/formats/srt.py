"""subtitles (SubRip), a file per recording."""

from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.subtitles import CUE_COLUMNS, build_cues, format_time
from distil_ray.export.transcripts import Transcript

# SubRip has no escapes. An invisible word joiner keeps an arrow in the text from being parsed as a line of times.
_ARROW, _HARMLESS_ARROW = "-->", "--\u2060>"


def render_srt(transcript: Transcript) -> str:
    """Returns the cues of a transcript as SubRip, numbered from 1."""
    blocks = [
        f"{number}\n{format_time(cue.start, ',')} --> {format_time(cue.end, ',')}\n"
        f"{cue.text.replace(_ARROW, _HARMLESS_ARROW)}\n"
        for number, cue in enumerate(build_cues(transcript), 1)
    ]
    return "\n".join(blocks)


FORMAT = ExportFormat(Layout.FILE, ("*.srt",), render_srt, CUE_COLUMNS)
