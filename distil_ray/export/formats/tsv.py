"""subtitles as a table with the columns of openai-whisper, a file per recording.

A line per cue: start and end in milliseconds and the text in one line, separated by tabs. The first line names the
columns.
"""

from collections.abc import Sequence

from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.calls import add_speaker
from distil_ray.export.cues import Cue
from distil_ray.export.subtitles import CUE_COLUMNS

HEADER = "start\tend\ttext\n"


def render_tsv(cues: Sequence[Cue]) -> str:
    """Returns a line per cue. The text of a cue whose speaker is known begins with the name and a colon."""
    lines = [f"{cue.start}\t{cue.end}\t{add_speaker(cue.speaker, cue.one_line_text)}\n" for cue in cues]
    return "".join([HEADER, *lines])


FORMAT = ExportFormat(Layout.FILE, ("*.tsv",), columns=CUE_COLUMNS, cue_writer=render_tsv)
