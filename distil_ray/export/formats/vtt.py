"""subtitles (WebVTT), a file per recording."""

from collections.abc import Iterable

from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.calls import Call, build_call_cues
from distil_ray.export.subtitles import CUE_COLUMNS, Cue, build_cues, format_time, one_line
from distil_ray.export.transcripts import Transcript

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})  # W3C WebVTT, section "cue text"


def render_vtt(transcript: Transcript) -> str:
    """Returns the cues of a transcript as WebVTT."""
    return _render((cue, None) for cue in build_cues(transcript))


def render_call_vtt(call: Call) -> str:
    """Returns the cues of a call as WebVTT, each in a voice span with its speaker."""
    return _render(build_call_cues(call))


def _render(cues: Iterable[tuple[Cue, str | None]]) -> str:
    blocks = [
        f"{format_time(cue.start, '.')} --> {format_time(cue.end, '.')}\n{_voice(speaker)}{_escape(cue.text)}\n"
        for cue, speaker in cues
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _voice(speaker: str | None) -> str:
    return "" if speaker is None else f"<v {_escape(one_line(speaker))}>"


def _escape(text: str) -> str:
    return text.translate(_ESCAPES)


FORMAT = ExportFormat(Layout.FILE, ("*.vtt",), render_vtt, CUE_COLUMNS, call_writer=render_call_vtt)
