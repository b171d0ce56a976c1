"""The formats of an export, as one table: name, files, writer, and the columns that the writer needs.

A new format is a record here and the callable that it names. Nothing heavy is loaded until a writer is asked for, so
that --help can list the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any

TRANSCRIPTS, DATASET = "transcripts", "dataset"  # what is exported: the transcripts, or the training data set of them


class Layout(StrEnum):
    """How recordings are spread over files, and with it what a writer is called with and returns."""

    FILE = "a file a recording"  # (Transcript) -> the file's text
    LINES = "one file"  # (Transcript) -> lines of it
    SHARDS = "tar shards"  # of transcripts: webdataset.write_shards; of a data set: dataset.write_webdataset


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """One format of one subject.

    Args:
        name: value of the setting ``format``.
        title: what it is, for --help.
        subject: `TRANSCRIPTS` or `DATASET`.
        layout: how its writer is called.
        files: names of its files: of `Layout.FILE` the extension behind a star, of `Layout.SHARDS` globs.
        writer: import path, "module:callable". Of a format that `reads_audio` it is first called with the `Storage`.
        columns: of the transcripts, as Parquet paths, beside those that every format reads (transcripts.BASIC).
        reads_audio: the headers of the audio files are read, several recordings at once.
    """

    name: str
    title: str
    subject: str
    layout: Layout
    files: tuple[str, ...]
    writer: str
    columns: tuple[str, ...] = ()
    reads_audio: bool = False

    @property
    def extension(self) -> str:
        """Of `Layout.FILE`, with its dot."""
        return self.files[0].removeprefix("*")

    def writes(self, name: str) -> bool:
        """Returns whether a file at the target could be one of this format."""
        return any(fnmatchcase(name, pattern) for pattern in self.files)

    def load_writer(self) -> Callable[..., Any]:
        """Returns the writer."""
        module, _, name = self.writer.partition(":")
        found: Callable[..., Any] = getattr(import_module(f"distil_ray.export.{module}"), name)
        return found


_TIMED = ("segments", "words", *(f"chunks.list.element.{name}" for name in ("start_s", "end_s", "text")))

FORMATS = (
    ExportFormat("srt", "subtitles (SubRip)", TRANSCRIPTS, Layout.FILE, ("*.srt",), "subtitles:srt", _TIMED),
    ExportFormat("vtt", "subtitles (WebVTT)", TRANSCRIPTS, Layout.FILE, ("*.vtt",), "subtitles:vtt", _TIMED),
    ExportFormat("txt", "the text", TRANSCRIPTS, Layout.FILE, ("*.txt",), "records:txt"),
    ExportFormat(
        "jsonl",
        "a manifest of this program, with all that is known",
        TRANSCRIPTS,
        Layout.LINES,
        ("transcripts.jsonl",),
        "records:jsonl",
        ("segments", "words"),
    ),
    ExportFormat(
        "nemo",
        "a NeMo manifest",
        TRANSCRIPTS,
        Layout.LINES,
        ("manifest.jsonl",),
        "records:NemoLines",
        reads_audio=True,
    ),
    ExportFormat(
        "lhotse",
        "lhotse cuts",
        TRANSCRIPTS,
        Layout.LINES,
        ("cuts.jsonl.gz",),  # lhotse knows what a file is by its name
        "lhotse:Cuts",
        ("words",),
        reads_audio=True,
    ),
    ExportFormat("ctm", "words with times (CTM)", TRANSCRIPTS, Layout.LINES, ("words.ctm",), "ctm:ctm", ("words",)),
    ExportFormat(
        "webdataset",
        "tar shards with the audio",
        TRANSCRIPTS,
        Layout.SHARDS,
        ("shard-[0-9]*.tar",),
        "webdataset:write_shards",
        ("segments", "words"),
    ),
    ExportFormat(
        "webdataset",
        "tar shards with the audio",
        DATASET,
        Layout.SHARDS,
        ("shard-[0-9]*.tar",),
        "training_shards:write_webdataset",
    ),
    ExportFormat(
        "nemo_tarred",
        "NeMo's tarred audio and its manifest",
        DATASET,
        Layout.SHARDS,
        ("audio_[0-9]*.tar", "tarred_audio_manifest.json"),
        "training_shards:write_tarred",
    ),
)


def names_of(subject: str) -> tuple[str, ...]:
    """Returns the names of a subject's formats."""
    return tuple(one.name for one in FORMATS if one.subject == subject)


def find_format(name: str, subject: str) -> ExportFormat:
    """Returns a format that the settings have checked."""
    return next(one for one in FORMATS if (one.name, one.subject) == (name, subject))
