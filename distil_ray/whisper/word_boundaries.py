"""Tokens to words, by the rules of openai's Whisper, which transformers shares.

Where a language puts blanks between words, a word begins at a blank or at punctuation that stands alone; elsewhere
every token, or the few that make up a character, is a word. Punctuation then joins its neighbor. A word keeps the
blank before it, so that the words of a text, joined without anything between them, are the text to the letter. Each
word tells which of its tokens are spoken: punctuation has no part in the times of a word. Knows ids and languages;
the times come with the tokens (recognition/alignment.py).
"""

import codecs
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby

from distil_ray.whisper.tokenizer import SECONDS_PER_TIMESTAMP, Tokens

UNSEGMENTED_LANGUAGES = frozenset(
    {"zh", "ja", "th", "lo", "my", "yue"}
)  # languages whose every token is a word, as openai has it

_STANDS_ALONE = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_JOINS_NEXT = "\"'“¡¿([{-"
_JOINS_BEFORE = "\"'.。,，!！?？:：”)]}、"
_READ_ALOUD = "%‰&@#§*/\\"  # punctuation by Unicode's categories, but spoken


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """The tokens of one word: places in the ids that it was made from, in their order, and its text.

    ``spoken``: those of its places that are not punctuation or blanks alone; empty where punctuation is all of it.
    """

    places: tuple[int, ...]
    text: str
    spoken: tuple[int, ...]


def split_words(ids: Sequence[int], language: str | None, tokens: Tokens) -> list[TokenGroup]:
    """The words of a chunk's `ids`, time tokens among them; joined, their texts are `tokens.decode(ids)`.

    No word reaches over a time token. Other special tokens belong to no word. `language`: of the text as written.
    """
    found: list[TokenGroup] = []
    run: list[int] = []
    for place, token in enumerate((*ids, tokens.timestamp_begin)):
        if token >= tokens.timestamp_begin:
            found += _split_run(run, ids, language, tokens)
            run = []
        elif token < tokens.eot:
            run.append(place)
    return _strip_outside(_without_blanks(found))


def _strip_outside(words: Sequence[TokenGroup]) -> list[TokenGroup]:
    """Without the blanks before the first word and after the last."""
    kept = list(words)
    if kept:
        kept[0] = replace(kept[0], text=kept[0].text.lstrip())
        kept[-1] = replace(kept[-1], text=kept[-1].text.rstrip())
    return kept


def _split_run(places: Sequence[int], ids: Sequence[int], language: str | None, tokens: Tokens) -> list[TokenGroup]:
    characters = _characters(places, ids, tokens)
    is_unspaced = language is not None and language.lower().replace("_", "-").split("-")[0] in UNSEGMENTED_LANGUAGES
    return _join_punctuation(characters if is_unspaced else _join_at_blanks(characters))


def _characters(places: Sequence[int], ids: Sequence[int], tokens: Tokens) -> list[TokenGroup]:
    """Tokens grouped so that no group ends within a character; bytes that are no text become U+FFFD, as in decoding."""
    groups = []
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    inside: list[int] = []
    text = ""
    for number, place in enumerate(places):
        is_last = number == len(places) - 1
        inside.append(place)
        text += decoder.decode(_bytes_of(tokens.tokenizer.id_to_token(ids[place]) or ""), is_last)
        if is_last or not decoder.getstate()[0]:
            groups.append(TokenGroup(tuple(inside), text, tuple(inside) if _is_spoken(text) else ()))
            inside, text = [], ""
    return groups


def _is_spoken(text: str) -> bool:
    """Whether a text is more than blanks and punctuation that is not read aloud."""
    return any(
        sign in _READ_ALOUD or not (sign.isspace() or unicodedata.category(sign).startswith("P")) for sign in text
    )


def _join_at_blanks(groups: Sequence[TokenGroup]) -> list[TokenGroup]:
    words: list[TokenGroup] = []
    for group in groups:
        if not words or group.text.startswith(" ") or group.text.strip() in _STANDS_ALONE:
            words.append(group)
        else:
            words[-1] = _joined(words[-1], group)
    return words


def _join_punctuation(words: Sequence[TokenGroup]) -> list[TokenGroup]:
    """Opening marks join the word after them, closing ones the word before."""
    opened: list[TokenGroup] = []
    for word in reversed(words):
        if opened and word.text.startswith(" ") and word.text.strip() in _JOINS_NEXT:
            opened[-1] = _joined(word, opened[-1])
        else:
            opened.append(word)
    closed: list[TokenGroup] = []
    for word in reversed(opened):
        if closed and not closed[-1].text.endswith(" ") and word.text in _JOINS_BEFORE:
            closed[-1] = _joined(closed[-1], word)
        else:
            closed.append(word)
    return closed


