"""a manifest of this project with every known field, a JSON line per recording."""

from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.calls import render_call_record
from distil_ray.export.records import full_record, to_json_line
from distil_ray.export.transcripts import Transcript


def render_record(transcript: Transcript) -> str:
    """Returns everything that is known of a recording as a line of JSON; times are in seconds."""
    return to_json_line(full_record(transcript))


FORMAT = ExportFormat(
    Layout.LINES,
    ("transcripts.jsonl",),
    render_record,
    ("segments", "words"),
    call_writer=render_call_record,
    call_file="calls.jsonl",
)
