"""RTTM files (NIST Rich Transcription Time Marked): who speaks when in an audio file.

A line has ten fields separated by blanks:

    SPEAKER call-7 1 12.500 3.250 <NA> <NA> alice <NA> <NA>

They are type, name of the audio, channel (from 1), start and duration in seconds of the file, two unused fields,
speaker, and two unused fields, of which older files have one. Kaldi and SpeechBrain write channel 0 in all lines: it
counts as ``<NA>``. Lines of the other types of RTTM and comments (``;;``) are skipped. Every other line is an error
that names file and line, and fails the recordings of that file: a skipped line would give its words to somebody else.

`add_speaker_turns` reads the file that a reader has found for a recording (`Recording.rttm_uri`). Times become those of
the recording, which may be a segment or a channel of its file.
"""

import math
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

from distil_ray.errors import ErrorKind, InputError
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.readers.references import stem
from distil_ray.readers.row_errors import RowError
from distil_ray.readers.row_files import quote_short, read_lines
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.types import AudioLocation, Recording, SpeakerTurn

EXTENSION = ".rttm"
NUM_FIELDS = (9, 10)
NO_VALUE = "<NA>"
CACHED_FILES = 64  # parsed files that are kept for the recordings that follow: segments and channels share one
OTHER_TYPES = re.compile("SEGMENT|NOSCORE|NO_RT_METADATA|LEXEME|NON-LEX|NON-SPEECH|FILLER|EDIT|IP|SU|CB|A/P|SPKR-INFO")


@dataclass(frozen=True, slots=True)
class RttmTurn:
    """A SPEAKER line. Times are seconds of the audio file; `channel` counts from 1, None where the line names none."""

    file_name: str
    channel: int | None
    start_s: float
    end_s: float
    speaker: str


def parse_rttm(lines: Iterable[str], uri: str) -> list[RttmTurn]:
    """Parses the lines of an RTTM file.

    Args:
        lines: The lines.
        uri: The file, for messages.

    Raises:
        RowError: A line is wrong; the message has file and line.
    """
    turns = []
    where_zero = where_other = ""
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or fields[0].startswith(";;") or OTHER_TYPES.fullmatch(fields[0]):
            continue
        where = f"{uri} line {number}"
        turn = _parse_line(fields, where)
        if turn.channel == 0:
            where_zero, turn = where, replace(turn, channel=None)
        elif turn.channel is not None:
            where_other = where
        if where_zero and where_other:
            raise RowError(f"{where}: channels count from 1, but {where_zero} has channel 0 and {where_other} another")
        turns.append(turn)
    return turns


def _parse_line(fields: list[str], where: str) -> RttmTurn:
    if fields[0] != "SPEAKER":
        raise RowError(f"{where}: must begin with SPEAKER or another type of RTTM, found {quote_short(fields[0])}")
    if len(fields) not in NUM_FIELDS:
        raise RowError(f"{where}: a SPEAKER line has {' or '.join(map(str, NUM_FIELDS))} fields, found {len(fields)}")
    _, file_name, channel, start, duration, _, _, speaker, *_ = fields
    start_s, duration_s = _parse_seconds(start, "start", where), _parse_seconds(duration, "duration", where)
    if channel != NO_VALUE and not (channel.isascii() and channel.isdecimal()):
        raise RowError(f"{where}: the channel must be a number from 1 or {NO_VALUE}, found {quote_short(channel)}")
    if speaker == NO_VALUE:
        raise RowError(f"{where}: names no speaker ({NO_VALUE})")
    return RttmTurn(file_name, None if channel == NO_VALUE else int(channel), start_s, start_s + duration_s, speaker)


def _parse_seconds(text: str, what: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise RowError(f"{where}: the {what} must be seconds from 0, found {quote_short(text)}")
    return seconds


def select_turns(turns: Iterable[RttmTurn], recording: Recording, uri: str) -> tuple[SpeakerTurn, ...]:
    """Returns the turns of a recording, with times from its first sample, ordered by start.

    A file about one audio file applies whatever name it gives that audio. Of a file about several, the lines with the
    name of the recording's audio file (without its extension) or with the recording's id are used. A recording that is
    one channel of its file has the turns of that channel.

    Raises:
        RowError: The file is about several audio files, and none of them is the recording's.
    """
    turns = list(turns)
    location = recording.location or AudioLocation()
    found = {turn.file_name for turn in turns}
    if len(found) > 1:
        audio = location.member or recording.uri
        found &= {posixpath.basename(stem(audio)), posixpath.basename(audio), recording.recording_id}
        if not found:
            name = posixpath.basename(stem(audio))
            raise RowError(f"{uri}: has turns of several audio files, and none of them is named {quote_short(name)}")
    channels = {None, None if location.channel is None else location.channel + 1}
    first = location.start_s or 0.0
    last = math.inf if location.length_s is None else first + location.length_s
    kept = [
        SpeakerTurn(max(turn.start_s, first) - first, min(turn.end_s, last) - first, turn.speaker)
        for turn in turns
        if turn.file_name in found
        and (location.channel is None or turn.channel in channels)
        and turn.end_s > first
        and turn.start_s < last
    ]
    return tuple(sorted(kept, key=lambda turn: (turn.start_s, turn.end_s, turn.speaker)))


def add_speaker_turns(recordings: Iterable[Recording], storage: Storage) -> Iterator[Recording]:
    """Yields the recordings in order, with the speaker turns of their RTTM files.

    A recording whose RTTM file is missing, wrong or about other audio gets the error.
    """
    stream = iter(recordings)
    first = next(stream, None)
    if first is None:
        return

    @lru_cache(CACHED_FILES)
    def read(uri: str) -> list[RttmTurn]:
        return parse_rttm(read_lines(uri, storage), uri)

    def has_file(recording: Recording) -> bool:
        return recording.rttm_uri is not None and recording.error is None

    def add(recording: Recording) -> Recording:
        uri = recording.rttm_uri
        if uri is None or not has_file(recording):
            return recording
        try:
            return replace(recording, speaker_turns=select_turns(read(uri), recording, uri))
        except InputError as error:
            return replace(recording, error_kind=ErrorKind.INVALID_ROW, error=str(error))
        except StorageError as error:
            if error.kind not in (ErrorKind.NOT_FOUND, ErrorKind.FORBIDDEN):
                raise
            return replace(recording, error_kind=error.kind, error=str(error))

    yield from ordered_parallel_map(add, chain([first], stream), num_request_threads(first.uri), has_file)
