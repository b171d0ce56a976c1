"""Kaldi's data directories: ``wav.scp`` names recordings, ``segments`` cuts them, ``text`` and others tell of them.

The lists are read beside each other, line by line, which their order allows: Kaldi wants them sorted by id, and one
that is not is refused. So a million utterances are listed in the memory of one; only ``spk2gender``, and ``wav.scp``
where there are segments, are held. A command in ``wav.scp`` (a line that ends with ``|``) is refused, never run. Paths
are taken relative to the data directory (Kaldi takes them relative to where a recipe is started).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from distil_ray.errors import InputError
from distil_ray.schema import Place, Recording
from distil_ray.sources.manifests import SPEAKER, seconds
from distil_ray.sources.named_files import NamedFiles
from distil_ray.sources.reading import Reading
from distil_ray.sources.rows import read_lines, short
from distil_ray.storage import Storage, join, parent

WAVES = "wav.scp"


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a list: its first word, the rest, and where it stands (for messages)."""

    key: str
    rest: str
    where: str


def read_kaldi(uri: str, reading: Reading) -> Iterator[Recording]:
    """The utterances of a data directory, or of the one whose ``wav.scp`` is named.

    Raises `InputError`, with file and line, for commands, archives (``.ark:offset``), unsorted lists and files outside.
    """
    waves = uri if uri.endswith(f"/{WAVES}") else join(uri, WAVES)
    files = reading.named_by(waves)
    yield from files.located(_utterances(parent(waves), files, reading))


def _utterances(folder: str, files: NamedFiles, reading: Reading) -> Iterator[Recording]:
    lists = {name: _Told(_lines(folder, name, reading.storage)) for name in ("text", "utt2spk", "utt2lang", "utt2dur")}
    genders = {line.key: line.rest for line in _lines(folder, "spk2gender", reading.storage)}
    utterances = _segments(folder, files, reading.storage) or _whole(folder, files, reading.storage)
    for name, uri, place in utterances:
        speaker = lists["utt2spk"].of(name)
        known = {SPEAKER: speaker, "gender": genders.get(speaker or "")}
        claimed_s = seconds(f"utt2dur of {short(name)}", "duration", lists["utt2dur"].of(name))
        yield Recording(
            recording_id=name,
            uri=uri,
            place=place,
            duration_s=claimed_s if place is None or place.length_s is None else place.length_s,
            language=lists["utt2lang"].of(name) or None,
            reference=lists["text"].of(name),
            metadata={key: value for key, value in known.items() if value},
        )
    _count_rest(lists["text"], reading.ignored)


def _count_rest(texts: "_Told", ignored: Counter[str]) -> None:
    if left := texts.num_unasked():
        ignored["text without a recording"] += left


def _whole(folder: str, files: NamedFiles, storage: Storage) -> Iterator[tuple[str, str, Place | None]]:
    """(id, URI, None) of every recording."""
    for line in _in_order(_lines(folder, WAVES, storage)):
        yield line.key, _uri(line, files), None


def _segments(folder: str, files: NamedFiles, storage: Storage) -> Iterator[tuple[str, str, Place | None]] | None:
    """(id, URI, place) of every segment; None if there are none."""
    lines = _in_order(_lines(folder, "segments", storage))
    first = next(lines, None)
    if first is None:
        return None
    recordings = {line.key: line for line in _lines(folder, WAVES, storage)}
    return (_segment(line, recordings, files) for line in chain([first], lines))


def _segment(line: _Line, recordings: dict[str, _Line], files: NamedFiles) -> tuple[str, str, Place]:
    words = line.rest.split()
    try:
        name, start_s, end_s = words[0], float(words[1]), float(words[2])
        if not start_s >= 0 or not (end_s == -1 or start_s < end_s < float("inf")):
            raise ValueError(f"from {start_s:g} s to {end_s:g} s")
    except (IndexError, ValueError) as error:
        raise InputError(f"{line.where}: expected utterance, recording, start and end in seconds ({error})") from error
    if name not in recordings:
        raise InputError(f"{line.where}: {WAVES} has no recording {short(name)}")
    place = Place(start_s=start_s, length_s=None if end_s == -1 else end_s - start_s)
    return line.key, _uri(recordings[name], files), place


def _uri(line: _Line, files: NamedFiles) -> str:
    path = line.rest
    if path.endswith("|") or path.startswith("|"):
        raise InputError(
            f"{line.where}: {short(path)} is a command, and lists are never run here. Write its output to files"
            " (in Kaldi: wav-copy scp:wav.scp ark,scp or ffmpeg), and name those"
        )
    if path == "-" or ".ark:" in path or not path:
        raise InputError(
            f"{line.where}: {short(path)} is no audio file; Kaldi's archives and standard input are not read"
        )
    return files.uri(path, line.where, WAVES)


class _Told:
    """What a sorted list tells of ids that are asked for in order; it is read as far as it is asked."""

    def __init__(self, lines: Iterator[_Line]) -> None:
        self._lines = _in_order(lines)
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


def _in_order(lines: Iterator[_Line]) -> Iterator[_Line]:
    before = ""
    for line in lines:
        if line.key <= before:
            raise InputError(
                f"{line.where}: {short(line.key)} stands behind {short(before)}. Kaldi wants its lists sorted by id,"
                " each id once: LC_ALL=C sort -u, or utils/fix_data_dir.sh"
            )
        before = line.key
        yield line


def _lines(folder: str, name: str, storage: Storage) -> Iterator[_Line]:
    """The lines of one list; none if there is no such list."""
    uri = join(folder, name)
    if storage.stat(uri) is None:
        return
    for number, line in enumerate(read_lines(uri, storage), 1):
        words = line.split(maxsplit=1)
        if words:
            yield _Line(words[0], words[1].strip() if len(words) > 1 else "", f"{uri} line {number}")
