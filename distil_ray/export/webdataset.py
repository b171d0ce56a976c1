"""Transcripts with their audio as a WebDataset: tar shards of bounded size, three members a recording.

    <key>.<extension>    the audio's bytes as they are in the source (of a segment or a channel: sound.py)
    <key>.txt            the transcript
    <key>.json           all that is known of it (records.py), its id among it: keys are made of ids (names.py)

A shard is built in a local file and gets its name when it is complete; of the recordings only a few are on the local
disk at a time. Audio that has changed since it was transcribed is passed over: the text would not be its own.
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
from distil_ray.export.audio import Sound, sound_of
from distil_ray.export.destinations import Account, Target, sample_key
from distil_ray.export.records import jsonl
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
    audio: Sound

    @property
    def num_bytes(self) -> int:
        return self.audio.path.stat().st_size

    def add_to(self, tar: tarfile.TarFile) -> None:
        key = sample_key(self.transcript.recording_id)
        with self.audio.path.open("rb") as file:
            add_member(tar, f"{key}.{self.audio.extension}", self.num_bytes, file)
        for suffix, text in (("txt", self.transcript.text), ("json", jsonl(self.transcript))):
            data = text.encode()
            add_member(tar, f"{key}.{suffix}", len(data), BytesIO(data))


def write_shards(transcripts: Iterable[Transcript], target: Target, shard_mb: int, config: Config) -> Account:
    """Shards ``shard-000000.tar`` and on, begun anew when one has `shard_mb` MB.

    Of an earlier, longer export the shards behind the last one are removed, where `target` may overwrite.
    """
    earlier = [name for name in target.names() if is_shard(name)]
    if earlier and not target.overwrite:
        raise target.taken(min(earlier))
    account = Account()
    samples = _samples(transcripts, target.storage, config, account)
    sample = next(samples, None)
    while sample is not None:
        name = shard_name(account.num_files)
        with target.create(name) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            while sample is not None and not _is_full(tar, sample, shard_mb * MEGABYTE):
                sample.add_to(tar)
                account.count(sample.transcript, None)
                sample = next(samples, None)
        account.num_files += 1
    account.require_some()
    for name in set(earlier) - {shard_name(number) for number in range(account.num_files)}:
        target.delete(name)
    return account


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def is_shard(name: str) -> bool:
    return _SHARD.fullmatch(name) is not None


def _is_full(tar: tarfile.TarFile, sample: _Sample, limit: int) -> bool:
    """Whether the sample belongs into the next shard; one that is larger than a shard has one to itself."""
    return tar.offset > 0 and tar.offset + sample.num_bytes > limit


def _samples(
    transcripts: Iterable[Transcript], storage: Storage, config: Config, account: Account
) -> Iterator[_Sample]:
    """Each with its audio on the local disk until the next one is asked for."""
    resources, stream = config.resources, iter(transcripts)
    with (
        tempfile.TemporaryDirectory(prefix="distil-ray-") as folder,
        closing(SubprocessDecoder(resources.decoder_memory_mb, resources.decoder_timeout_s)) as decoder,
    ):
        part = Path(folder) / "part.flac"
        while batch := list(islice(stream, BATCH)):
            for transcript, fetched in _fetched(_without_changed(batch, storage, account), storage, config):
                if isinstance(fetched, StorageError):
                    account.count(transcript, describe_read_error(fetched))
                    continue
                try:
                    audio = sound_of(transcript.recording, transcript.channels, fetched, decoder, part)
                    yield _Sample(transcript, audio)
                except NotExportableError as error:
                    account.count(transcript, str(error))


def _fetched(
    transcripts: Sequence[Transcript], storage: Storage, config: Config
) -> Iterator[tuple[Transcript, FetchResult]]:
    recordings = [one.recording for one in transcripts]
    with tempfile.TemporaryDirectory(prefix="distil-ray-") as folder:
        files = prefetch_files(recordings, {}, Path(folder), storage, config.storage.fetch_threads)
        yield from zip(transcripts, files, strict=True)


def _without_changed(batch: list[Transcript], storage: Storage, account: Account) -> list[Transcript]:
    """The transcripts whose files still are what was transcribed."""

    reasons = list(iter_audio_problems([transcript.recording for transcript in batch], storage))
    for transcript, reason in zip(batch, reasons, strict=True):
        if reason is not None:
            account.count(transcript, reason)
    return [transcript for transcript, reason in zip(batch, reasons, strict=True) if reason is None]


def add_member(tar: tarfile.TarFile, name: str, size: int, data: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    tar.addfile(member, data)
