"""plain text, a file per recording."""

from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.calls import render_call_text
from distil_ray.export.transcripts import Transcript


def render_text(transcript: Transcript) -> str:
    """Returns the text and a line break."""
    return transcript.text + "\n"


FORMAT = ExportFormat(Layout.FILE, ("*.txt",), render_text, call_writer=render_call_text)
