"""subtitles (WebVTT), a file per recording."""

from collections.abc import Sequence

from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.cues import Cue
from distil_ray.export.line_breaks import CueWord
from distil_ray.export.subtitles import CUE_COLUMNS, format_time, one_line

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})  # W3C WebVTT, section "cue text"
# Words that are not spoken yet. Without a style a player shows them like the others.
_STYLE = "STYLE\n::cue(c:future) {\n  color: silver;\n}\n"


def render_vtt(cues: Sequence[Cue]) -> str:
    """Returns cues as WebVTT. A cue whose speaker is known is a voice span with the name."""
    blocks = [
        f"{format_time(cue.start, '.')} --> {format_time(cue.end, '.')}\n{_voice(cue.speaker)}{_content(cue)}\n"
        for cue in cues
    ]
    styles = [_STYLE] if any(cue.highlights_words for cue in cues) else []
    return "\n".join(["WEBVTT\n", *styles, *blocks])


def _voice(speaker: str | None) -> str:
    return "" if speaker is None else f"<v {_escape(one_line(speaker))}>"


def _content(cue: Cue) -> str:
    return _highlight(cue) if cue.highlights_words else _escape(cue.text)


def _highlight(cue: Cue) -> str:
    """Returns the text with a class span per word, and a timestamp before it.

    WebVTT asks for timestamps that increase and lie within the cue. A word without one belongs to the word before.
    """
    last = cue.start
    lines: list[str] = []
    for line in cue.lines:
        spans: list[str] = []
        for word in line:
            begins = last < word.start < cue.end
            last = word.start if begins else last
            spans.append(_word_span(word, begins, is_first=not spans))
        lines.append("".join(spans))
    return "\n".join(lines)


def _word_span(word: CueWord, has_timestamp: bool, *, is_first: bool) -> str:
    text = word.text.lstrip()
    blank = "" if is_first or text == word.text else " "
    timestamp = f"<{format_time(word.start, '.')}>" if has_timestamp else ""
    return f"{blank}{timestamp}<c>{_escape(text)}</c>"


def _escape(text: str) -> str:
    return text.translate(_ESCAPES)


FORMAT = ExportFormat(Layout.FILE, ("*.vtt",), columns=CUE_COLUMNS, cue_writer=render_vtt, highlights_words=True)
