"""Where an export is written: one file a recording, or one file of lines for all of them.

Every file appears whole or not at all, and none that was there before is touched unless `overwrite` says so. The same
export can be run again over itself: files that hold the same bytes are no obstacle.
"""

import gzip
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, cast

from rich.console import Console

from distil_ray.cli.console import format_duration, log_field
from distil_ray.errors import RunError, SettingsError
from distil_ray.export.subtitles import one_line
from distil_ray.export.transcripts import NotExportableError, Transcript
from distil_ray.readers.ordered_iteration import ordered_parallel_map
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join

RESERVED = frozenset('%\\:*?"<>|')  # means something to shells, globs, Windows, or to this encoding
LEADING = (".", "~", "-", " ")  # hidden file, home, option
TRAILING = (".", " ")
MAX_PART = 180  # bytes of a part between slashes, extension not included; file systems allow 255
MAX_NAME = 700  # bytes in all; S3 allows 1024 with the folder
HASH_SIGN = "%~"

_EMPTY_PART = re.compile(r"\A/|(?<=/)/|/\Z")  # slashes with nothing before or behind them


def file_name(recording_id: str, extension: str) -> str:
    """A relative path for a recording, with slashes where its id has them. `extension` begins with its dot.

    No folder ends in the extension, so that none has the name of a file.
    """
    *folders, last = _parts(recording_id)
    ending = _hex(extension[0]) + extension[1:]
    safe = [part.removesuffix(extension) + ending if part.endswith(extension) else part for part in folders]
    return _shortened([*safe, last], recording_id) + extension


def sample_key(recording_id: str) -> str:
    """A recording's key in a WebDataset: as `file_name`, but without any dot, behind which the extension begins."""
    return _shortened([part.replace(".", _hex(".")) for part in _parts(recording_id)], recording_id)


def _parts(recording_id: str) -> list[str]:
    plain = "".join(_hex(sign) if sign in RESERVED or not sign.isprintable() else sign for sign in recording_id)
    return [_with_harmless_ends(part) for part in _EMPTY_PART.sub(_hex("/"), plain).split("/")]


def _with_harmless_ends(part: str) -> str:
    if part.startswith(LEADING):
        part = _hex(part[0]) + part[1:]
    return part[:-1] + _hex(part[-1]) if part.endswith(TRAILING) else part


def _hex(sign: str) -> str:
    return "".join(f"%{byte:02X}" for byte in sign.encode())


def _shortened(parts: list[str], recording_id: str) -> str:
    name = "/".join(parts)
    if name and len(name.encode()) <= MAX_NAME and all(len(part.encode()) <= MAX_PART for part in parts):
        return name
    digest = hashlib.blake2b(recording_id.encode(), digest_size=16).hexdigest()
    beginning = parts[0].encode()[: MAX_PART - len(HASH_SIGN) - len(digest)].decode(errors="ignore")
    return f"{beginning}{HASH_SIGN}{digest}"


@dataclass(slots=True)
class Account:
    """Exported recordings and their audio; those that had no place in the form or no audio left, by reason."""

    num_exported: int = 0
    audio_s: float = 0.0
    num_files: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def num_passed_over(self) -> int:
        return self.passed_over.total()

    def count(self, transcript: Transcript, reason_against: str | None) -> None:
        if reason_against is None:
            self.num_exported += 1
            self.audio_s += transcript.duration_s
        else:
            self.passed_over[reason_against] += 1
            self.examples.setdefault(reason_against, transcript.recording_id)

    def require_some(self) -> None:
        """Raises `RunError` if nothing was exported: a file without anything in it would look like success."""
        if not self.num_exported:
            reasons = "; ".join(f"{name}: {reason}" for reason, name in self.examples.items())
            raise RunError(f"nothing was exported, and nothing written ({reasons or 'no recording was chosen'})")

    def print(self, form: str, folder: str, left_out: Counter[str], console: Console) -> None:
        for reason, count in self.passed_over.most_common():
            log_field("passed over", f"{count:,} recordings, such as {self.examples[reason]}: {reason}", console)
        if left_out:
            words = ", ".join(f"{reason} {count:,}" for reason, count in left_out.most_common())
            log_field("left out", f"{left_out.total():,} recordings: {words}", console)
        files = f"{self.num_files:,} file{'s' * (self.num_files != 1)}"
        what = f"{self.num_exported:,} recordings, {format_duration(self.audio_s)} of audio"
        log_field("exported", f"{what}, as {form}: {files} in {folder}", console)


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
        elif not self.storage.put_if_absent(uri, data) and self.storage.read(uri) != data:
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
