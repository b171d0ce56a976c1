"""Finds numbers, e-mail addresses and names in text, and replaces them by ``[number]``, ``[email]`` and ``[name]``.

Numbers are digits of any script with the separators inside them (``4242-1234``, ``12.50``), and sequences of English
number words of a minimum length ("four two double oh"), in texts of any language. Addresses are found as they are
written and as they are spoken in English ("john dot smith at example dot com"). Names are compared word by word without
regard to case; names of scripts that write no spaces are found anywhere.

What is found is a guess by the form of the words: text that the module does not recognize stays. Where two spans
overlap, the whole range is masked once. Masking a masked text changes nothing. The module knows only text.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import pairwise


class Kind(StrEnum):
    """The kind of a span, named by its mask. Where spans overlap, the first of these kinds counts."""

    EMAIL = "email"
    NAME = "name"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class Span:
    """Characters of a text from `start` to before `end`."""

    start: int
    end: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class _Word:
    start: int
    end: int
    folded: str  # NFC, without case


MASKS = {kind: f"[{kind}]" for kind in Kind}

_MASK = re.compile("|".join(map(re.escape, MASKS.values())))
_BLANK = "\0"  # stands for characters that are masked: no word character and no space

_NUMERAL = r"\d\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2079\u2080-\u2089\u2150-\u218b\u2460-\u249b"
_DIGITS = re.compile(rf"\+?[{_NUMERAL}]+(?:(?:[\s.,:/–−-]|\s?[()/–−-]\s?)[{_NUMERAL}]+)*")

_DIGIT_WORDS = "zero oh o nought naught nil one two three four five six seven eight nine"
_LARGER_WORDS = (
    "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty"
    " seventy eighty ninety hundred thousand million billion trillion"
)
_NUMBER_WORDS = frozenset(f"{_DIGIT_WORDS} {_LARGER_WORDS}".split())
_REPEATS = frozenset(("double", "triple", "treble"))  # of the digit that follows
_FILLERS = frozenset(("and", "point", "dash", "hyphen", "minus", "plus"))  # between number words
_UNSURE = frozenset(("oh", "o"))  # also interjections: they count in a sequence of three words or more
_SEQUENCE_WORDS = _NUMBER_WORDS | _REPEATS | _FILLERS
_SEQUENCE_GAP = re.compile(r"[\s,.;:–—-]{1,4}")

# Repetitions are bounded, because a text without blanks or of a repeated letter would take quadratic time.
_WRITTEN_EMAIL = re.compile(r"[^\s@,;:<>()\[\]\0]{1,64}\s?@\s?[^\s@,;:<>()\[\]\0]{0,255}[^\s@,;:<>()\[\]\0.!?]")
_NUMBER = rf"(?:{'|'.join(sorted(_NUMBER_WORDS | _REPEATS))})(?!\w)"
_SPELLED = rf"(?:\w(?!\w)|{_NUMBER})[\s,.-]+"  # a letter or number of a local part
_LOCAL_SIGN = r"(?:\s+(?:dot|underscore|dash|hyphen|plus)\s+|[._+-])"
_DOT = r"(?:\s+dot\s+|\.)"
_SPOKEN_EMAIL = re.compile(
    rf"(?<!\w)(?:\w+\s+(?={_NUMBER}))?(?:{_SPELLED}){{0,40}}\w+(?:{_LOCAL_SIGN}\w+){{0,20}}\.?\s+at(?:\s+sign)?\s+"
    rf"(?:\w+\s+){{0,2}}?\w+(?:-\w+){{0,10}}(?:{_DOT}\w+(?:-\w+){{0,10}}){{0,10}}{_DOT}[^\W\d_]{{2,}}(?!\w)",
    re.IGNORECASE,
)

_NAME_GAP = re.compile(r"[\s.'’-]{1,3}")  # between the words of one name
_UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


class TextMasker:
    """Finds and masks what `kinds` name."""

    def __init__(self, kinds: Collection[Kind], names: Iterable[str] = (), min_number_words: int = 2) -> None:
        """Args:
        kinds: What to mask.
        names: Names for `Kind.NAME`, each of one word or several.
        min_number_words: Number words in a row that are masked; digits always are.
        """
        self._kinds = kinds
        self._min_number_words = min_number_words
        self._names: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)  # by their first word
        unspaced = []
        for name in names:
            words = tuple(word.folded for word in _split_words(name))
            if any(map(_is_unspaced, name)):
                unspaced.append(re.escape(unicodedata.normalize("NFC", name.strip())))
            elif words:
                self._names[words[0]].add(words)
        self._unspaced = re.compile("|".join(sorted(unspaced, key=len, reverse=True))) if unspaced else None

    def find(self, text: str) -> list[Span]:
        """Returns the spans to mask, in order and without overlap. Masks that the text has already are not among them.

        What remains of the text without them has no further match.
        """
        text = _MASK.sub(lambda match: _BLANK * len(match[0]), text)
        spans: list[Span] = []
        while found := _merge(self._matches(text)):
            spans += found
            for span in found:
                text = text[: span.start] + _BLANK * (span.end - span.start) + text[span.end :]
        return sorted(spans, key=lambda span: span.start)

    def mask(self, text: str) -> str:
        """Returns the text with every span of `find` replaced by its mask."""
        return "".join(mask_pieces([text], self.find(text), ""))

    def _matches(self, text: str) -> Iterator[Span]:
        if Kind.EMAIL in self._kinds:
            for pattern in (_WRITTEN_EMAIL, _SPOKEN_EMAIL):
                yield from (Span(*match.span(), Kind.EMAIL) for match in pattern.finditer(text))
        words = _split_words(text)
        if Kind.NAME in self._kinds:
            yield from self._find_names(text, words)
        if Kind.NUMBER in self._kinds:
            yield from (Span(*match.span(), Kind.NUMBER) for match in _DIGITS.finditer(text))
            yield from self._find_number_words(text, words)

    def _find_names(self, text: str, words: Sequence[_Word]) -> Iterator[Span]:
        if self._unspaced is not None:
            yield from (Span(*match.span(), Kind.NAME) for match in self._unspaced.finditer(text))
        for first, word in enumerate(words):
            for name in self._names.get(word.folded, ()):
                own = words[first : first + len(name)]
                gaps = (text[before.end : after.start] for before, after in pairwise(own))
                if tuple(one.folded for one in own) == name and all(map(_NAME_GAP.fullmatch, gaps)):
                    yield Span(word.start, own[-1].end, Kind.NAME)

    def _find_number_words(self, text: str, words: Sequence[_Word]) -> Iterator[Span]:
        sequence: list[_Word] = []
        for word in words:
            is_part = word.folded in _SEQUENCE_WORDS or _DIGITS.fullmatch(word.folded) is not None
            if sequence and not (is_part and _SEQUENCE_GAP.fullmatch(text[sequence[-1].end : word.start])):
                yield from self._number_span(sequence)
                sequence = []
            if is_part:
                sequence.append(word)
        yield from self._number_span(sequence)

    def _number_span(self, sequence: list[_Word]) -> Iterator[Span]:
        """Yields the span of a sequence of number words, if it is long enough."""
        numbers = [word for word in sequence if word.folded not in _FILLERS]
        sure = [word for word in numbers if word.folded not in _UNSURE]
        counted = numbers if len(numbers) > 2 and sure else sure
        if numbers and len(counted) >= self._min_number_words:
            yield Span(counted[0].start, counted[-1].end, Kind.NUMBER)


def mask_pieces(pieces: Sequence[str], spans: Iterable[Span], separator: str) -> list[str]:
    """Returns the pieces of a text with spans masked.

    The mask of a span is in the piece in which the span begins; the other pieces lose the characters of the span.

    Args:
        pieces: Such as the words or segments of a transcript.
        spans: Spans of the pieces joined by the separator, in order.
        separator: Between the pieces.
    """
    masked, offset = [], 0
    spans = list(spans)
    first = 0
    for piece in pieces:
        end = offset + len(piece)
        while first < len(spans) and spans[first].end <= offset:
            first += 1
        text, position = "", offset
        for index in range(first, len(spans)):
            span = spans[index]
            if span.start >= end:
                break
            text += piece[position - offset : max(span.start, offset) - offset]
            text += MASKS[span.kind] if span.start >= offset else ""
            position = min(span.end, end)
        masked.append(text + piece[position - offset :])
        offset = end + len(separator)
    return masked


def _merge(spans: Iterable[Span]) -> list[Span]:
    """Returns the spans in order, those that overlap as one, of the first kind of theirs."""
    merged: list[Span] = []
    order = list(Kind)
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if merged and span.start < merged[-1].end:
            last = merged.pop()
            merged.append(Span(last.start, max(last.end, span.end), min(last.kind, span.kind, key=order.index)))
        else:
            merged.append(span)
    return merged


def _split_words(text: str) -> list[_Word]:
    """Returns the words of a text: runs of letters, digits and the marks on them."""
    words, start = [], -1
    for position, sign in enumerate(f"{text}\0"):
        if _is_word_sign(sign):
            start = position if start < 0 else start
        elif start >= 0:
            folded = unicodedata.normalize("NFC", text[start:position].casefold())
            words.append(_Word(start, position, folded))
            start = -1
    return words


@cache
def _is_word_sign(sign: str) -> bool:
    return sign.isalnum() or unicodedata.category(sign).startswith("M")


@cache
def _is_unspaced(sign: str) -> bool:
    return unicodedata.name(sign, "").startswith(_UNSPACED_SCRIPTS)
