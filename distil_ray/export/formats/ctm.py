"""word times for sclite (NIST CTM), a line per word.

A line is recording, channel, start, duration, word and, if the recognizer gave it, probability. Fields are separated by
blanks: blanks in an id are written as %20 (and % as %25), blanks inside a word as an underscore. sclite needs the lines
sorted by recording: ``sort -s -k1,1 -k2,2 -k3,3n``.
"""

import re

from distil_ray.errors import SettingsError
from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.subtitles import INCOMPLETE, make_up
from distil_ray.export.transcripts import NotExportableError, Transcript

CHANNEL = "1"

_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_NOT_IN_IDS = re.compile(r"[%\s\x00-\x1f\x7f-\x9f]|\A;")  # a line that begins with ;; is a comment


def render_ctm(transcript: Transcript) -> str:
    """Returns a line per word, with times in seconds to the millisecond.

    Raises:
        SettingsError: The transcript has no word times.
        NotExportableError: The words lack a part of the text.
    """
    if transcript.words is None and transcript.text:
        raise SettingsError(
            f"format=ctm: {transcript.recording_id} has no word times. Run again with"
            " decoding.timestamps=word (and output.on_settings_change=redo, to replace the transcripts of this output)"
        )
    name = _NOT_IN_IDS.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), transcript.recording_id)
    lines = []
    for word in transcript.words or ():
        text = _BLANKS.sub("_", word.text.strip())
        if text:
            duration_s = max(word.end_s - word.start_s, 0.0)
            probability = "" if word.probability is None else f" {word.probability:.3f}"
            lines.append(f"{name} {CHANNEL} {word.start_s:.3f} {duration_s:.3f} {text}{probability}\n")
    if lines and not make_up(transcript.words or (), transcript.text):
        raise NotExportableError(INCOMPLETE)
    return "".join(lines)


FORMAT = ExportFormat(Layout.LINES, ("words.ctm",), render_ctm, ("words",))
