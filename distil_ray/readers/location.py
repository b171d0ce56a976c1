"""The part of a file that a recording is: its identity, its name in messages, and what has to be read for it.

An `AudioLocation` says which bytes and which seconds of a file a recording is. Reading it may mean reading more: a
compressed archive is read from its start, a table column by row groups, a long file once for all of its segments.
Recordings that share such a read have the same `read_unit_key`. The plan keeps them in one task and in their order, and
`fetch` reads them together. Recordings that are byte ranges of one file (`byte_range_file`), such as members of a plain
tar, can be read one by one; the plan keeps neighbors together, because `fetch` reads them with one request.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from distil_ray.errors import ErrorKind
from distil_ray.readers.audio_formats import estimate_duration_s, is_audio_name
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.redaction import redact
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.types import AudioLocation, Recording

REMAINDER_SUFFIX = "#rest"  # behind a file's name
PROMPT_MARK = "!prompt-"  # in a version, before the hash of the prompt


def read_unit_key(recording: Recording) -> str | None:
    """Returns a key that is equal for recordings that need the same read; None if no other recording can share it."""
    location = recording.location
    if location is None or location.byte_start is not None or recording.error is not None:
        return None
    if location.row_group is not None:
        return f"{recording.uri} {location.member} {location.row_group}"
    return recording.uri


def byte_range_file(recording: Recording) -> str | None:
    """Returns the URI of the file that the recording is a byte range of; None for all other recordings."""
    location = recording.location
    return recording.uri if location is not None and location.byte_start is not None and not recording.error else None


def listed_file_version(recording: Recording) -> str | None:
    """Returns the version that the recording's file had when it was listed; None if it is not known."""
    if recording.source_version is None:
        return None
    version, _, _ = recording.source_version.partition(PROMPT_MARK)
    return version.removesuffix(format_audio_range(recording.location)) or None


def display_name(recording: Recording) -> str:
    """Returns the recording's name for messages: its URI, and after a colon which part of the file it is."""
    location = recording.location
    if location is None:
        return recording.uri
    parts = [location.member] if location.member is not None else []
    if location.row_group is not None:
        parts.append(f"row {location.row} of row group {location.row_group}")
    if location.start_s is not None:
        parts.append(
            f"from {location.start_s:g} s" + ("" if location.length_s is None else f", {location.length_s:g} s long")
        )
    if location.channel is not None:
        parts.append(f"channel {location.channel}")
    return f"{recording.uri}: {', '.join(parts)}"


def recording_version(version: str | None, location: AudioLocation | None) -> str | None:
    """Returns the version of a recording in a file of `version`: each audio range of a file has its own."""
    return None if version is None else version + format_audio_range(location)


def add_prompt_to_version(recording: Recording) -> Recording:
    """Returns the recording with a hash of its prompt in its version: a changed prompt is a changed recording."""
    if recording.prompt is None:
        return recording
    content = ascii((recording.prompt.text, recording.prompt.hotwords)).encode()
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    return replace(recording, source_version=f"{recording.source_version or ''}{PROMPT_MARK}{digest}")


def has_own_prompt(recording: Recording) -> bool:
    """Returns whether the input stated a prompt for the recording, by its version."""
    return PROMPT_MARK in (recording.source_version or "")


def format_audio_range(location: AudioLocation | None) -> str:
    """Returns the part of a file's audio as text, such as ``@12.5+3#0``: from 12.5 s, 3 s long, channel 0.

    The text is empty for the whole file.
    """
    cut = ""
    if location is None:
        return cut
    if location.start_s is not None or location.length_s is not None:
        cut += f"@{_plain(location.start_s or 0)}" + (
            "" if location.length_s is None else f"+{_plain(location.length_s)}"
        )
    if location.channel is not None:
        cut += f"#{location.channel}"
    return cut


def _plain(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")  # microseconds, less than a sample


def relative_id(root: str, uri: str) -> str:
    """Returns the id of a file: its path below the root of the input.

    The id stays the same when the corpus is copied to another place.
    """
    return uri.removeprefix(root.rstrip("/") + "/")


def failed_remainder(file: Entry, name: str, kind: ErrorKind, words: str) -> Recording:
    """Returns the failed recording that stands for all recordings of a file that cannot be read.

    Args:
        file: The container.
        name: The container's name in the ids of its recordings.
        kind: Kind of the error.
        words: What is wrong.
    """
    return Recording(
        name + REMAINDER_SUFFIX, file.uri, source_version=file.version, error_kind=kind, error=redact(words)
    )


def unread_file(recording: Recording) -> str | None:
    """Returns the URI of the file that a recording of `failed_remainder` stands for; None for all other recordings.

    The file may hold any recordings beside those that are listed. The URI is without credentials, as in transcripts.
    """
    stands_for_others = recording.error is not None and recording.recording_id.endswith(REMAINDER_SUFFIX)
    return redact(recording.uri) if stands_for_others else None


def estimate_recording_duration_s(recording: Recording) -> float:
    """Returns the duration of a recording in seconds, for the plan.

    It is the duration that the source claims, else an estimate from name and size; 0 if the recording has an error.
    """
    location = recording.location
    if recording.error is not None:
        return 0.0
    if recording.duration_s is not None:
        return recording.duration_s
    if location is None:
        return estimate_duration_s(recording.uri, recording.source_size)
    if location.length_s is not None:
        return location.length_s
    size = recording.source_size if recording.source_size is not None else location.num_bytes
    names = [name for name in (location.member, recording.recording_id) if name is not None and is_audio_name(name)]
    return estimate_duration_s(names[0] if names else recording.uri, size)


def is_unchanged(recording: Recording, file: Entry) -> bool:
    """Returns whether `file`, which is at the recording's URI now, is the file that the recording was listed from."""
    listed, _, _ = (recording.source_version or "").partition(PROMPT_MARK)
    if listed != (recording_version(file.version, recording.location) or ""):
        return False
    is_part = recording.location is not None and recording.location.member is not None
    return is_part or recording.source_size == file.size


def iter_audio_problems(recordings: Sequence[Recording], storage: Storage) -> Iterator[str | None]:
    """Yields, for each recording in order, why its audio cannot be read again; None if it can."""

    def look(recording: Recording) -> str | None:
        try:
            entry = storage.stat(recording.uri)
        except StorageError as error:
            return describe_read_error(error)
        if entry is None:
            return "its audio no longer exists"
        return None if is_unchanged(recording, entry) else "its audio has changed since it was transcribed"

    return ordered_parallel_map(look, recordings, num_request_threads(recordings[0].uri) if recordings else 1)


def describe_read_error(error: StorageError) -> str:
    """Returns the reason for a recording whose audio cannot be read again."""
    return f"its audio cannot be read any more ({error.kind})"
