"""Kaldi data directories: wav.scp names recordings, segments cuts them, text has references.

The lists are read side by side, line by line. Kaldi requires them to be sorted by id, and an unsorted list is refused,
so a million utterances need the memory of one. Only ``spk2gender`` is held, and ``wav.scp`` if there are segments. A
command in ``wav.scp`` (a line that ends with ``|``) is refused and never run. Paths are relative to the data directory,
then to ``input.base_dir`` (in Kaldi and ESPnet they are relative to the working directory of a recipe).

The channel of a segment is the fifth column of ``segments``, counted from 0 as Kaldi's extract-segments does.
``reco2file_and_channel`` names file and side (A, B or 1, 2) of a recording for scoring. Kaldi never cuts audio by it,
and many recipes write A for every mono file. It is used only where several recordings of ``wav.scp`` are the same file.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from distil_ray.errors import InputError
from distil_ray.readers.audio_formats import is_utf8
from distil_ray.readers.base import InputFormat, ReadContext
from distil_ray.readers.columns import MAX_NUMBER, SPEAKER, parse_seconds, parse_seconds_cell
from distil_ray.readers.path_resolution import PathResolver
from distil_ray.readers.row_errors import RowError, rows_to_recordings
from distil_ray.readers.row_files import escape_surrogates, quote_short, read_lines
from distil_ray.storage.uris import join, parent
from distil_ray.types import AudioLocation, Recording

WAV_SCP = "wav.scp"
CHANNEL_LIST = "reco2file_and_channel"


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a list: its first word, the rest, and its location for messages."""

    key: str
    rest: str
    where: str


def read_kaldi(uri: str, context: ReadContext) -> Iterator[Recording]:
    """Yields the utterances of a data directory, or of the one that a ``wav.scp`` is in.

    A line with a wrong value, a command or an archive (``.ark:offset``) becomes a failed recording.

    Raises:
        InputError: A list is not sorted, names files outside of the allowed folders, or has no readable line. The
            message has file and line.
    """
    waves = uri if uri.endswith(f"/{WAV_SCP}") else join(uri, WAV_SCP)
    directory = _Directory(parent(waves), context.resolver_for(waves), context)
    yield from directory.files.locate(directory.recordings())


class _Directory:
    """A data directory, whose lists are read side by side."""

    def __init__(self, folder: str, files: PathResolver, context: ReadContext) -> None:
        self.files = files
        self._folder = folder
        self._context = context
        self._lists = {name: _SortedLookup(self._lines(name)) for name in ("text", "utt2spk", "utt2lang", "utt2dur")}
        self._genders = {line.key: line.rest for line in self._lines("spk2gender") if is_utf8(line.rest)}
        self._channels = self._read_channels()
        self._waves: dict[str, _Line] = {}

    def recordings(self) -> Iterator[Recording]:
        """Yields the recordings in the order of ``segments``, else of ``wav.scp``."""
        segments = _iter_sorted(self._lines("segments"))
        first = next(segments, None)
        if first is None:
            lines, make, of = _iter_sorted(self._lines(WAV_SCP)), self._whole, WAV_SCP
        else:
            self._waves = {line.key: line for line in self._lines(WAV_SCP)}
            lines, make, of = chain([first], segments), self._segment, "segments"
        rows = ((line.where, line) for line in lines)
        yield from rows_to_recordings(rows, lambda _, line: self._recording(line, make), _name, join(self._folder, of))
        if left := self._lists["text"].num_unused():
            self._context.ignored["text without a recording"] += left

    def _recording(self, line: _Line, make: Callable[[_Line], tuple[str, AudioLocation | None]]) -> Recording:
        name = line.key
        found = {of: each.find(name) for of, each in self._lists.items()}  # first: each list is read in this order
        for of, value in {**found, "id": name}.items():
            if value is not None and not is_utf8(value):
                raise RowError(f"{line.where}: {of} of {quote_short(escape_surrogates(name))} is not UTF-8")
        uri, location = make(line)
        speaker = found["utt2spk"]
        known = {SPEAKER: speaker, "gender": self._genders.get(speaker or "")}
        claimed_s = parse_seconds_cell(f"{line.where}: utt2dur of {quote_short(name)}", "duration", found["utt2dur"])
        return Recording(
            recording_id=name,
            uri=uri,
            location=location,
            duration_s=claimed_s if location is None or location.length_s is None else location.length_s,
            language=found["utt2lang"] or None,
            reference=found["text"],
            metadata={key: value for key, value in known.items() if value},
        )

    def _whole(self, line: _Line) -> tuple[str, AudioLocation | None]:
        """Returns (URI, location) of a recording."""
        channel = self._channels.get(line.key)
        return self._uri(line), None if channel is None else AudioLocation(channel=channel)

    def _segment(self, line: _Line) -> tuple[str, AudioLocation | None]:
        """Returns (URI, location) of a segment."""
        words = line.rest.split()
        try:
            name, start, end, *rest = words
            start_s, end_s = parse_seconds(start), float(end)
            if start_s is None or not (end_s == -1 or start_s < end_s < float("inf")):
                raise ValueError(f"from {start} s to {end} s")
            channel = _channel(*rest) if rest else self._channels.get(name)
        except (TypeError, ValueError) as error:
            raise RowError(
                f"{line.where}: expected utterance, recording, start and end in seconds, and perhaps a channel from 0;"
                f" found {quote_short(escape_surrogates(line.rest))} ({error})"
            ) from error
        if name not in self._waves:
            raise RowError(f"{line.where}: {WAV_SCP} has no recording {quote_short(escape_surrogates(name))}")
        location = AudioLocation(start_s=start_s, length_s=None if end_s == -1 else end_s - start_s, channel=channel)
        return self._uri(self._waves[name]), location

    def _uri(self, line: _Line) -> str:
        path = line.rest
        if path.endswith("|") or path.startswith("|"):
            raise RowError(
                f"{line.where}: {quote_short(escape_surrogates(path))} is a command, and commands in lists are never"
                " run. Write its output to files (in Kaldi: wav-copy scp:wav.scp ark,scp or ffmpeg), and name those",
                is_unreadable=True,
            )
        if path == "-" or ".ark:" in path or not path:
            raise RowError(
                f"{line.where}: {quote_short(escape_surrogates(path))} is not an audio file. Kaldi's archives"
                " and standard input are not read",
                is_unreadable=True,
            )
        if not is_utf8(path):
            raise RowError(f"{line.where}: {quote_short(escape_surrogates(path))} is not UTF-8")
        return self.files.resolve(path, line.where, WAV_SCP)

    def _read_channels(self) -> dict[str, int]:
        """Returns channels by recording, for recordings that share their file with another channel of it."""
        found = {line.key: _parse_side(line.rest) for line in self._lines(CHANNEL_LIST)}
        if not found:
            return {}
        together: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for line in self._lines(WAV_SCP):
            if (channel := found.get(line.key)) is not None:
                together[line.rest][line.key] = channel
        shared = (channels for channels in together.values() if len({*channels.values()}) > 1)
        return {key: channel for channels in shared for key, channel in channels.items()}

    def _lines(self, name: str) -> Iterator[_Line]:
        """Yields the lines of one list; none if it does not exist. Bytes that are not UTF-8 become lone surrogates."""
        uri = join(self._folder, name)
        if self._context.storage.stat(uri) is None:
            return
        for number, line in enumerate(read_lines(uri, self._context.storage, strict=False), 1):
            words = line.split(maxsplit=1)
            if words:
                yield _Line(words[0], words[1].strip() if len(words) > 1 else "", f"{uri} line {number}")


