"""Word times as CTM, the NIST form that sclite reads: recording, channel, start, duration, word, probability.

Fields are separated by blanks, so blanks in an id become %20 (and % itself %25), and those inside a word an underscore.
sclite wants the lines sorted by recording: `sort -s -k1,1 -k2,2 -k3,3n`.
"""

import re

from distil_ray.errors import SettingsError
from distil_ray.export.transcripts import Transcript

CHANNEL = "1"

_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_NOT_IN_IDS = re.compile(r"[%\s\x00-\x1f\x7f-\x9f]|\A;")  # a line that begins with ;; is a comment


def ctm(transcript: Transcript) -> str:
    """A line a word, in milliseconds. Raises `SettingsError` for a transcript whose words have no times."""
    if transcript.words is None and transcript.text:
        raise SettingsError(
            f"format=ctm: {transcript.recording_id} has no times of words. They are there after a run with"
            " decoding.timestamps=word (and output.on_settings_change=redo, over an output without them)"
        )
    name = _NOT_IN_IDS.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), transcript.recording_id)
    lines = []
    for word in transcript.words or ():
        text = _BLANKS.sub("_", word.text.strip())
        if text:
            duration_s = max(word.end_s - word.start_s, 0.0)
            lines.append(f"{name} {CHANNEL} {word.start_s:.3f} {duration_s:.3f} {text} {word.probability:.3f}\n")
    return "".join(lines)
