"""Target folder of an export, file names made of recording ids, and counts of what was written.

A file appears only when it is complete. Existing files are replaced only with `overwrite`; a file that already holds
the same bytes is accepted, so that a stopped export can be run again. `write_files` writes a file per recording,
`write_lines` one file for all of them.
"""

import gzip
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, Protocol, TypeVar, cast

from rich.console import Console

from distil_ray.cli.console import format_count, format_duration, log_field
from distil_ray.errors import RunError, SettingsError
from distil_ray.export.subtitles import one_line
from distil_ray.export.transcripts import NotExportableError, Transcript
from distil_ray.readers.ordered_iteration import ordered_parallel_map
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join

RESERVED = frozenset('%\\:*?"<>|')  # have a meaning to shells, globs, Windows, or to this encoding
LEADING = (".", "~", "-", " ")  # hidden file, home, option
TRAILING = (".", " ")
MAX_PART = 180  # bytes of a path component without the extension; file systems allow 255
MAX_NAME = 700  # bytes in all; S3 allows 1024 with the folder
HASH_SIGN = "%~"

_SKIPPED_FOLDER = re.compile("__.*__")  # of metadata, to the package webdataset (`skip_meta` of its reader of tars)
_EMPTY_PART = re.compile(r"\A/|(?<=/)/|/\Z")  # slashes with nothing before or behind them


def file_name(recording_id: str, extension: str) -> str:
    """Returns a relative path for a recording, with slashes where its id has them.

    No folder name ends in the extension, so that no folder has the name of a file.

    Args:
        recording_id: Any string.
        extension: Extension of the file, with its dot.
    """
    *folders, last = _parts(recording_id)
    ending = _hex(extension[0]) + extension[1:]
    safe = [part.removesuffix(extension) + ending if part.endswith(extension) else part for part in folders]
    return _shorten([*safe, last], recording_id) + extension


def sample_key(recording_id: str) -> str:
    """Returns the key of a recording in a WebDataset:

    as `file_name`, without dots, because an extension follows one, and not in a folder that readers skip.
    """
    first, *others = (part.replace(".", _hex(".")) for part in _parts(recording_id))
    if _SKIPPED_FOLDER.fullmatch(first):
        first = _hex(first[0]) + first[1:]
    return _shorten([first, *others], recording_id)


def _parts(recording_id: str) -> list[str]:
    plain = "".join(_hex(sign) if sign in RESERVED or not sign.isprintable() else sign for sign in recording_id)
    return [_escape_ends(part) for part in _EMPTY_PART.sub(_hex("/"), plain).split("/")]


def _escape_ends(part: str) -> str:
    if part.startswith(LEADING):
        part = _hex(part[0]) + part[1:]
    return part[:-1] + _hex(part[-1]) if part.endswith(TRAILING) else part


def _hex(sign: str) -> str:
    return "".join(f"%{byte:02X}" for byte in sign.encode())


def _shorten(parts: list[str], recording_id: str) -> str:
    name = "/".join(parts)
    if name and len(name.encode()) <= MAX_NAME and all(len(part.encode()) <= MAX_PART for part in parts):
        return name
    digest = hashlib.blake2b(recording_id.encode(), digest_size=16).hexdigest()
    start = parts[0].encode()[: MAX_PART - len(HASH_SIGN) - len(digest)].decode(errors="ignore")
    return f"{start}{HASH_SIGN}{digest}"


class ExportItem(Protocol):
    """An item that is written as one file, or as lines of one: a `Transcript` or a `calls.Call`."""

    @property
    def export_id(self) -> str:
        """The id that its file is named after."""

    @property
    def num_recordings(self) -> int:
        """Number of its recordings."""

    @property
    def audio_s(self) -> float:
        """Seconds of audio of its recordings."""


Item = TypeVar("Item", bound=ExportItem)


@dataclass(slots=True)
class ExportCounts:
    """Counts of an export.

    Attributes:
        num_exported: Recordings that were written.
        audio_s: Seconds of audio of these.
        num_files: Files that were written.
        skipped: Recordings that the format cannot describe or whose audio is missing, by reason.
        examples: The first recording id of each reason.
    """

    num_exported: int = 0
    audio_s: float = 0.0
    num_files: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def num_skipped(self) -> int:
        return self.skipped.total()

    def add(self, item: ExportItem, reason: str | None) -> None:
        """Counts a recording or a call that was exported (`reason` is None), or skipped for a reason."""
        if reason is None:
            self.num_exported += item.num_recordings
            self.audio_s += item.audio_s
        else:
            self.skipped[reason] += item.num_recordings
            self.examples.setdefault(reason, item.export_id)

    def require_some(self) -> None:
        """Raises `RunError` if nothing was exported: an empty file would look like success."""
        if not self.num_exported:
            reasons = "; ".join(f"{name}: {reason}" for reason, name in self.examples.items())
            raise RunError(f"nothing was exported and no file written ({reasons or 'no recording was selected'})")

    def print(self, format_name: str, folder: str, left_out: Counter[str], console: Console) -> None:
        """Prints the counts. `left_out` counts the recordings that `status` and `where` exclude, by reason."""
        for reason, count in self.skipped.most_common():
            log_field(
                "skipped", f"{format_count(count, 'recording')}, for example {self.examples[reason]}: {reason}", console
            )
        if left_out:
            words = ", ".join(f"{reason} {count:,}" for reason, count in left_out.most_common())
            log_field("left out", f"{left_out.total():,} recordings: {words}", console)
        files = format_count(self.num_files, "file")
        what = f"{format_count(self.num_exported, 'recording')}, {format_duration(self.audio_s)} of audio"
        log_field("exported", f"{what}, as {format_name}: {files} in {folder}", console)


