"""subtitles (WebVTT), a file per recording."""

from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.subtitles import CUE_COLUMNS, build_cues, format_time
from distil_ray.export.transcripts import Transcript

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})  # W3C WebVTT, section "cue text"


def render_vtt(transcript: Transcript) -> str:
    """Returns the cues of a transcript as WebVTT."""
    blocks = [
        f"{format_time(cue.start, '.')} --> {format_time(cue.end, '.')}\n{cue.text.translate(_ESCAPES)}\n"
        for cue in build_cues(transcript)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


FORMAT = ExportFormat(Layout.FILE, ("*.vtt",), render_vtt, CUE_COLUMNS)
