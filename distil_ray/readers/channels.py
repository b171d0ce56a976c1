"""Which channels of a file are heard, and, with `input.channels=split`, one recording for each of them.

How many there are has to be known when the recordings are listed. A column `num_channels` (or `channels`) of the source
says it; else the decoder's process looks at each file's header, of a remote file at its first 256 KiB, and at all of it
only where these do not tell (an MP4 with its index at the end). Audio in compressed archives and in tables is read for
it. A file of one channel, and one whose header cannot be read, stays the recording that it was.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, count, groupby
from pathlib import Path

from distil_ray.audio.segments import AudioSegment
from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.readers.fetch import prefetch_files
from distil_ray.readers.location import read_unit_key, recording_version
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.storage.storage import Storage, StorageError, is_remote
from distil_ray.types import SAMPLE_RATE, AudioLocation, Recording

HEAD_BYTES = 1 << 18  # enough for the header of nearly everything
COLUMNS = ("num_channels", "channels")  # of a source's metadata: how many a file has
MAX_CHANNELS = 64  # recordings made of one file; a header that promises more is wrong
PROBE_MEMORY_MB, PROBE_TIMEOUT_S = 1024, 60.0  # of the process that looks at headers


def audio_segment_for(recording: Recording, channels: str) -> AudioSegment:
    """What of its file's sound a recording is; `channels` is `input.channels`."""
    location = recording.location or AudioLocation()
    channel = 0 if location.channel is None and channels == "first" else location.channel
    length = None if location.length_s is None else round(location.length_s * SAMPLE_RATE)
    return AudioSegment(round((location.start_s or 0.0) * SAMPLE_RATE), length, channel)


def split_channels(recordings: Iterable[Recording], storage: Storage) -> Iterator[Recording]:
    """The recordings, in order, with one for each channel in place of a file of several: ``call.wav#0``, ``#1``, …

    A reference is that of all channels, and stays with none. What names its channel already is left as it is.
    """
    with (
        tempfile.TemporaryDirectory(prefix="distil-ray-") as folder,
        closing(SubprocessDecoder(PROBE_MEMORY_MB, PROBE_TIMEOUT_S)) as decoder,
    ):
        looking = _Looking(storage, Path(folder), decoder)
        for packed, some in groupby(recordings, key=_is_packed):
            for together, number in (looking.at_packed if packed else looking.at_files)(some):
                for recording in together:
                    yield from _channels(recording, number)


def _channels(recording: Recording, number: int | None) -> Iterator[Recording]:
    location = recording.location or AudioLocation()
    if number is None or not 1 < number <= MAX_CHANNELS or location.channel is not None:
        yield recording
        return
    for channel in range(number):
        yield replace(
            recording,
            recording_id=f"{recording.recording_id}#{channel}",
            source_version=recording_version(recording.source_version, AudioLocation(channel=channel)),
            location=replace(location, channel=channel),
            reference=None,
        )


@dataclass(frozen=True, slots=True)
class _Look:
    """At recordings of the same bytes: how many channels they have, or where to look (`path`; `whole`: all of it)."""

    together: Sequence[Recording]
    number: int | None = None
    path: Path | None = None
    whole: bool = False


class _Looking:
    """Looks at what one listing holds: bytes are fetched ahead, headers read one after the other."""

    def __init__(self, storage: Storage, folder: Path, decoder: SubprocessDecoder) -> None:
        self._storage = storage
        self._folder = folder
        self._decoder = decoder
        self._names = count()

    def at_files(self, recordings: Iterator[Recording]) -> Iterator[tuple[Sequence[Recording], int | None]]:
        """Files, and ranges of files."""
        first = next(recordings)
        threads = num_request_threads(first.uri)
        same = (_Look(list(group)) for _, group in groupby(chain([first], recordings), key=_byte_range_key))
        heads = map(self._count, ordered_parallel_map(self._fetch_head, same, threads))
        for look in map(self._count, ordered_parallel_map(self._fetch_whole, heads, threads)):
            yield look.together, look.number

    def at_packed(self, recordings: Iterator[Recording]) -> Iterator[tuple[Sequence[Recording], int | None]]:
        """Members of compressed archives and cells of tables, all that share a read at once."""
        for _, unit in groupby(recordings, key=read_unit_key):
            together = list(unit)
            if all(_claimed_num_channels(recording) is not None for recording in together):
                yield from (([recording], _claimed_num_channels(recording)) for recording in together)
                continue
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                files = prefetch_files(together, {}, Path(folder), self._storage, threads=1)
                for recording, path in zip(together, files, strict=True):
                    yield [recording], self._look(path) if isinstance(path, Path) else None

    def _fetch_head(self, look: _Look) -> _Look:
        recording = look.together[0]
        location, size = recording.location or AudioLocation(), recording.source_size
        number = _claimed_num_channels(recording)
        if number is not None or recording.error is not None or location.channel is not None:
            return replace(look, number=number)
        if location.byte_start is None and not is_remote(recording.uri):
            return replace(look, path=Path(recording.uri), whole=True)
        start, size = (0, size) if location.byte_start is None else (location.byte_start, location.num_bytes)
        return look if size is None else self._fetch(look, start, min(size, HEAD_BYTES), whole=size <= HEAD_BYTES)

    def _fetch_whole(self, look: _Look) -> _Look:
        recording = look.together[0]
        location = recording.location or AudioLocation()
        if look.number is not None or look.whole or recording.error is not None or location.channel is not None:
            return look
        return self._fetch(look, location.byte_start or 0, location.num_bytes, whole=True)

    def _fetch(self, look: _Look, start: int, size: int | None, *, whole: bool) -> _Look:
        uri = look.together[0].uri
        target = self._folder / str(next(self._names))
        try:
            if size is None:
                self._storage.fetch(uri, target)
            else:
                self._storage.fetch_range(uri, start, size, target)
        except (StorageError, OSError):  # decoding will say it
            target.unlink(missing_ok=True)
            return look
        return replace(look, path=target, whole=whole)

    def _count(self, look: _Look) -> _Look:
        if look.path is None:
            return look
        number = self._look(look.path)
        if look.path.parent == self._folder:
            look.path.unlink()
        return replace(look, number=number, path=None)

    def _look(self, path: Path) -> int | None:
        facts = self._decoder.probe(str(path))
        return facts.num_channels if facts is not None else None


def _claimed_num_channels(recording: Recording) -> int | None:
    """How many channels the source says that there are."""
    said = next((recording.metadata[name] for name in COLUMNS if name in recording.metadata), "")
    return int(said) if said.isdecimal() and int(said) else None


def _is_packed(recording: Recording) -> bool:
    """Whether more has to be read than the bytes of this recording."""
    location = recording.location
    return location is not None and location.member is not None and location.byte_start is None


def _byte_range_key(recording: Recording) -> tuple[str, int | None]:
    return recording.uri, recording.location.byte_start if recording.location is not None else None
