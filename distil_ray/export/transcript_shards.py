"""Transcripts with their audio as WebDataset tar shards of bounded size, three members per recording.

    <key>.<extension>    the audio's bytes as they are in the source (of a segment or a channel: FLAC,
    `audio.prepare_audio`) <key>.txt            the transcript <key>.json           every known field
    (`records.full_record`), with the recording id that the key is made of

A shard appears when it is complete. Only a few recordings are on the local disk at a time. Audio that has changed since
it was transcribed is skipped, because the text would not match it.
"""

import re
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO

from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.config import Config
from distil_ray.export.audio import AudioFile, prepare_audio
from distil_ray.export.destinations import ExportCounts, Target, sample_key
from distil_ray.export.records import full_record, to_json_line
from distil_ray.export.transcripts import NotExportableError, Transcript
from distil_ray.readers.fetch import FetchResult, prefetch_files
from distil_ray.readers.location import describe_read_error, iter_audio_problems
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError

BATCH = 500  # recordings whose audio is fetched as one sequence
MEGABYTE = 1_000_000

_SHARD = re.compile(r"shard-(\d{6,})\.tar")


@dataclass(frozen=True, slots=True)
class _Sample:
    transcript: Transcript
    audio: AudioFile

    @property
    def num_bytes(self) -> int:
        return self.audio.path.stat().st_size

    def add_to(self, tar: tarfile.TarFile) -> None:
        key = sample_key(self.transcript.recording_id)
        with self.audio.path.open("rb") as file:
            add_member(tar, f"{key}.{self.audio.extension}", self.num_bytes, file)
        for suffix, text in (("txt", self.transcript.text), ("json", to_json_line(full_record(self.transcript)))):
            data = text.encode()
            add_member(tar, f"{key}.{suffix}", len(data), BytesIO(data))


def write_shards(transcripts: Iterable[Transcript], target: Target, shard_mb: int, config: Config) -> ExportCounts:
    """Writes the shards ``shard-000000.tar`` and following.

    Args:
        transcripts: The recordings to write.
        target: Folder of the shards. Shards of an earlier, longer export are removed if it may overwrite.
        shard_mb: MB (10^6 bytes) after which a new shard is begun.
        config: Provides `resources` and `storage`.

    Raises:
        SettingsError: There are shards that must not be replaced.
        RunError: No recording could be exported.
    """
    earlier = [name for name in target.names() if is_shard(name)]
    if earlier and not target.overwrite:
        raise target.exists_error(min(earlier))
    counts = ExportCounts()
    samples = _samples(transcripts, target.storage, config, counts)
    sample = next(samples, None)
    while sample is not None:
        name = shard_name(counts.num_files)
        with target.create(name) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            while sample is not None and not _is_full(tar, sample, shard_mb * MEGABYTE):
                sample.add_to(tar)
                counts.add(sample.transcript, None)
                sample = next(samples, None)
        counts.num_files += 1
    counts.require_some()
    for name in set(earlier) - {shard_name(number) for number in range(counts.num_files)}:
        target.delete(name)
    return counts


def shard_name(number: int) -> str:
    """Returns the file name of a shard."""
    return f"shard-{number:06d}.tar"


def is_shard(name: str) -> bool:
    """Returns whether a file name is one of `shard_name`."""
    return _SHARD.fullmatch(name) is not None


def _is_full(tar: tarfile.TarFile, sample: _Sample, limit: int) -> bool:
    """Returns whether the sample has to go to the next shard. A sample larger than a shard gets its own."""
    return tar.offset > 0 and tar.offset + sample.num_bytes > limit


def _samples(
    transcripts: Iterable[Transcript], storage: Storage, config: Config, counts: ExportCounts
) -> Iterator[_Sample]:
    """Yields samples, each with its audio on the local disk until the next one is requested."""
    resources, stream = config.resources, iter(transcripts)
    with (
        tempfile.TemporaryDirectory(prefix="distil-ray-") as folder,
        closing(SubprocessDecoder(resources.decoder_memory_mb, resources.decoder_timeout_s)) as decoder,
    ):
        part = Path(folder) / "part.flac"
        while batch := list(islice(stream, BATCH)):
            for transcript, fetched in _fetched(_without_changed(batch, storage, counts), storage, config):
                if isinstance(fetched, StorageError):
                    counts.add(transcript, describe_read_error(fetched))
                    continue
                try:
                    audio = prepare_audio(
                        transcript.recording, transcript.channels, fetched, decoder, part, transcript.silences
                    )
                    yield _Sample(transcript, audio)
                except NotExportableError as error:
                    counts.add(transcript, str(error))


def _fetched(
    transcripts: Sequence[Transcript], storage: Storage, config: Config
) -> Iterator[tuple[Transcript, FetchResult]]:
    recordings = [one.recording for one in transcripts]
    with tempfile.TemporaryDirectory(prefix="distil-ray-") as folder:
        files = prefetch_files(recordings, {}, Path(folder), storage, config.storage.fetch_threads)
        yield from zip(transcripts, files, strict=True)


def _without_changed(batch: list[Transcript], storage: Storage, counts: ExportCounts) -> list[Transcript]:
    """Returns the transcripts whose audio has not changed since it was transcribed."""
    reasons = list(iter_audio_problems([transcript.recording for transcript in batch], storage))
    for transcript, reason in zip(batch, reasons, strict=True):
        if reason is not None:
            counts.add(transcript, reason)
    return [transcript for transcript, reason in zip(batch, reasons, strict=True) if reason is None]


def add_member(tar: tarfile.TarFile, name: str, size: int, data: IO[bytes]) -> None:
    """Adds a member of `size` bytes to a tar file."""
    member = tarfile.TarInfo(name)
    member.size = size
    tar.addfile(member, data)