def _name(line: _Line) -> str | None:
    return line.key if is_utf8(line.key) else None


def _channel(word: str, *more: str) -> int:
    """Returns the fifth column of a segment.

    Raises:
        ValueError: It is not a channel number, or there are more columns.
    """
    if more:
        raise ValueError(f"{len(more)} columns too many")
    if not word.isascii() or not word.isdecimal() or int(word) > MAX_NUMBER:
        raise ValueError(f"channel {quote_short(escape_surrogates(word))}")
    return int(word)


def _parse_side(rest: str) -> int | None:
    """Returns the channel, from 0, in a line of ``reco2file_and_channel``: both A and 1 are the first."""
    word = rest.rsplit(maxsplit=1)[-1] if rest.split() else ""
    if re.fullmatch("[A-Z]", word):
        return ord(word) - ord("A")
    return int(word) - 1 if re.fullmatch("[1-9][0-9]?", word) else None


class _SortedLookup:
    """Looks up ids, which come in order, in a sorted list. The list is read only as far as needed."""

    def __init__(self, lines: Iterator[_Line]) -> None:
        self._lines = _iter_sorted(lines)
        self._next = next(self._lines, None)
        self._num_unused = 0

    def find(self, name: str) -> str | None:
        while self._next is not None and self._next.key < name:
            self._skip()
        if self._next is None or self._next.key != name:
            return None
        found = self._next.rest
        self._next = next(self._lines, None)
        return found

    def num_unused(self) -> int:
        """Reads the rest, and returns the number of lines that were not looked up."""
        while self._next is not None:
            self._skip()
        return self._num_unused

    def _skip(self) -> None:
        self._num_unused += 1
        self._next = next(self._lines, None)


def _iter_sorted(lines: Iterator[_Line]) -> Iterator[_Line]:
    before = ""
    for line in lines:
        if line.key <= before:
            raise InputError(
                f"{line.where}: {quote_short(line.key)} comes after {quote_short(before)} but Kaldi's lists are"
                " sorted by id, each id once: LC_ALL=C sort -u, or utils/fix_data_dir.sh"
            )
        before = line.key
        yield line


FORMAT = InputFormat(
    "Kaldi data directory",
    read_kaldi,
    priority=50,
    has_name=lambda uri: uri.endswith(f"/{WAV_SCP}"),
    has_folder=lambda uri, storage: storage.stat(join(uri, WAV_SCP)) is not None,
)
