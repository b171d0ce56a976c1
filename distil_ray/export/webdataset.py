"""Transcripts with their audio as a WebDataset: tar shards of bounded size, three members a recording.

    <key>.<extension>    the audio's bytes as they are in the source
    <key>.txt            the transcript
    <key>.json           all that is known of it (records.py), its id among it: keys are made of ids (names.py)

A shard is built in a local file and gets its name when it is complete; of the recordings only a few are on the local
disk at a time. Audio that has changed since it was transcribed is passed over: the text would not be its own.
"""

import re
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO

from distil_ray.audio.headers import is_mpeg
from distil_ray.export.account import Account
from distil_ray.export.names import sample_key
from distil_ray.export.records import jsonl
from distil_ray.export.targets import Target
from distil_ray.export.transcripts import Transcript
from distil_ray.sources.ahead import map_ahead, threads_for
from distil_ray.sources.fetch import fetch_ahead
from distil_ray.sources.formats import extension, is_audio_name
from distil_ray.sources.places import cut_of, is_unchanged
from distil_ray.storage import Storage, StorageError

BATCH = 500  # recordings whose audio is fetched as one sequence
MEGABYTE = 1_000_000

# What a file begins with, for names that do not tell. WebDataset's decoders go by the extension.
MAGIC = (
    (b"RIFF", "wav"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"FORM", "aiff"),
    (b".snd", "au"),
    (b"caff", "caf"),
    (b"#!AMR", "amr"),
    (b"\x1a\x45\xdf\xa3", "webm"),
)
OTHER = "audio"

_SHARD = re.compile(r"shard-(\d{6,})\.tar")


@dataclass(frozen=True, slots=True)
class _Sample:
    transcript: Transcript
    audio: Path

    def add_to(self, tar: tarfile.TarFile) -> None:
        key = sample_key(self.transcript.recording_id)
        with self.audio.open("rb") as file:
            member = f"{key}.{_extension(self.transcript, file)}"
            _add(tar, member, self.audio.stat().st_size, file)
        for suffix, text in (("txt", self.transcript.text), ("json", jsonl(self.transcript))):
            data = text.encode()
            _add(tar, f"{key}.{suffix}", len(data), BytesIO(data))


def write_shards(transcripts: Iterable[Transcript], target: Target, shard_mb: int, threads: int) -> Account:
    """Shards ``shard-000000.tar`` and on, begun anew when one has `shard_mb` MB; `threads` fetch audio meanwhile.

    Of an earlier, longer export the shards behind the last one are removed, where `target` may overwrite.
    """
    earlier = [name for name in target.names() if _SHARD.fullmatch(name)]
    if earlier and not target.overwrite:
        raise target.taken(min(earlier))
    account = Account()
    samples = _samples(transcripts, target.storage, threads, account)
    sample = next(samples, None)
    while sample is not None:
        name = _shard_name(account.num_files)
        with target.create(name) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            while sample is not None and not _is_full(tar, sample, shard_mb * MEGABYTE):
                sample.add_to(tar)
                account.count(sample.transcript, None)
                sample = next(samples, None)
        account.num_files += 1
    account.require_some()
    for name in set(earlier) - {_shard_name(number) for number in range(account.num_files)}:
        target.delete(name)
    return account


def _shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def _is_full(tar: tarfile.TarFile, sample: _Sample, limit: int) -> bool:
    """Whether the sample belongs into the next shard; one that is larger than a shard has one to itself."""
    return tar.offset > 0 and tar.offset + sample.audio.stat().st_size > limit


def _samples(transcripts: Iterable[Transcript], storage: Storage, threads: int, account: Account) -> Iterator[_Sample]:
    """Each with its audio on the local disk until the next one is asked for."""
    stream = iter(transcripts)
    while batch := list(islice(stream, BATCH)):
        there = _without_changed(batch, storage, account)
        with tempfile.TemporaryDirectory(prefix="distil-ray-") as folder:
            files = fetch_ahead([one.recording for one in there], {}, Path(folder), storage, threads)
            for transcript, fetched in zip(there, files, strict=True):
                if isinstance(fetched, StorageError):
                    account.count(transcript, _gone(fetched))
                else:
                    yield _Sample(transcript, fetched)


def _without_changed(batch: list[Transcript], storage: Storage, account: Account) -> list[Transcript]:
    """The transcripts whose files still are what was transcribed."""

    def reason_against(transcript: Transcript) -> str | None:
        if cut_of(transcript.recording.place):
            return "a part of its file's sound, whose bytes are not to be had alone"
        try:
            entry = storage.stat(transcript.recording.uri)
        except StorageError as error:
            return _gone(error)
        if entry is None:
            return "its audio is not there any more"
        return None if is_unchanged(transcript.recording, entry) else "its audio has changed since it was transcribed"

    reasons = list(map_ahead(reason_against, batch, threads_for(batch[0].recording.uri)))
    for transcript, reason in zip(batch, reasons, strict=True):
        if reason is not None:
            account.count(transcript, reason)
    return [transcript for transcript, reason in zip(batch, reasons, strict=True) if reason is None]


def _gone(error: StorageError) -> str:
    return f"its audio cannot be read any more ({error.kind})"


def _extension(transcript: Transcript, file: IO[bytes]) -> str:
    for name in (transcript.place.member or "", transcript.recording.uri):
        if is_audio_name(name):
            return extension(name)[1:]
    head = file.read(16)
    file.seek(0)
    if is_mpeg(head):
        return "mp3"
    if head[4:8] == b"ftyp":
        return "m4a"
    return next((known for magic, known in MAGIC if head.startswith(magic)), OTHER)


def _add(tar: tarfile.TarFile, name: str, size: int, data: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    tar.addfile(member, data)
