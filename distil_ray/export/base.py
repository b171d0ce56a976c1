"""`ExportFormat`, the record that describes an export format, and how its writer is called.

A format is a module of `distil_ray.export.formats` that defines ``FORMAT = ExportFormat(…)``. The module's name is the
value of the setting ``format``, and the first line of its docstring is the description in ``--help``
(`distil_ray.registry.EXPORTERS`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from distil_ray.errors import SettingsError
from distil_ray.export.cues import Cue
from distil_ray.export.settings import CALL, DATASET, TRANSCRIPTS, ExportSettings
from distil_ray.registry import EXPORTERS


class Layout(StrEnum):
    """The distribution of recordings over files. It determines the signature of a format's writer."""

    FILE = "a file per recording"  # (Transcript) -> text of the file
    LINES = "one file"  # (Transcript) -> lines of the file
    SHARDS = "tar shards"  # (transcripts, Target, shard size in MB, Config) -> ExportCounts


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """An export format.

    Attributes:
        layout: The distribution of recordings over files.
        files: Names of the files: of `Layout.FILE` the extension after a star (``*.srt``), of `Layout.LINES` the name
            of the one file, of `Layout.SHARDS` glob patterns.
        writer: Writes transcripts, with the signature that `layout` asks for. None for a format of the training data
            set only. A writer of a format that `reads_audio` is first called with the `Storage`, and what it returns
            is used as the writer.
        columns: Columns of the transcripts that the writer needs, as Parquet paths, in addition to
            `transcripts.BASE_COLUMNS`.
        reads_audio: Whether the writer reads the headers of audio files. Several recordings are then written at once,
            each in a thread.
        dataset_writer: Writes examples of the training data set (``of=dataset``): (examples, Target, bytes of a shard)
            ->
            ShardCounts. None for a format of transcripts only.
        silences_audio: Whether a writer of `Layout.SHARDS` exports audio as `Transcript.silences` says. Without it the
            format cannot be redacted.
        call_writer: Renders a call (``group=call``): (Call) -> text of the file, or line of it. None for a format that
            has no calls. It needs `calls.CALL_COLUMNS`.
        call_file: Name of the one file of calls, for `Layout.LINES` with a `call_writer`.
        cue_writer: Renders subtitle cues, of a recording or of a call: (list of Cue) -> text of the file. It takes the
            place of `writer` and `call_writer`, and needs `subtitles.CUE_COLUMNS`.
        cue_step_ms: Milliseconds that the times of cues are multiples of.
        highlights_words: Whether the `cue_writer` highlights words (``highlight_words``).
    """

    layout: Layout
    files: tuple[str, ...]
    writer: Callable[..., Any] | None = None
    columns: tuple[str, ...] = ()
    reads_audio: bool = False
    dataset_writer: Callable[..., Any] | None = None
    silences_audio: bool = False
    call_writer: Callable[..., str] | None = None
    call_file: str = ""
    cue_writer: Callable[[Sequence[Cue]], str] | None = None
    cue_step_ms: int = 1
    highlights_words: bool = False

    @property
    def extension(self) -> str:
        """The extension of the files of `Layout.FILE`, with its dot."""
        return self.files[0].removeprefix("*")

    @property
    def subjects(self) -> tuple[str, ...]:
        """The values of the setting ``of`` that this format supports."""
        writers = {TRANSCRIPTS: self.writer or self.cue_writer, DATASET: self.dataset_writer}
        return tuple(subject for subject, writer in writers.items() if writer is not None)

    @property
    def has_calls(self) -> bool:
        """True if the format supports ``group=call``."""
        return self.call_writer is not None or self.cue_writer is not None

    def matches(self, name: str) -> bool:
        """Returns whether a file at the target, by its path there, could belong to this format of `Layout.SHARDS`."""
        return "/" not in name and any(fnmatchcase(name, pattern) for pattern in self.files)


def load_format(settings: ExportSettings) -> ExportFormat:
    """Imports the format that the settings name.

    Raises:
        SettingsError: The format is unknown, cannot be imported, or does not support ``settings.of``,
            ``settings.group``, ``settings.highlight_words`` or ``settings.redact``.
    """
    found = EXPORTERS.load(settings.format)
    if not isinstance(found, ExportFormat):
        raise SettingsError(f"format={settings.format}: must be an ExportFormat (found {type(found).__name__})")
    if settings.of not in found.subjects:
        raise SettingsError(
            f"format={settings.format}: does not support of={settings.of}, only of={' and of='.join(found.subjects)}"
        )
    if settings.group == CALL and not found.has_calls:
        raise SettingsError(f"format={settings.format}: does not support group=call; {_names_with('has_calls')} do")
    if settings.highlight_words and not found.highlights_words:
        able = _names_with("highlights_words")
        raise SettingsError(f"format={settings.format}: does not support highlight_words=true; {able} do")
    if settings.redact and found.layout == Layout.SHARDS and not found.silences_audio:
        raise SettingsError(f"format={settings.format}: cannot silence audio, so it does not support redact=…")
    return found


def _names_with(attribute: str) -> str:
    return ", ".join(name for name in EXPORTERS.names() if getattr(EXPORTERS.load(name), attribute, False))
