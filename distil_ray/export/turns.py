"""Turns of a conversation, made of the timed words or segments of one recording or of several.

The words of a recording are first grouped into phrases. A phrase ends with its segment, at a pause of more than
`PHRASE_PAUSE_S`, or where the speaker changes; it is never divided. Without words every segment is a phrase. The
phrases of all recordings are then ordered by their starts. Consecutive phrases of one speaker become a turn, if the
pause between them is not longer than a limit.

So two speakers who talk at the same time keep their own times, and a turn is divided where somebody else begins only
if the first speaker pauses or ends a segment before going on.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from distil_ray.types import Segment

PHRASE_PAUSE_S = 0.5  # between words of one speaker; shorter pauses occur within a sentence


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words, or one segment, that are said in one go.

    Attributes:
        recording: Number of the recording in its conversation.
        speaker: The speaker; None if it is not known.
        spans: The words, or the segment. Times are seconds of the conversation.
        has_words: `spans` are words, whose texts include the blanks between them.
    """

    recording: int
    speaker: str | None
    spans: tuple[Segment, ...]
    has_words: bool

    @property
    def start_s(self) -> float:
        """Start of the phrase."""
        return self.spans[0].start_s

    @property
    def end_s(self) -> float:
        """End of the phrase."""
        return self.spans[-1].end_s


@dataclass(frozen=True, slots=True)
class Turn:
    """Consecutive phrases of one speaker."""

    phrases: tuple[Phrase, ...]

    @property
    def recording(self) -> int:
        """Number of the recording in its conversation."""
        return self.phrases[0].recording

    @property
    def speaker(self) -> str | None:
        """The speaker; None if it is not known."""
        return self.phrases[0].speaker

    @property
    def spans(self) -> tuple[Segment, ...]:
        """The words, or the segments, in order."""
        return tuple(span for phrase in self.phrases for span in phrase.spans)

    @property
    def has_words(self) -> bool:
        """True if `spans` are words."""
        return self.phrases[0].has_words

    @property
    def start_s(self) -> float:
        """Start of the turn, in seconds of the conversation."""
        return self.phrases[0].start_s

    @property
    def end_s(self) -> float:
        """End of the turn, in seconds of the conversation."""
        return max(phrase.end_s for phrase in self.phrases)


def split_phrases(
    recording: int, segments: Sequence[Segment], words: Sequence[Segment], speaker: str | None
) -> list[Phrase]:
    """Groups the words of a recording into phrases; without words, its segments are the phrases.

    Args:
        recording: Number of the recording in its conversation.
        segments: Its segments, in order of time.
        words: Its words, in order of time; may be empty.
        speaker: Speaker of words and segments that name none.
    """
    if not words:
        return [Phrase(recording, one.speaker or speaker, (one,), has_words=False) for one in segments]
    return [
        Phrase(recording, group[0].speaker or speaker, tuple(group), has_words=True)
        for group in _group_words(segments, words)
    ]


def _group_words(segments: Sequence[Segment], words: Sequence[Segment]) -> Iterator[list[Segment]]:
    group: list[Segment] = []
    following = 1  # the segment after that of the word before
    for word in words:
        begins_segment = False
        while following < len(segments) and word.start_s >= segments[following].start_s:
            begins_segment, following = True, following + 1
        if group and (
            begins_segment or word.speaker != group[-1].speaker or word.start_s - group[-1].end_s > PHRASE_PAUSE_S
        ):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def build_turns(phrases: Iterable[Phrase], max_pause_s: float) -> list[Turn]:
    """Joins the phrases of a conversation to turns, ordered by their starts.

    Args:
        phrases: Phrases of all recordings, those of a recording in order of time.
        max_pause_s: Longest pause between two phrases of one turn.
    """
    turns: list[list[Phrase]] = []
    for phrase in sorted(phrases, key=lambda phrase: (phrase.start_s, phrase.recording)):
        last = turns[-1][-1] if turns else None
        if (
            last is not None
            and (last.recording, last.speaker) == (phrase.recording, phrase.speaker)
            and phrase.start_s - last.end_s <= max_pause_s
        ):
            turns[-1].append(phrase)
        else:
            turns.append([phrase])
    return [Turn(tuple(turn)) for turn in turns]
