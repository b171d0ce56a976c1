"""Detects the format of a location: of a file by its name, then by its content; of a folder by the files in it.

``input.format`` overrides the detection. The detected formats are counted (`Listing.formats`) and printed when the run
begins, because a wrong guess would otherwise look like a strange corpus.
"""

from collections.abc import Sequence
from functools import cached_property

from distil_ray.errors import InputError, SettingsError
from distil_ray.readers.audio_formats import extension, is_audio_name, is_manifest_name
from distil_ray.readers.base import InputFormat, ReadContext
from distil_ray.readers.row_files import read_head
from distil_ray.registry import READERS

# Extensions that no format reads, with the reason. A file with an unknown extension may well be audio.
UNSUPPORTED_EXTENSIONS = {
    **dict.fromkeys((".zip", ".rar", ".7z"), "archives other than tar: unpack it, or pack it as tar"),
    **dict.fromkeys((".lz4", ".lzma", ".br", ".z"), "compressed otherwise than with gzip, bzip2, xz or zstd"),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".npy", ".npz", ".h5", ".hdf5", ".ark"), "stored arrays"),
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".docx", ".pdf"), "office files: save the table as CSV"),
    **dict.fromkeys((".yaml", ".yml", ".xml", ".html", ".htm", ".srt", ".vtt", ".textgrid", ".ctm"), "such texts"),
}
FALLBACK_TABLE, FALLBACK_FILE = "manifest", "files"  # formats of a table and of anything else that no format claims


def load_format(name: str) -> InputFormat:
    """Returns the format that a value of ``input.format`` names.

    Args:
        name: A name in `distil_ray.registry.READERS`, or the import path of an `InputFormat` or of a reader: a function
            that takes a URI and a `ReadContext` and yields recordings.

    Raises:
        SettingsError: There is no such format, its module cannot be imported, or it is something else.
    """
    found = READERS.load(name)
    if isinstance(found, InputFormat):
        return found
    if callable(found) and not isinstance(found, type):
        return InputFormat(name, found)
    raise SettingsError(
        f"input.format={name}: found {found!r}, which is neither a distil_ray.readers.base.InputFormat nor a function"
        " that takes a URI and a ReadContext"
    )


class FormatDetector:
    """Detects formats for one value of ``input.format``.

    Raises:
        SettingsError: The format that the setting names cannot be loaded.
    """

    def __init__(self, requested: str) -> None:
        self._requested = None if requested == "auto" else load_format(requested)

    @cached_property
    def _formats(self) -> dict[str, InputFormat]:
        """All formats by name, in the order in which they are tried."""
        formats = {name: load_format(name) for name in READERS.entries}
        return dict(sorted(formats.items(), key=lambda item: -item[1].priority))

    def detect_file(self, uri: str, context: ReadContext) -> InputFormat:
        """Returns the format of a file.

        Raises:
            InputError: No format reads files with its extension.
        """
        if self._requested is not None:
            return self._requested
        formats = self._formats.values()
        if by_name := next((one for one in formats if one.has_name(uri)), None):
            return by_name
        if by_content := next((one for one in formats if one.has_content(uri, context)), None):
            return by_content
        if is_manifest_name(uri):
            head = read_head(uri, context.storage)
            return next((one for one in formats if one.has_head(head)), self._formats[FALLBACK_TABLE])
        ending = extension(uri)
        if ending in UNSUPPORTED_EXTENSIONS and not is_audio_name(uri):
            raise InputError(
                f"input.uri={uri}: {ending} is not read ({UNSUPPORTED_EXTENSIONS[ending]}). What is read:"
                f" {self._list(self._formats)}. If the name of a file does not show its format, set input.format"
            )
        return self._formats[FALLBACK_FILE]

    def detect_folder(self, uri: str, context: ReadContext) -> InputFormat:
        """Returns the format of a folder.

        Raises:
            InputError: The folder looks like more than one format.
        """
        if self._requested is not None:
            return self._requested
        found = [name for name, one in self._formats.items() if one.has_folder(uri, context.storage)]
        if len(found) > 1:
            raise InputError(
                f"input.uri={uri}: looks like several formats: {self._list(found)}. Choose one with input.format"
            )
        return self._formats[found[0] if found else FALLBACK_FILE]

    def detect_shared(self, uris: Sequence[str]) -> InputFormat | None:
        """Returns the format with `read_files` that all files have by their names; None if there is none."""
        containers = (one for one in self._formats.values() if one.read_files is not None)
        return next((one for one in containers if all(map(one.has_name, uris))), None)

    def is_list_name(self, uri: str) -> bool:
        """Returns whether a file name or a glob pattern names lists of recordings rather than files with audio."""
        if self.detect_shared([uri]) is not None:
            return False
        return is_manifest_name(uri) or any(one.has_name(uri) for one in self._formats.values())

    def _list(self, names: Sequence[str] | dict[str, InputFormat]) -> str:
        return ", ".join(f"{self._formats[name].title} ({name})" for name in names)
