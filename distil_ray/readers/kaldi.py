"""Kaldi's data directories: ``wav.scp`` names recordings, ``segments`` cuts them, ``text`` and others tell of them.

The lists are read beside each other, line by line, which their order allows: Kaldi wants them sorted by id, and one
that is not is refused. So a million utterances are listed in the memory of one; only ``spk2gender``, and ``wav.scp``
where there are segments, are held. A command in ``wav.scp`` (a line that ends with ``|``) is refused, never run. Paths
are taken relative to the data directory, then to ``input.base_dir`` (Kaldi and ESPnet take them relative to where a
recipe is started).

The channel of a segment is the fifth column of ``segments``, counted from 0 as Kaldi's extract-segments counts.
``reco2file_and_channel`` names the file and the side (A, B or 1, 2) of a recording for scoring, and Kaldi never cuts
audio by it; many recipes write A for every file of one channel. It counts here only where it must: where several
recordings of ``wav.scp`` are the same file.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from distil_ray.errors import InputError
from distil_ray.readers.audio_formats import is_utf8
from distil_ray.readers.base import ReadContext
from distil_ray.readers.manifest import MAX_NUMBER, SPEAKER, parse_seconds, parse_seconds_cell
from distil_ray.readers.path_resolution import PathResolver
from distil_ray.readers.row_errors import RowError, rows_to_recordings
from distil_ray.readers.row_files import escape_surrogates, quote_short, read_lines
from distil_ray.storage.storage import join, parent
from distil_ray.types import AudioLocation, Recording

WAV_SCP = "wav.scp"
CHANNEL_LIST = "reco2file_and_channel"


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a list: its first word, the rest, and where it stands (for messages)."""

    key: str
    rest: str
    where: str


def read_kaldi(uri: str, context: ReadContext) -> Iterator[Recording]:
    """The utterances of a data directory, or of the one whose ``wav.scp`` is named.

    A line with a wrong value, a command or an archive (``.ark:offset``) is a recording that says so. Raises
    `InputError`, with file and line, for unsorted lists, for files outside, and where no line can be read.
    """
    waves = uri if uri.endswith(f"/{WAV_SCP}") else join(uri, WAV_SCP)
    directory = _Directory(parent(waves), context.resolver_for(waves), context)
    yield from directory.files.locate(directory.recordings())


