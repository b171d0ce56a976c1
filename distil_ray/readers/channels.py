"""Channels of recordings: the channel to decode, and with ``input.channels=split`` a recording for each channel.

The recordings of one file's channels share a `Recording.call_id`, and `name_channels` gives them the speakers that
``input.channel_names`` names.

Splitting needs the number of channels when the recordings are listed. A column `num_channels` (or `channels`) of the
source gives it. Otherwise the decoder subprocess reads each file's header: of a remote file the first 256 KiB, and the
whole file only if these are not enough (an MP4 with its index at the end). Audio in compressed archives and in tables
has to be read for it. A file with one channel, or with a header that cannot be read, stays one recording.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, count, groupby
from pathlib import Path

from distil_ray.audio.segments import AudioSegment
from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.readers.columns import SPEAKER
from distil_ray.readers.fetch import prefetch_files
from distil_ray.readers.location import read_unit_key, recording_version
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import is_remote
from distil_ray.types import SAMPLE_RATE, AudioLocation, Recording

HEAD_BYTES = 1 << 18  # enough for the header of nearly everything
COLUMNS = ("num_channels", "channels")  # of a source's metadata: how many a file has
MAX_CHANNELS = 64  # recordings made of one file; a header that promises more is wrong
PROBE_MEMORY_MB, PROBE_TIMEOUT_S = 1024, 60.0  # of the process that looks at headers


def audio_segment_for(recording: Recording, channels: str) -> AudioSegment:
    """Returns the part of the file's audio that a recording is; `channels` is the setting ``input.channels``."""
    location = recording.location or AudioLocation()
    channel = 0 if location.channel is None and channels == "first" else location.channel
    length = None if location.length_s is None else round(location.length_s * SAMPLE_RATE)
    return AudioSegment(round((location.start_s or 0.0) * SAMPLE_RATE), length, channel)


def split_channels(recordings: Iterable[Recording], storage: Storage) -> Iterator[Recording]:
    """Yields the recordings in order, a file with several channels as one for each: ``call.wav#0``, ``#1``, …

    A reference and a speaker belong to all channels together, so none of them keeps these. All have the file's
    `call_id`, by default its id. A recording that names its channel is unchanged.
    """
    with (
        tempfile.TemporaryDirectory(prefix="distil-ray-") as folder,
        closing(SubprocessDecoder(PROBE_MEMORY_MB, PROBE_TIMEOUT_S)) as decoder,
    ):
        counter = _ChannelCounter(storage, Path(folder), decoder)
        for packed, some in groupby(recordings, key=_is_packed):
            for together, number in (counter.count_packed if packed else counter.count_files)(some):
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
            call_id=recording.call_id or recording.recording_id,
            reference=None,
            metadata={key: value for key, value in recording.metadata.items() if key != SPEAKER},
        )


def name_channels(recordings: Iterable[Recording], names: Sequence[str]) -> Iterator[Recording]:
    """Yields the recordings in order, a channel of a file with its name as the metadata ``speaker``.

    A recording that has a speaker, is no channel of a file, or whose channel has no name, is unchanged.

    Args:
        recordings: The recordings.
        names: The names of the channels 0, 1, ….
    """
    for recording in recordings:
        channel = recording.location.channel if recording.location else None
        if channel is None or channel >= len(names) or SPEAKER in recording.metadata:
            yield recording
        else:
            yield replace(recording, metadata={**recording.metadata, SPEAKER: names[channel]})


@dataclass(frozen=True, slots=True)
class _Probe:
    """The number of channels of recordings that share their bytes.

    Attributes:
        together: The recordings.
        number: Number of channels; None if it is not known yet.
        path: Local file with the header; None if there is none to read.
        whole: `path` is the whole file.
    """

    together: Sequence[Recording]
    number: int | None = None
    path: Path | None = None
    whole: bool = False