def _without_blanks(words: Sequence[TokenGroup]) -> list[TokenGroup]:
    """Blanks alone are no word: they go to the word before them, or, at the beginning, to the one after."""
    kept: list[TokenGroup] = []
    before: TokenGroup | None = None
    for word in words:
        if word.text.strip():
            kept.append(word if before is None else _joined(before, word))
            before = None
        elif kept:
            kept[-1] = _joined(kept[-1], word)
        else:
            before = word if before is None else _joined(before, word)
    return kept


def _joined(first: TokenGroup, second: TokenGroup) -> TokenGroup:
    return TokenGroup(first.places + second.places, first.text + second.text, first.spoken + second.spoken)


@cache
def _byte_of_letter() -> dict[str, int]:
    """Byte-level BPE writes each byte as a letter: printable Latin-1 as itself, the others from U+0100 on, in order."""
    as_themselves = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in as_themselves]
    return {chr(byte): byte for byte in as_themselves} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _bytes_of(token: str) -> bytes:
    letters = _byte_of_letter()
    return bytes(letters[letter] for letter in token)


Interval = tuple[int, int]  # samples: the first one, and the one after the last

SAMPLE_RATE = 16_000  # Hz
MIN_WORD_SAMPLES = round(SECONDS_PER_TIMESTAMP * SAMPLE_RATE)  # samples: one position of the encoder
MAX_SHIFT_SAMPLES = round(0.5 * SAMPLE_RATE)  # samples between a boundary and the pause that it is moved to
# A boundary is nearer to the beginning of its pause than to the end: audio of a pause costs more in the word before it.
COST_BEFORE, COST_AFTER = 1.0, 0.7


def fit_to_pauses(words: Sequence[Interval], pauses: Sequence[Interval], num_samples: int) -> list[Interval]:
    """The intervals of words, moved so that none reaches into a pause and those beside a pause begin or end with it.

    `words`: never falling, within the `num_samples` of their chunk; `pauses`: in order. Each pause is given to one
    boundary between two words (or to the beginning or the end of all), the one that needs to be moved least; one that
    is further than `MAX_SHIFT` from every boundary lies within a word and is left there. Words may come out empty.
    """
    starts, ends = [start for start, _ in words], [end for _, end in words]
    placed = _boundaries(words, pauses, num_samples) if words else []
    for boundary, group in groupby(placed, key=lambda pair: pair[0]):
        together = [pause for _, pause in group]
        begin, end = together[0][0], together[-1][1]
        for word in range(boundary):
            starts[word], ends[word] = min(starts[word], begin), min(ends[word], begin)
        for word in range(boundary, len(words)):
            starts[word], ends[word] = max(starts[word], end), max(ends[word], end)
        if boundary > 0 and begin - ends[boundary - 1] <= MAX_SHIFT_SAMPLES:
            ends[boundary - 1] = begin
        if boundary < len(words) and starts[boundary] - end <= MAX_SHIFT_SAMPLES:
            starts[boundary] = end
    return list(zip(starts, ends, strict=True))


def _boundaries(words: Sequence[Interval], pauses: Sequence[Interval], num_samples: int) -> list[tuple[int, Interval]]:
    """(number of words before the pause, the pause) of all pauses near a boundary, in order."""
    befores = [None, *(end for _, end in words)]
    afters = [*(start for start, _ in words), None]
    found: list[tuple[int, Interval]] = []
    least = 0
    for begin, end in pauses:
        if begin <= 0:
            boundary = 0
        elif end >= num_samples:
            boundary = len(words)
        else:
            costs = [
                COST_BEFORE * _excess(before, begin) + COST_AFTER * _excess(end, after)
                for before, after in zip(befores, afters, strict=True)
            ]
            boundary = costs.index(min(costs))
            # How far the boundary lies from the pause, before it or after it.
            before, after = befores[boundary], afters[boundary]
            if max(_excess(begin, after if after is not None else before), _excess(before, end)) > MAX_SHIFT_SAMPLES:
                continue
        least = max(least, boundary)
        found.append((least, (begin, end)))
    return found


def _excess(later: int | None, earlier: int | None) -> int:
    """By how many samples `later` lies behind `earlier`; 0 where it does not, or where there is no word on a side."""
    return 0 if later is None or earlier is None else max(0, later - earlier)


def separate_words(words: Sequence[Interval], begin: int, end: int) -> list[Interval]:
    """The intervals of words within [begin, end], none over another and none shorter than `SHORTEST_WORD`.

    In order as given; where there is no room for words of that length, all are as short as they have to be. Words are
    moved no further than that needs.
    """
    if not words:
        return []
    shortest = min(MIN_WORD_SAMPLES, (end - begin) // len(words))
    moved: list[Interval] = []
    free = begin
    for start, stop in words:
        first = max(start, free)
        free = max(stop, first + shortest)
        moved.append((first, free))
    limit = end
    for place in range(len(moved) - 1, -1, -1):
        start, stop = moved[place]
        stop = min(stop, limit)
        limit = min(start, stop - shortest)
        moved[place] = (limit, stop)
    return moved
