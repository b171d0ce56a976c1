"""Cues as SubRip (.srt) and WebVTT (.vtt)."""

from distil_ray.export.cues import cues
from distil_ray.export.transcripts import Transcript

# SubRip has no escapes. A word joiner, which is not seen, keeps its arrow from being taken for a line of times.
_ARROW, _HARMLESS_ARROW = "-->", "--\u2060>"
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})  # W3C WebVTT, section "cue text"


def srt(transcript: Transcript) -> str:
    blocks = [
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{cue.text.replace(_ARROW, _HARMLESS_ARROW)}\n"
        for number, cue in enumerate(cues(transcript), 1)
    ]
    return "\n".join(blocks)


def vtt(transcript: Transcript) -> str:
    blocks = [
        f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{cue.text.translate(_ESCAPES)}\n"
        for cue in cues(transcript)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _time(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"
