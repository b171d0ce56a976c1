"""Which part of a file a recording is: what follows from it for identity, for messages, and for what is read together.

A `Place` (schema.py) says where the bytes and the sound lie. Reading one may mean reading more than it: a compressed
archive is read from its start, a column of a table by row groups, a long file once for all of its segments. Recordings
that share such a read are a unit: the plan keeps them in one task and in their order, and fetch.py reads them at once.
"""

from distil_ray.errors import ErrorKind
from distil_ray.readers.audio_formats import estimate_duration_s, is_audio_name
from distil_ray.redaction import redact
from distil_ray.schema import Place, Recording
from distil_ray.storage.storage import Entry

REST = "#rest"  # behind a file's name


def unit_of(recording: Recording) -> str | None:
    """The name of what has to be read for this recording, if others may need the same; None if it stands alone."""
    place = recording.place
    if place is None or place.byte_start is not None or recording.error is not None:
        return None
    if place.row_group is not None:
        return f"{recording.uri} {place.member} {place.row_group}"
    return recording.uri


def named(recording: Recording) -> str:
    """The recording for messages: its URI, and behind a colon what of it."""
    place = recording.place
    if place is None:
        return recording.uri
    parts = [place.member] if place.member is not None else []
    if place.row_group is not None:
        parts.append(f"row {place.row} of row group {place.row_group}")
    if place.start_s is not None:
        parts.append(f"from {place.start_s:g} s" + ("" if place.length_s is None else f", {place.length_s:g} s long"))
    if place.channel is not None:
        parts.append(f"channel {place.channel}")
    return f"{recording.uri}: {', '.join(parts)}"


def version_of(version: str | None, place: Place | None) -> str | None:
    """The version of a recording whose file has `version`: another cut of the same file is another version."""
    return None if version is None else version + cut_of(place)


def cut_of(place: Place | None) -> str:
    """What of a file's sound a place takes, such as ``@12.5+3#0``: from 12.5 s, 3 s long, channel 0. Empty for all."""
    cut = ""
    if place is None:
        return cut
    if place.start_s is not None or place.length_s is not None:
        cut += f"@{_plain(place.start_s or 0)}" + ("" if place.length_s is None else f"+{_plain(place.length_s)}")
    if place.channel is not None:
        cut += f"#{place.channel}"
    return cut


def _plain(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")  # microseconds, less than a sample


def id_below(root: str, uri: str) -> str:
    """The id of what lies below an input's root: the path from there on, the same wherever the corpus is copied to."""
    return uri.removeprefix(root.rstrip("/") + "/")


def rest_of(file: Entry, name: str, kind: ErrorKind, words: str) -> Recording:
    """What stands for all of a file of many recordings that cannot be had; `name` is the file's in their ids."""
    return Recording(name + REST, file.uri, source_version=file.version, error_kind=kind, error=redact(words))


def likely_duration_s(recording: Recording) -> float:
    """Seconds that a recording lasts: what its source claims, else a guess by its name and size; 0 if it is lost."""
    place = recording.place
    if recording.error is not None:
        return 0.0
    if recording.duration_s is not None:
        return recording.duration_s
    if place is None:
        return estimate_duration_s(recording.uri, recording.source_size)
    if place.length_s is not None:
        return place.length_s
    size = recording.source_size if recording.source_size is not None else place.num_bytes
    names = [name for name in (place.member, recording.recording_id) if name is not None and is_audio_name(name)]
    return estimate_duration_s(names[0] if names else recording.uri, size)


def is_unchanged(recording: Recording, file: Entry) -> bool:
    """Whether `file`, what stands at the recording's URI now, is what the recording was listed from."""
    if recording.source_version != version_of(file.version, recording.place):
        return False
    is_part = recording.place is not None and recording.place.member is not None
    return is_part or recording.source_size == file.size
