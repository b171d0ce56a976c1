"""lhotse cuts, a JSON line per recording.

Each recording is a MonoCut with one supervision. Lhotse checks audio against the sampling rate and the channels of the
manifest, which an output does not store: they are read from the header of each file (`audio.AudioHeaders`). A recording
that is the mix of several channels is a MultiCut of all of them, because a MonoCut names a single channel.
"""

from math import floor
from typing import Any

from distil_ray.audio.probe import AudioInfo
from distil_ray.export.audio import AudioHeaders
from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.records import require_file, to_json_line
from distil_ray.export.transcripts import Transcript
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import is_remote


class CutWriter:
    """Renders cuts as lines of JSON."""

    def __init__(self, storage: Storage) -> None:
        self._headers = AudioHeaders(storage)

    def __call__(self, transcript: Transcript) -> str:
        """Returns the line of a transcript.

        Raises `NotExportableError` if a cut cannot name its audio, or it is gone.
        """
        require_file(transcript)
        facts = self._headers.read(transcript.recording.uri)
        channels = list(range(facts.num_channels))
        channel: int | list[int] = channels[0] if len(channels) == 1 else channels
        if transcript.channel is not None:
            channel = transcript.channel
        return to_json_line(
            {
                "id": transcript.recording_id,
                "start": transcript.location.start_s or 0.0,
                "duration": transcript.duration_s,
                "channel": channel,
                "supervisions": [_supervision(transcript, channel)],
                "recording": _recording(transcript, facts, channels),
                "type": "MonoCut" if isinstance(channel, int) else "MultiCut",
            }
        )


def _recording(transcript: Transcript, facts: AudioInfo, channels: list[int]) -> dict[str, Any]:
    """Returns the audio file of a cut. Its duration is what was decoded; for a segment, what the file's header says."""
    uri, duration_s = transcript.recording.uri, transcript.duration_s
    if transcript.location.start_s is not None:
        duration_s = max(facts.duration_s or 0.0, transcript.location.start_s + duration_s)
    return {
        "id": transcript.recording_id,
        "sources": [{"type": "url" if is_remote(uri) else "file", "channels": channels, "source": uri}],
        "sampling_rate": facts.rate,
        "num_samples": floor(duration_s * facts.rate + 0.5),  # as lhotse rounds
        "duration": duration_s,
        "channel_ids": channels,
    }


def _supervision(transcript: Transcript, channel: int | list[int]) -> dict[str, Any]:
    metadata = dict(transcript.recording.metadata)
    supervision = {
        "id": transcript.recording_id,
        "recording_id": transcript.recording_id,
        "start": 0.0,
        "duration": transcript.duration_s,
        "channel": channel,
        "text": transcript.text,
        "language": transcript.recording.language,
        "speaker": metadata.pop("speaker", None),
        "custom": metadata or None,
        "alignment": _alignment(transcript),
    }
    return {key: value for key, value in supervision.items() if value is not None}


def _alignment(transcript: Transcript) -> dict[str, list[list[Any]]] | None:
    """Returns the words in the format of lhotse: symbol, start, duration, score."""
    if not transcript.words:
        return None
    words = (word for word in transcript.words if word.text.strip())
    return {"word": [[w.text.strip(), w.start_s, max(w.end_s - w.start_s, 0.0), w.probability] for w in words]}


# lhotse detects the format of a file by its name
FORMAT = ExportFormat(Layout.LINES, ("cuts.jsonl.gz",), CutWriter, ("words",), reads_audio=True)
