"""subtitles (SubRip), a file per recording."""

from collections.abc import Iterable
from dataclasses import replace

from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.calls import Call, add_speaker, build_call_cues
from distil_ray.export.subtitles import CUE_COLUMNS, Cue, build_cues, format_time
from distil_ray.export.transcripts import Transcript

# SubRip has no escapes. An invisible word joiner keeps an arrow in the text from being parsed as a line of times.
_ARROW, _HARMLESS_ARROW = "-->", "--\u2060>"


def render_srt(transcript: Transcript) -> str:
    """Returns the cues of a transcript as SubRip, numbered from 1."""
    return _render(build_cues(transcript))


def render_call_srt(call: Call) -> str:
    """Returns the cues of a call as SubRip. Every cue begins with its speaker and a colon."""
    return _render(replace(cue, text=add_speaker(speaker, cue.text)) for cue, speaker in build_call_cues(call))


def _render(cues: Iterable[Cue]) -> str:
    blocks = [
        f"{number}\n{format_time(cue.start, ',')} --> {format_time(cue.end, ',')}\n"
        f"{cue.text.replace(_ARROW, _HARMLESS_ARROW)}\n"
        for number, cue in enumerate(cues, 1)
    ]
    return "\n".join(blocks)


FORMAT = ExportFormat(Layout.FILE, ("*.srt",), render_srt, CUE_COLUMNS, call_writer=render_call_srt)
