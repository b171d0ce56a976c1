"""Line breaks of subtitles: the words that a line may be broken between, and their distribution over lines.

Words are separated by blanks. In scripts without blanks (Chinese characters, kana, Thai, Lao, Burmese, Khmer) a word is
a character with its combining marks. No line begins with closing punctuation or a small kana, and none ends with
opening punctuation. The script decides and not the language, so that mixed texts are broken correctly. Hangul is broken
at blanks.

Widths are in columns: a wide or fullwidth character (Unicode Standard Annex 11) has two, a combining mark none.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

SENTENCE_END = tuple(".?!…。？！｡؟।")
CLAUSE_END = tuple(",;:—–、，；：､،؛")
PAUSE_MS = 300  # between words, from which a break is preferred to one inside of a phrase

# Cost of a break after the end of a sentence, after the end of a clause, at a pause, and elsewhere.
SENTENCE_COST, CLAUSE_COST, PAUSE_COST, WORD_COST = 0.0, 0.25, 0.5, 1.0
# Weight of that cost against the squared widths of two lines. 50 columns are then broken as 15 + 35 after a comma, but
# not as 10 + 40.
BREAK_WEIGHT = 0.25

_CLOSING = "\"'”’»)]}」』】》〉）"
_UNSPACED = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF)),  # Thai and Lao, Burmese, Khmer
    *((0x2E80, 0x312F), (0x31A0, 0x9FFF), (0xF900, 0xFAFF), (0xFF00, 0xFF9F), (0x20000, 0x3FFFF)),  # Chinese, kana
)
_NOT_AT_START = frozenset("々ーぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶะาำๆฯະາຳໆ")
_NOT_AT_END = frozenset("เแโใไເແໂໃໄ\u1039\u17d2\u200d")  # vowels written before their consonant; stacking signs


@dataclass(frozen=True, slots=True)
class CueWord:
    """A word of a subtitle: `start` and `end` in milliseconds; `text` begins with a blank where one precedes it."""

    start: int
    end: int
    text: str


def split_words(text: str) -> list[str]:
    """Splits a text where a line may be broken. A word that follows a blank begins with a blank."""
    words: list[str] = []
    for token in text.split():
        begins = [at for at in range(1, len(token)) if can_break(token[at - 1], token[at])]
        pieces = [token[begin:end] for begin, end in pairwise([0, *begins, len(token)])]
        if words:
            pieces[0] = f" {pieces[0]}"
        words += pieces
    return words


def can_break(before: str, after: str) -> bool:
    """Returns True if a line may be broken between two adjacent characters that are not blanks."""
    if not (is_unspaced(before) or is_unspaced(after)):
        return False
    category = unicodedata.category(after)
    return not (
        category[0] == "M"
        or category in ("Cf", "Pe", "Pf", "Po")
        or after in _NOT_AT_START
        or before in _NOT_AT_END
        or unicodedata.category(before) in ("Ps", "Pi")
    )


@lru_cache(maxsize=4096)
def is_unspaced(character: str) -> bool:
    """Returns True for a character of a script that writes no blanks between words."""
    return any(first <= ord(character) <= last for first, last in _UNSPACED)


def text_width(text: str) -> int:
    """Returns the width of a text in columns."""
    return len(text) if text.isascii() else sum(map(_character_width, text))


@lru_cache(maxsize=4096)
def _character_width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def line_text(words: Sequence[CueWord]) -> str:
    """Returns the text of a line."""
    return "".join(word.text for word in words).strip()


def break_cost(before: CueWord, after: CueWord) -> float:
    """Returns the cost of a break between two words, from 0 after a sentence to 1 inside of a phrase."""
    text = before.text.rstrip(_CLOSING) or before.text
    if text.endswith(SENTENCE_END):
        return SENTENCE_COST
    if text.endswith(CLAUSE_END) or (after.text.startswith(" ") and is_unspaced(text[-1])):
        return CLAUSE_COST
    return PAUSE_COST if after.start - before.end >= PAUSE_MS else WORD_COST


def break_lines(words: Sequence[CueWord], max_width: int, label_width: int = 0) -> tuple[tuple[CueWord, ...], ...]:
    """Distributes words over as few lines as possible.

    Of the ways with that many lines, the one with the smallest sum of squared line widths and `break_cost` is chosen.
    A word that is wider than a line has a line for itself.

    Args:
        words: At least one.
        max_width: Columns of a line; 0 for no limit.
        label_width: Columns of the first line that are taken.
    """
    if not max_width:
        return (tuple(words),)
    best: list[tuple[int, float, int]] = [(0, 0.0, 0)]  # lines, cost and begin of the last line, by number of words
    for end in range(1, len(words) + 1):
        found: list[tuple[int, float, int]] = []
        width = 0
        after_cost = BREAK_WEIGHT * break_cost(words[end - 1], words[end]) if end < len(words) else 0.0
        for begin in range(end - 1, -1, -1):
            text = words[begin].text
            whole = width + text_width(text.lstrip()) + (0 if begin else label_width)
            if whole > max_width and found:
                break
            lines, cost, _ = best[begin]
            found.append((lines + 1, cost + (whole / max_width) ** 2 + after_cost, begin))
            width += text_width(text)
        best.append(min(found))
    lines_found: list[tuple[CueWord, ...]] = []
    end = len(words)
    while end:
        begin = best[end][2]
        lines_found.append(tuple(words[begin:end]))
        end = begin
    return tuple(reversed(lines_found))
