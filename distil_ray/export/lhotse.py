"""Transcripts as lhotse cuts: a line of JSON a recording, a MonoCut with one supervision.

Lhotse checks what it reads against the sampling rate and the channels that the manifest claims, and an output does not
keep them: the header of each file is read for them (headers.py). A recording that is the mix of several channels is
a MultiCut of them all, because a MonoCut would be one of them.
"""

from math import floor
from typing import Any

from distil_ray.audio.probe import AudioInfo
from distil_ray.export.audio import Headers
from distil_ray.export.records import as_line, require_file
from distil_ray.export.transcripts import Transcript
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import is_remote


class Cuts:
    """Makes the lines of ``cuts.jsonl``."""

    def __init__(self, storage: Storage) -> None:
        self._headers = Headers(storage)

    def __call__(self, transcript: Transcript) -> str:
        """Raises `NotExportableError` for what a cut cannot name, and for audio that is not there any more."""
        require_file(transcript)
        facts = self._headers.of(transcript.recording.uri)
        channels = list(range(facts.num_channels))
        channel: int | list[int] = channels[0] if len(channels) == 1 else channels
        if transcript.channel is not None:
            channel = transcript.channel
        return as_line(
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
    """The file that the cut is of: as long as was decoded, and of a segment as long as its header says."""
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
    """Words with their times, as lhotse has them: symbol, start, duration, score."""
    if not transcript.words:
        return None
    words = (word for word in transcript.words if word.text.strip())
    return {"word": [[w.text.strip(), w.start_s, max(w.end_s - w.start_s, 0.0), w.probability] for w in words]}
