"""Subtitles of a transcript: finds the timed words that `cues` divides, and writes times.

Words come from the columns `words` and `segments`, else from the chunks: the first that has the whole text, because
other recognizers than Whisper may give times for a part of it only. Where only the times of a segment or chunk are
known, its words share them in proportion to their widths.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from distil_ray.errors import SettingsError
from distil_ray.export.cues import Cue, CueSettings, Passage, build_cues
from distil_ray.export.line_breaks import SENTENCE_END, CueWord, can_break, split_words, text_width
from distil_ray.export.transcripts import NotExportableError, Transcript
from distil_ray.types import Segment

CUE_COLUMNS = ("segments", "words", *(f"chunks.list.element.{name}" for name in ("start_s", "end_s", "text")))
INCOMPLETE = "its words, segments or chunks lack a part of its text"  # reason not to export a transcript
PAUSE_S = 0.7  # between words without segments, after which a new passage begins

# Line breaks of any reader, and control characters, which no format allows.
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def build_transcript_cues(transcript: Transcript, settings: CueSettings, step: int = 1) -> list[Cue]:
    """Returns the cues of a transcript; none if it has no words or is shorter than a step.

    Args:
        transcript: A transcript with `CUE_COLUMNS`.
        settings: The limits of cues.
        step: See `build_cues`.

    Raises:
        NotExportableError: The transcript has neither segments nor words that make up its text, and its chunks do not
            either, as those that overlap: words near a chunk boundary are in two chunks.
        SettingsError: Words are to be highlighted, and the transcript has no word times.
    """
    groups = list(_group_words(transcript.segments or (), transcript.words or (), transcript.text))
    if settings.highlight_words and not groups:
        require_word_times(transcript)
    passages = [Passage(time_words(group)) for group in groups or ([span] for span in _find_spans(transcript))]
    return build_cues(passages, settings, int(transcript.duration_s * 1000), step)


def require_word_times(transcript: Transcript) -> None:
    """Raises `SettingsError` for a transcript with a text, which has no word times to highlight."""
    if one_line(transcript.text):
        raise SettingsError(
            f"highlight_words=true: {transcript.recording_id} has no word times that agree with its text. Run again"
            " with decoding.timestamps=word (and output.on_settings_change=redo, to replace the transcripts of this"
            " output)"
        )


def time_words(spans: Sequence[Segment]) -> tuple[CueWord, ...]:
    """Returns the words of adjacent spans: words, whose texts include the blanks around them, or one segment.

    A span is divided where a line may be broken inside of it. A span without a text adds its time to the word before.
    """
    words: list[CueWord] = []
    follows_blank = False
    for span in spans:
        start, end = round(span.start_s * 1000), round(span.end_s * 1000)
        text = _BREAKS.sub(" ", span.text)
        pieces = split_words(text)
        begins_with_blank = follows_blank or text[:1].isspace()
        follows_blank = text[-1:].isspace() or (follows_blank and not pieces)
        if not pieces:
            if words:
                words[-1] = CueWord(words[-1].start, end, words[-1].text)
            continue
        if words and begins_with_blank:
            pieces[0] = f" {pieces[0]}"
        elif words and not can_break(words[-1].text[-1], pieces[0][0]):
            last = words.pop()
            start, pieces[0] = last.start, last.text + pieces[0]
        ends = list(accumulate(max(text_width(piece), 1) for piece in pieces))
        times = [start + (end - start) * at // ends[-1] for at in (0, *ends)]
        words += [CueWord(*time, piece) for time, piece in zip(pairwise(times), pieces, strict=True)]
    return tuple(words)


def one_line(text: str) -> str:
    """Returns the text without line breaks and control characters."""
    return _BREAKS.sub(" ", text).strip()


def format_time(milliseconds: int, point: str) -> str:
    """Returns a time as 00:00:00 with `point` before the milliseconds."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"


def make_up(spans: Sequence[Segment], text: str) -> bool:
    """Returns True if the texts of spans, in order, are a text, up to blanks."""
    return _without_blanks(spans) == "".join(_BREAKS.sub(" ", text).split())


def _group_words(segments: Sequence[Segment], words: Sequence[Segment], text: str) -> Iterator[list[Segment]]:
    """Yields the words of each segment; without segments that make up the text, those up to a sentence's end or pause.

    There are no groups if the words do not make up the text.
    """
    if not make_up(words, text):
        return
    if not make_up(segments, text):
        yield from _split_sentences(words)
        return
    ends = list(accumulate(len(_without_blanks([segment])) for segment in segments))
    groups: list[list[Segment]] = [[] for _ in segments]
    position = 0
    for word in words:
        groups[min(bisect_right(ends, position), len(groups) - 1)].append(word)
        position += len(_without_blanks([word]))
    yield from filter(None, groups)


def _find_spans(transcript: Transcript) -> Sequence[Segment]:
    """Returns the segments, else the chunks, that make up the text; nothing if there is no text in any of them."""
    segments, chunks = transcript.segments or (), transcript.chunks
    if make_up(segments, transcript.text):
        return segments
    if any(after.start_s < before.end_s for before, after in pairwise(chunks)):
        raise NotExportableError("recognized in overlapping chunks, without times (decoding.timestamps=segment)")
    if make_up(chunks, transcript.text):
        return chunks
    if not _without_blanks([*segments, *chunks]):
        return ()
    raise NotExportableError(INCOMPLETE)


def _split_sentences(words: Sequence[Segment]) -> Iterator[list[Segment]]:
    group: list[Segment] = []
    for word in words:
        if group and (group[-1].text.rstrip().endswith(SENTENCE_END) or word.start_s - group[-1].end_s > PAUSE_S):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _without_blanks(spans: Sequence[Segment]) -> str:
    return "".join("".join(_BREAKS.sub(" ", span.text).split()) for span in spans)
