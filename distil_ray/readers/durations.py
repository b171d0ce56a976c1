"""Durations of recordings for the plan: stated by the input, read from headers, or estimated from sizes.

Headers are read of what the input states no duration for. WAV and FLAC have it in their first kilobytes, which one
ranged read fetches, also of a remote file or of a member of an archive. Headers of other formats are read of local
files only, by the decoder subprocess, because parsers may crash on them; their duration may be at the end of the file.

Reading is limited to `budget_s` seconds in all and to `MAX_REMOTE_READS` requests, so that a corpus of millions of
files is still planned in minutes. The remaining durations are estimated from sizes, corrected by the ratio that the
headers read so far gave for the same extension.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from distil_ray.audio.headers import read_wav_layout
from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.readers.audio_formats import extension
from distil_ray.readers.location import estimate_recording_duration_s
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import is_remote
from distil_ray.types import Recording

HEAD_BYTES = 4096  # for WAV and FLAC; files with pictures before their samples need more, and are estimated
BUDGET_S = 20.0
MAX_REMOTE_READS = 1000
MIN_RATIO_S = 60.0  # audio of headers of one extension from which its ratio counts
PROBE_MEMORY_MB, PROBE_TIMEOUT_S = 1024, 10.0
STREAMINFO_BYTES = 26  # of FLAC, up to the number of samples


@dataclass(frozen=True, slots=True)
class Duration:
    """Duration of a recording.

    Attributes:
        seconds: Audio seconds; 0 for a recording with an error.
        is_known: Whether the input or a header states it.
    """

    seconds: float
    is_known: bool


class DurationReader:
    """Reads the durations of recordings. A context manager: it may own a subprocess.

    Args:
        storage: Access to the files.
        budget_s: Seconds of reading headers, in all.
        clock: Monotonic clock.
    """

    def __init__(
        self, storage: Storage, budget_s: float = BUDGET_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._storage = storage
        self._left_s = budget_s
        self._clock = clock
        self._remote_reads = 0
        self._decoder = SubprocessDecoder(PROBE_MEMORY_MB, PROBE_TIMEOUT_S)
        self._found: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])  # by extension: header, size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoder.close()

    def read(self, recordings: Sequence[Recording]) -> list[Duration]:
        """Returns the duration of each recording, in order."""
        began_s = self._clock()
        until_s = began_s + self._left_s
        unknown = [one for one in recordings if _needs_header(one)]
        threads = num_request_threads(unknown[0].uri) if unknown else 1
        headers = ordered_parallel_map(lambda one: self._read_header(one, until_s), unknown, threads)
        seconds = {id(one): found for one, found in zip(unknown, headers, strict=True) if found is not None}
        for one in unknown:
            if (found := seconds.get(id(one))) is not None and (by_size := estimate_recording_duration_s(one)):
                totals = self._found[_extension(one)]
                totals[0], totals[1] = totals[0] + found, totals[1] + by_size
        self._left_s = max(0.0, self._left_s - (self._clock() - began_s))
        return [self._duration(one, seconds.get(id(one))) for one in recordings]

    def _duration(self, recording: Recording, from_header: float | None) -> Duration:
        if from_header is not None:
            return Duration(from_header, True)
        seconds = estimate_recording_duration_s(recording)
        if not _needs_header(recording):
            return Duration(seconds, recording.error is None and (_has_length(recording)))
        header_s, by_size_s = self._found.get(_extension(recording), (0.0, 0.0))
        return Duration(seconds * header_s / by_size_s if header_s >= MIN_RATIO_S else seconds, False)

    def _read_header(self, recording: Recording, until_s: float) -> float | None:
        """Returns the duration by the header; None if it has none, or if the budget is used up."""
        if self._clock() >= until_s:
            return None
        if is_remote(recording.uri):
            self._remote_reads += 1
            if self._remote_reads > MAX_REMOTE_READS:
                return None
        location = recording.location
        start = location.byte_start if location is not None and location.byte_start is not None else 0
        size = recording.source_size if location is None else location.num_bytes
        if size:
            try:
                head = self._storage.read_range(recording.uri, start, min(size, HEAD_BYTES))
            except (StorageError, OSError):  # the decode stage reports it
                return None
            if (seconds := _duration_in_head(head, size)) is not None:
                return seconds
        if location is not None or is_remote(recording.uri):
            return None
        info = self._decoder.probe(recording.uri)
        return info.duration_s if info is not None else None


def _duration_in_head(head: bytes, size: int) -> float | None:
    """Returns the seconds of a WAV or FLAC of `size` bytes that begins with `head`; None for another file."""
    if (layout := read_wav_layout(head)) is not None:
        return max(0, size - layout.first_byte) / layout.frame_bytes / layout.rate
    if head[:4] != b"fLaC" or len(head) < STREAMINFO_BYTES:
        return None
    packed = int.from_bytes(head[18:26], "big")  # rate: 20 bits, channels: 3, bits of a sample: 5, samples: 36
    rate, samples = packed >> 44, packed & ((1 << 36) - 1)
    return samples / rate if rate and samples else None


def _has_length(recording: Recording) -> bool:
    location = recording.location
    return recording.duration_s is not None or (location is not None and location.length_s is not None)


def _needs_header(recording: Recording) -> bool:
    """Returns whether the header of a whole file, or of a range of bytes, would give the duration."""
    location = recording.location
    if recording.error is not None or _has_length(recording):
        return False
    if location is None:
        return True
    return location.byte_start is not None and location.start_s is None


def _extension(recording: Recording) -> str:
    location = recording.location
    return extension((location.member if location is not None else None) or recording.uri)