WRITERS = 16  # files written at once; each waits for an fsync or for the object store

Renderer = Callable[[Item], str]  # returns the text of a file, or lines of one; may raise NotExportableError


@dataclass(frozen=True, slots=True)
class Target:
    """A folder to write to; existing files are replaced only with `overwrite`."""

    folder: str
    storage: Storage
    overwrite: bool

    def put(self, name: str, data: bytes) -> None:
        """Writes a file. Raises `SettingsError` if a file of that name holds something else."""
        uri = join(self.folder, name)
        if self.overwrite:
            self.storage.put(uri, data)
        elif not self.storage.put_if_absent(uri, data) and self.storage.read(uri) != data:
            raise self.exists_error(name)

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        """Opens a file to write to, which appears when the block ends. Raises `SettingsError` if it exists."""
        uri = join(self.folder, name)
        if not self.overwrite and self.storage.stat(uri) is not None:
            raise self.exists_error(name)
        with self.storage.create(uri) as file:
            yield file

    def names(self) -> list[str]:
        """Returns the paths of the existing files, relative to the folder."""
        return [entry.uri.removeprefix(f"{self.folder}/") for entry in self.storage.list_files(self.folder)]

    def delete(self, name: str) -> None:
        """Deletes a file of the folder."""
        self.storage.delete(join(self.folder, name))

    def exists_error(self, name: str) -> SettingsError:
        """Returns the error for a file that exists and must not be replaced."""
        return SettingsError(
            f"to={self.folder}: the file {name} exists already and was left unchanged. Choose another folder, or"
            " set overwrite=true to replace it."
        )


def require_text(render: Renderer[Transcript], name: str) -> Renderer[Transcript]:
    """Returns `render` with a check: `RunError` is raised if a recording has a text and the result holds none of it.

    A format that lacks a column would otherwise write empty files and succeed.
    """

    def checked(transcript: Transcript) -> str:
        found = render(transcript)
        if one_line(transcript.text) and found == render(_without_text(transcript)):
            raise RunError(
                f"format={name}: {transcript.recording_id} has a text, but nothing of it would be written: its row has"
                f" no segments, words or chunks that hold the text, or no duration (duration_s is"
                f" {transcript.duration_s:g}). Remove its row from the output and transcribe it again"
            )
        return found

    return checked


def _without_text(transcript: Transcript) -> Transcript:
    segments, words = (None if spans is None else () for spans in (transcript.segments, transcript.words))
    return replace(transcript, text="", segments=segments, words=words, chunks=())


def write_files(render: Renderer[Item], extension: str, items: Iterable[Item], target: Target) -> ExportCounts:
    """Writes a file per recording or call, named after its id."""
    counts = ExportCounts()

    def write(item: Item) -> tuple[Item, str | None]:
        try:
            target.put(file_name(item.export_id, extension), render(item).encode())
        except NotExportableError as error:
            return item, str(error)
        return item, None

    for item, reason in ordered_parallel_map(write, items, WRITERS):
        counts.add(item, reason)
        counts.num_files += reason is None
    return counts


def write_lines(render: Renderer[Item], name: str, items: Iterable[Item], target: Target, threads: int) -> ExportCounts:
    """Writes all recordings or calls to one file, compressed if its name ends in ``.gz``.

    No file appears if none of them could be exported.

    Args:
        render: Returns the lines of a recording or call.
        name: Name of the file.
        items: What to write.
        target: Folder of the file.
        threads: Number of recordings rendered at once, for formats that read audio headers.
    """
    counts = ExportCounts(num_files=1)

    def render_lines(item: Item) -> tuple[Item, str, str | None]:
        try:
            return item, render(item), None
        except NotExportableError as error:
            return item, "", str(error)

    with target.create(name) as file:
        sink = gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") if name.endswith(".gz") else file
        for item, text, reason in ordered_parallel_map(render_lines, items, threads):
            cast(IO[bytes], sink).write(text.encode())
            counts.add(item, reason)
        if sink is not file:
            sink.close()
        counts.require_some()
    return counts