class _Directory:
    """A data directory: its lists, read beside each other."""

    def __init__(self, folder: str, files: PathResolver, context: ReadContext) -> None:
        self.files = files
        self._folder = folder
        self._reading = context
        self._lists = {name: _SortedLookup(self._lines(name)) for name in ("text", "utt2spk", "utt2lang", "utt2dur")}
        self._genders = {line.key: line.rest for line in self._lines("spk2gender") if is_utf8(line.rest)}
        self._sides = self._read_sides()
        self._waves: dict[str, _Line] = {}

    def recordings(self) -> Iterator[Recording]:
        """In the order of the list that has the utterances."""
        segments = _iter_sorted(self._lines("segments"))
        first = next(segments, None)
        if first is None:
            lines, make, of = _iter_sorted(self._lines(WAV_SCP)), self._whole, WAV_SCP
        else:
            self._waves = {line.key: line for line in self._lines(WAV_SCP)}
            lines, make, of = chain([first], segments), self._segment, "segments"
        rows = ((line.where, line) for line in lines)
        yield from rows_to_recordings(rows, lambda _, line: self._recording(line, make), _name, join(self._folder, of))
        if left := self._lists["text"].num_unasked():
            self._reading.ignored["text without a recording"] += left

    def _recording(self, line: _Line, make: Callable[[_Line], tuple[str, AudioLocation | None]]) -> Recording:
        name = line.key
        told = {of: each.of(name) for of, each in self._lists.items()}  # first: each list is read in this order
        for of, value in {**told, "id": name}.items():
            if value is not None and not is_utf8(value):
                raise RowError(f"{line.where}: {of} of {quote_short(escape_surrogates(name))} is not UTF-8")
        uri, location = make(line)
        speaker = told["utt2spk"]
        known = {SPEAKER: speaker, "gender": self._genders.get(speaker or "")}
        claimed_s = parse_seconds_cell(f"{line.where}: utt2dur of {quote_short(name)}", "duration", told["utt2dur"])
        return Recording(
            recording_id=name,
            uri=uri,
            location=location,
            duration_s=claimed_s if location is None or location.length_s is None else location.length_s,
            language=told["utt2lang"] or None,
            reference=told["text"],
            metadata={key: value for key, value in known.items() if value},
        )

    def _whole(self, line: _Line) -> tuple[str, AudioLocation | None]:
        """(URI, place) of a recording."""
        channel = self._sides.get(line.key)
        return self._uri(line), None if channel is None else AudioLocation(channel=channel)

    def _segment(self, line: _Line) -> tuple[str, AudioLocation | None]:
        """(URI, place) of a segment."""
        words = line.rest.split()
        try:
            name, start, end, *rest = words
            start_s, end_s = parse_seconds(start), float(end)
            if start_s is None or not (end_s == -1 or start_s < end_s < float("inf")):
                raise ValueError(f"from {start} s to {end} s")
            channel = _channel(*rest) if rest else self._sides.get(name)
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
                f"{line.where}: {quote_short(escape_surrogates(path))} is a command, and lists are never run here. Write its output"
                " to files (in Kaldi: wav-copy scp:wav.scp ark,scp or ffmpeg), and name those",
                is_unreadable=True,
            )
        if path == "-" or ".ark:" in path or not path:
            raise RowError(
                f"{line.where}: {quote_short(escape_surrogates(path))} is no audio file; Kaldi's archives and standard input are not"
                " read",
                is_unreadable=True,
            )
        if not is_utf8(path):
            raise RowError(f"{line.where}: {quote_short(escape_surrogates(path))} is not UTF-8")
        return self.files.resolve(path, line.where, WAV_SCP)

    def _read_sides(self) -> dict[str, int]:
        """Channels by recording, of those that share their file with another side of it."""
        told = {line.key: _side(line.rest) for line in self._lines(CHANNEL_LIST)}
        if not told:
            return {}
        together: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for line in self._lines(WAV_SCP):
            if (channel := told.get(line.key)) is not None:
                together[line.rest][line.key] = channel
        return {key: side for sides in together.values() if len({*sides.values()}) > 1 for key, side in sides.items()}

    def _lines(self, name: str) -> Iterator[_Line]:
        """The lines of one list; none if there is no such list. What is not UTF-8 holds lone surrogates."""
        uri = join(self._folder, name)
        if self._reading.storage.stat(uri) is None:
            return
        for number, line in enumerate(read_lines(uri, self._reading.storage, strict=False), 1):
            words = line.split(maxsplit=1)
            if words:
                yield _Line(words[0], words[1].strip() if len(words) > 1 else "", f"{uri} line {number}")


def _name(line: _Line) -> str | None:
    return line.key if is_utf8(line.key) else None


def _channel(word: str, *more: str) -> int:
    """The fifth column of a segment. Raises `ValueError`."""
    if more:
        raise ValueError(f"{len(more)} columns too many")
    if not word.isascii() or not word.isdecimal() or int(word) > MAX_NUMBER:
        raise ValueError(f"channel {quote_short(escape_surrogates(word))}")
    return int(word)


def _side(rest: str) -> int | None:
    """The channel, from 0, of a line of ``reco2file_and_channel``: A is the first, and so is 1."""
    word = rest.rsplit(maxsplit=1)[-1] if rest.split() else ""
    if re.fullmatch("[A-Z]", word):
        return ord(word) - ord("A")
    return int(word) - 1 if re.fullmatch("[1-9][0-9]?", word) else None


class _SortedLookup:
    """What a sorted list tells of ids that are asked for in order; it is read as far as it is asked."""

    def __init__(self, lines: Iterator[_Line]) -> None:
        self._lines = _iter_sorted(lines)
        self._next = next(self._lines, None)
        self._num_unasked = 0

    def of(self, name: str) -> str | None:
        while self._next is not None and self._next.key < name:
            self._skip()
        if self._next is None or self._next.key != name:
            return None
        told = self._next.rest
        self._next = next(self._lines, None)
        return told

    def num_unasked(self) -> int:
        """How many lines nobody asked for; reads the rest."""
        while self._next is not None:
            self._skip()
        return self._num_unasked

    def _skip(self) -> None:
        self._num_unasked += 1
        self._next = next(self._lines, None)


def _iter_sorted(lines: Iterator[_Line]) -> Iterator[_Line]:
    before = ""
    for line in lines:
        if line.key <= before:
            raise InputError(
                f"{line.where}: {quote_short(line.key)} stands behind {quote_short(before)}. Kaldi wants its lists sorted by id,"
                " each id once: LC_ALL=C sort -u, or utils/fix_data_dir.sh"
            )
        before = line.key
        yield line
