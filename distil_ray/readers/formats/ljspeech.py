"""LJSpeech: a table metadata.csv without a header, with the audio in the folder wavs beside it.

A line is ``ID|text|normalized text``; its audio is ``wavs/ID.wav``. The reference is the last text that is not empty.
"""

from collections.abc import Iterator

from distil_ray.readers.audio_formats import is_audio_name, is_utf8
from distil_ray.readers.base import InputFormat, ReadContext
from distil_ray.readers.columns import COLUMNS
from distil_ray.readers.path_resolution import PathResolver
from distil_ray.readers.row_errors import RowError, rows_to_recordings
from distil_ray.readers.row_files import TableHead, escape_surrogates, quote_short, read_head, read_lines
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import Recording

LJSPEECH_TABLE = "metadata.csv"


def is_ljspeech_head(head: TableHead) -> bool:
    """Returns whether a table has lines of two or three cells without a header."""
    cells = head.line.split("|")
    names = {name for known in COLUMNS.values() for name in known}
    return len(cells) in (2, 3) and " " not in cells[0] and not names & set(cells)


def is_ljspeech_folder(uri: str, storage: Storage) -> bool:
    table = join(uri, LJSPEECH_TABLE)
    return storage.stat(table) is not None and is_ljspeech_head(read_head(table, storage))


def read_ljspeech(uri: str, context: ReadContext) -> Iterator[Recording]:
    """Yields a recording for every line of the table; `uri` is the table or its folder."""
    table = uri if context.storage.stat(uri) is not None else join(uri, LJSPEECH_TABLE)
    files = context.resolver_for(table, "wavs")
    lines = enumerate(read_lines(table, context.storage, strict=False), 1)
    rows = ((f"{table} line {number}", line) for number, line in lines if line.strip())
    recordings = rows_to_recordings(rows, lambda where, line: _ljspeech_line(where, line, files), _ljspeech_id, table)
    yield from files.locate(recordings)


def _ljspeech_id(line: str) -> str | None:
    name = line.split("|", maxsplit=1)[0].strip()
    return name if name and is_utf8(name) else None


def _ljspeech_line(where: str, line: str, files: PathResolver) -> Recording:
    name, *texts = (cell.strip() for cell in line.split("|"))
    if not name or len(texts) not in (1, 2) or not is_utf8(line):
        raise RowError(
            f"{where}: expected ID|text|normalized text in UTF-8, found {quote_short(escape_surrogates(line))}",
            is_unreadable=True,
        )
    path = name if is_audio_name(name) else f"{name}.wav"
    reference = next((text for text in reversed(texts) if text), "")
    return Recording(recording_id=name, uri=files.resolve(path, where, "id"), reference=reference)


FORMAT = InputFormat("LJSpeech", read_ljspeech, priority=10, has_head=is_ljspeech_head, has_folder=is_ljspeech_folder)