class _ChannelCounter:
    """Counts the channels of the recordings of one listing: bytes are fetched in parallel, headers read one by one."""

    def __init__(self, storage: Storage, folder: Path, decoder: SubprocessDecoder) -> None:
        self._storage = storage
        self._folder = folder
        self._decoder = decoder
        self._names = count()

    def count_files(self, recordings: Iterator[Recording]) -> Iterator[tuple[Sequence[Recording], int | None]]:
        """Yields the number of channels of files and of byte ranges of files."""
        first = next(recordings)
        threads = num_request_threads(first.uri)
        same = (_Probe(list(group)) for _, group in groupby(chain([first], recordings), key=_byte_range_key))
        heads = map(self._count, ordered_parallel_map(self._fetch_head, same, threads))
        for probe in map(self._count, ordered_parallel_map(self._fetch_whole, heads, threads)):
            yield probe.together, probe.number

    def count_packed(self, recordings: Iterator[Recording]) -> Iterator[tuple[Sequence[Recording], int | None]]:
        """Yields the number of channels of archive members and table cells. Those of one read unit are read at once."""
        for _, unit in groupby(recordings, key=read_unit_key):
            together = list(unit)
            if all(_claimed_num_channels(recording) is not None for recording in together):
                yield from (([recording], _claimed_num_channels(recording)) for recording in together)
                continue
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                files = prefetch_files(together, {}, Path(folder), self._storage, threads=1)
                for recording, path in zip(together, files, strict=True):
                    yield [recording], self._read_header(path) if isinstance(path, Path) else None

    def _fetch_head(self, probe: _Probe) -> _Probe:
        recording = probe.together[0]
        location, size = recording.location or AudioLocation(), recording.source_size
        number = _claimed_num_channels(recording)
        if number is not None or recording.error is not None or location.channel is not None:
            return replace(probe, number=number)
        if location.byte_start is None and not is_remote(recording.uri):
            return replace(probe, path=Path(recording.uri), whole=True)
        start, size = (0, size) if location.byte_start is None else (location.byte_start, location.num_bytes)
        return probe if size is None else self._fetch(probe, start, min(size, HEAD_BYTES), whole=size <= HEAD_BYTES)

    def _fetch_whole(self, probe: _Probe) -> _Probe:
        recording = probe.together[0]
        location = recording.location or AudioLocation()
        if probe.number is not None or probe.whole or recording.error is not None or location.channel is not None:
            return probe
        return self._fetch(probe, location.byte_start or 0, location.num_bytes, whole=True)

    def _fetch(self, probe: _Probe, start: int, size: int | None, *, whole: bool) -> _Probe:
        uri = probe.together[0].uri
        target = self._folder / str(next(self._names))
        try:
            if size is None:
                self._storage.fetch(uri, target)
            else:
                self._storage.fetch_range(uri, start, size, target)
        except (StorageError, OSError):  # decoding reports it
            target.unlink(missing_ok=True)
            return probe
        return replace(probe, path=target, whole=whole)

    def _count(self, probe: _Probe) -> _Probe:
        if probe.path is None:
            return probe
        number = self._read_header(probe.path)
        if probe.path.parent == self._folder:
            probe.path.unlink()
        return replace(probe, number=number, path=None)

    def _read_header(self, path: Path) -> int | None:
        info = self._decoder.probe(str(path))
        return info.num_channels if info is not None else None


def _claimed_num_channels(recording: Recording) -> int | None:
    """Returns the number of channels that the source claims."""
    claimed = next((recording.metadata[name] for name in COLUMNS if name in recording.metadata), "")
    return int(claimed) if claimed.isdecimal() and int(claimed) else None


def _is_packed(recording: Recording) -> bool:
    """Returns whether more than the recording's own bytes has to be read."""
    location = recording.location
    return location is not None and location.member is not None and location.byte_start is None


def _byte_range_key(recording: Recording) -> tuple[str, int | None]:
    return recording.uri, recording.location.byte_start if recording.location is not None else None
