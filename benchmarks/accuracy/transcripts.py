"""Transcripts of one program in one mode: what is stored is read, what is missing is transcribed and stored.

A program runs in one process for many recordings, a portion at a time. When it fails in a portion, the recordings of it
are tried one by one, each in a new process if the one before has died; a recording that fails alone is stored as failed
and counts as an empty transcript.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.clips import Clip, ClipSets
from benchmarks.comparison.interleave import TranscriptionFailedError
from benchmarks.comparison.worker import SetResult
from benchmarks.json_lines_cache import JsonLinesCache

Portion = Sequence[Clip]  # of one set, in one language
# Starts a process for these portions and yields the result of each.
Start = Callable[[Sequence[Portion]], Iterator[SetResult]]


@dataclass(frozen=True, slots=True)
class Transcript:
    """A stored transcript.

    Attributes:
        text: The text; empty for a recording that failed.
        cpu_s: CPU seconds; a portion's seconds are divided by the length of its recordings.
        wall_s: Seconds, likewise.
        error: Why the recording failed; empty if it did not.
    """

    text: str
    cpu_s: float
    wall_s: float
    error: str = ""


class TranscriptStore:
    """The transcripts of one program, mode, checkpoint and choice of language, in one file."""

    def __init__(self, path: Path) -> None:
        self._lines = JsonLinesCache(path)

    def get(self, clip: Clip) -> Transcript | None:
        """Returns the transcript of a recording; None if it is missing."""
        key = _key(clip)
        return Transcript(**self._lines[key]) if key in self._lines else None

    def add(self, clip: Clip, transcript: Transcript) -> None:
        self._lines.add(_key(clip), asdict(transcript))


def _key(clip: Clip) -> str:
    """Returns the id of a recording and a hash of its samples."""
    return f"{clip.clip_id} {hashlib.sha256(clip.path.read_bytes()).hexdigest()[:16]}"


def transcribe_missing(
    sets: ClipSets, store: TranscriptStore, at_once: int, start: Start, on_message: Callable[[str], None]
) -> int:
    """Transcribes the recordings that the store lacks. Returns how many there were.

    Args:
        sets: All recordings.
        store: Receives each portion as soon as it is transcribed.
        at_once: Recordings in a portion at most.
        start: Starts the program.
        on_message: Receives a line for each recording that fails.

    Raises:
        UnavailableError: The program fails before it has loaded its model.
    """
    pending = [
        portion
        for clips in sets.values()
        for portion in _cut_into_portions([clip for clip in clips if store.get(clip) is None], at_once)
    ]
    number = sum(map(len, pending))
    while pending:
        done = 0
        try:
            for result, portion in zip(start(pending), pending, strict=True):
                _store(result, portion, store)
                done += 1
            pending = []
        except TranscriptionFailedError as error:
            failed, *others = pending[done:]
            if len(failed) == 1:
                on_message(f"{failed[0].clip_id}: {error}")
                store.add(failed[0], Transcript("", 0.0, 0.0, str(error)))
                pending = others
            else:
                pending = [*([clip] for clip in failed), *others]
    return number


def _cut_into_portions(clips: Sequence[Clip], at_once: int) -> Iterator[Portion]:
    """Yields portions of clips of the same language."""
    for language in dict.fromkeys(clip.language for clip in clips):
        same = [clip for clip in clips if clip.language == language]
        for first in range(0, len(same), at_once):
            yield same[first : first + at_once]


def _store(result: SetResult, portion: Portion, store: TranscriptStore) -> None:
    audio_s = sum(clip.audio_s for clip in portion)
    for clip, text in zip(portion, result.texts, strict=True):
        share = clip.audio_s / audio_s
        store.add(clip, Transcript(text, result.cpu_s * share, result.wall_s * share))
