"""Where an export is written: one file a recording, or one file of lines for all of them.

Every file appears whole or not at all, and none that was there before is touched unless `overwrite` says so. The same
export can be run again over itself: files that hold the same bytes are no obstacle.
"""

import gzip
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, cast

from distil_ray.errors import RunError, SettingsError
from distil_ray.export.counts import Account
from distil_ray.export.cues import one_line
from distil_ray.export.file_names import file_name
from distil_ray.export.transcripts import NotExportableError, Transcript
from distil_ray.readers.ordered_iteration import ordered_parallel_map
from distil_ray.storage.storage import Storage, join

WRITERS = 16  # files under way: a disk that is asked to keep each one makes the writer wait, as a store does

Form = Callable[[Transcript], str]  # the text of a file, or the lines in one; may raise NotExportableError


@dataclass(frozen=True, slots=True)
class Target:
    """A folder to write to."""

    folder: str
    storage: Storage
    overwrite: bool

    def put(self, name: str, data: bytes) -> None:
        """Raises `SettingsError` if a file of that name holds something else."""
        uri = join(self.folder, name)
        if self.overwrite:
            self.storage.put(uri, data)
        elif not self.storage.put_new(uri, data) and self.storage.read(uri) != data:
            raise self.taken(name)

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write to, which gets its name when the block has ended. Raises `SettingsError` if it is there."""
        uri = join(self.folder, name)
        if not self.overwrite and self.storage.stat(uri) is not None:
            raise self.taken(name)
        with self.storage.create(uri) as file:
            yield file

    def names(self) -> list[str]:
        """The files that are there, below the folder."""
        return [entry.uri.removeprefix(f"{self.folder}/") for entry in self.storage.list_files(self.folder)]

    def delete(self, name: str) -> None:
        self.storage.delete(join(self.folder, name))

    def taken(self, name: str) -> SettingsError:
        return SettingsError(
            f"to={self.folder}: there is a file {name} already, which was left as it is. Take another folder, or"
            " overwrite=true if it may be replaced."
        )


def with_text(render: Form, name: str) -> Form:
    """Returns `render`, which then raises `RunError` where nothing of a recording's text is in what it returns."""

    def checked(transcript: Transcript) -> str:
        found = render(transcript)
        if one_line(transcript.text) and found == render(_without_text(transcript)):
            raise RunError(
                f"format={name}: {transcript.recording_id} has a text, but nothing of it would be written: its row has"
                f" no segments, words or chunks that hold the text, or no duration (duration_s is"
                f" {transcript.duration_s:g}). Take its row out of the output and transcribe it again"
            )
        return found

    return checked


def _without_text(transcript: Transcript) -> Transcript:
    segments, words = (None if spans is None else () for spans in (transcript.segments, transcript.words))
    return replace(transcript, text="", segments=segments, words=words, chunks=())


def write_files(form: Form, extension: str, transcripts: Iterable[Transcript], target: Target) -> Account:
    """One file a recording, named after its id."""
    account = Account()

    def write(transcript: Transcript) -> tuple[Transcript, str | None]:
        try:
            target.put(file_name(transcript.recording_id, extension), form(transcript).encode())
        except NotExportableError as error:
            return transcript, str(error)
        return transcript, None

    for transcript, reason in ordered_parallel_map(write, transcripts, WRITERS):
        account.count(transcript, reason)
    account.num_files = account.num_exported
    return account


def write_lines(form: Form, name: str, transcripts: Iterable[Transcript], target: Target, threads: int) -> Account:
    """All recordings in one file, gzipped if its name says so; none if no recording could be exported.

    `threads`: how many of them are worked on at once, for forms that look at the audio.
    """
    account = Account(num_files=1)

    def lines(transcript: Transcript) -> tuple[Transcript, str, str | None]:
        try:
            return transcript, form(transcript), None
        except NotExportableError as error:
            return transcript, "", str(error)

    with target.create(name) as file:
        sink = gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") if name.endswith(".gz") else file
        for transcript, text, reason in ordered_parallel_map(lines, transcripts, threads):
            cast(IO[bytes], sink).write(text.encode())
            account.count(transcript, reason)
        if sink is not file:
            sink.close()
        account.require_some()
    return account
