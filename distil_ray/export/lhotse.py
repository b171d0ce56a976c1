"""Transcripts as lhotse cuts: a line of JSON a recording, a MonoCut with one supervision.

Lhotse checks what it reads against the sampling rate and the channels that the manifest claims, and an output does not
keep them: the head of each file is read for them (audio/probe.py). A recording that is the mix of several channels is
a MultiCut of them all, because a MonoCut would be one of them.
"""

import tempfile
from math import floor
from typing import Any

from distil_ray.audio.probe import SoundFacts, probe
from distil_ray.export.records import as_line, require_file
from distil_ray.export.transcripts import NotExportableError, Transcript
from distil_ray.schema import Recording
from distil_ray.storage import Storage, StorageError, is_remote

HEAD_BYTES = 1 << 18  # enough for the header of nearly everything; of the rest the whole file is read


def cut(transcript: Transcript, storage: Storage) -> str:
    """A line of ``cuts.jsonl``. Raises `NotExportableError` for what it cannot name and what is not there any more."""
    require_file(transcript, "webdataset")
    facts = _facts(transcript.recording, storage)
    start_s, duration_s = transcript.place.start_s or 0.0, transcript.duration_s
    channels = list(range(facts.num_channels))
    channel: int | list[int] = channels[0] if len(channels) == 1 else channels
    if transcript.place.channel is not None:
        channel = transcript.place.channel
    name = transcript.recording_id
    supervision = {
        "id": name,
        "recording_id": name,
        "start": 0.0,
        "duration": duration_s,
        "channel": channel,
        "text": transcript.text,
        "language": transcript.recording.language,
        "speaker": transcript.recording.metadata.get("speaker"),
        "custom": {key: value for key, value in transcript.recording.metadata.items() if key != "speaker"} or None,
        "alignment": _alignment(transcript),
    }
    recording = {
        "id": name,
        "sources": [_source(transcript.recording.uri, channels)],
        "sampling_rate": facts.rate,
        "num_samples": floor((start_s + duration_s) * facts.rate + 0.5),  # as lhotse rounds
        "duration": start_s + duration_s,
        "channel_ids": channels,
    }
    return as_line(
        {
            "id": name,
            "start": start_s,
            "duration": duration_s,
            "channel": channel,
            "supervisions": [{key: value for key, value in supervision.items() if value is not None}],
            "recording": recording,
            "type": "MonoCut" if isinstance(channel, int) else "MultiCut",
        }
    )


def _source(uri: str, channels: list[int]) -> dict[str, Any]:
    return {"type": "url" if is_remote(uri) else "file", "channels": channels, "source": uri}


def _alignment(transcript: Transcript) -> dict[str, list[list[Any]]] | None:
    """Words with their times, as lhotse has them: symbol, start, duration, score."""
    if not transcript.words:
        return None
    words = (word for word in transcript.words if word.text.strip())
    return {"word": [[w.text.strip(), w.start_s, max(w.end_s - w.start_s, 0.0), w.probability] for w in words]}


def _facts(recording: Recording, storage: Storage) -> SoundFacts:
    """Rate and channels, from the head of the file or, where that does not tell, from all of it."""
    uri, size = recording.uri, recording.source_size
    try:
        if not is_remote(uri):
            with storage.open(uri):  # says in the store's words that it is gone
                facts = _probe(uri)
        else:
            with tempfile.TemporaryDirectory(prefix="distil-ray-") as folder:
                path = f"{folder}/audio"
                facts = None
                if size is not None:
                    storage.fetch_range(uri, 0, min(size, HEAD_BYTES), path)
                    facts = _probe(path)
                if facts is None:
                    storage.fetch(uri, path)
                    facts = _probe(path)
    except StorageError as error:
        raise NotExportableError(f"its audio cannot be read any more ({error.kind})") from error
    if facts is None:
        raise NotExportableError("its audio has no header that tells the sampling rate")
    return facts


def _probe(path: str) -> SoundFacts | None:
    with open(path, "rb") as file:
        return probe(file)
