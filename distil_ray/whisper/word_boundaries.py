"""Word boundaries: tokens are grouped into words, and the intervals of words are adjusted to pauses.

`split_words` follows OpenAI's rules, which transformers shares. In languages with spaces between words, a word begins
at a space or at punctuation that stands alone; in the others, each token (or the few tokens of one character) is a
word. Punctuation then joins its neighbor. A word keeps the space before it, so that the texts of the words, joined
without a separator, are exactly the text. Punctuation has no part in the times of a word; each group names its spoken
tokens.

`fit_to_pauses` and `separate_words` adjust the intervals that follow from the alignment of tokens
(recognition/native/alignment.py). The alignment places the boundary of two words somewhere in the pause between them,
mostly near its beginning, so that the second word seems to begin before the pause. Such boundaries are moved to the
edges of the pauses found in the audio. These functions work on samples and need neither audio nor tokens.
"""

import codecs
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby

from distil_ray.languages import UNSEGMENTED, primary_subtag
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.tokenizer import SECONDS_PER_TIMESTAMP, Tokens

# Languages in which every token is a word. OpenAI's list, which transformers shares, does not include Khmer.
TOKEN_WORD_LANGUAGES = UNSEGMENTED - {"km"}

_STANDS_ALONE = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_JOINS_NEXT = "\"'“¡¿([{-"
_JOINS_BEFORE = "\"'.。,，!！?？:：”)]}、"
_READ_ALOUD = "%‰&@#§*/\\"  # punctuation in Unicode's categories, but spoken


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """The tokens of one word.

    Attributes:
        indices: Their indices in the chunk's ids, in increasing order.
        text: Text of the word.
        spoken: Those of the indices whose tokens are more than punctuation and spaces; empty if there are none.
    """

    indices: tuple[int, ...]
    text: str
    spoken: tuple[int, ...]


def split_words(ids: Sequence[int], language: str | None, tokens: Tokens) -> list[TokenGroup]:
    """Groups the tokens of a chunk into words. The joined texts of the words equal `tokens.decode(ids)`.

    No word spans a timestamp token. Other special tokens belong to no word.

    Args:
        ids: Token ids, timestamp tokens included.
        language: Code of the language of the text; None counts as a language with spaces.
        tokens: The tokenizer.
    """
    found = [word for run in _runs(ids, tokens) for word in _split_run(run, ids, language, tokens)]
    return _strip_ends(_join_spaces(found))


def split_characters(ids: Sequence[int], tokens: Tokens) -> list[TokenGroup]:
    """Groups the text tokens of a chunk so that no group ends within a character, or spans a timestamp token."""
    return [group for run in _runs(ids, tokens) for group in _characters(run, ids, tokens)]


def _runs(ids: Sequence[int], tokens: Tokens) -> Iterator[list[int]]:
    """Yields the indices of the text tokens between two timestamp tokens."""
    for is_timestamp, run in groupby(range(len(ids)), key=lambda index: tokens.is_timestamp(ids[index])):
        if not is_timestamp:
            yield [index for index in run if tokens.is_text(ids[index])]


def _strip_ends(words: Sequence[TokenGroup]) -> list[TokenGroup]:
    """Removes the spaces before the first word and after the last."""
    kept = list(words)
    if kept:
        kept[0] = replace(kept[0], text=kept[0].text.lstrip())
        kept[-1] = replace(kept[-1], text=kept[-1].text.rstrip())
    return kept


def _split_run(indices: Sequence[int], ids: Sequence[int], language: str | None, tokens: Tokens) -> list[TokenGroup]:
    characters = _characters(indices, ids, tokens)
    is_unsegmented = primary_subtag(language) in TOKEN_WORD_LANGUAGES
    return _join_punctuation(characters if is_unsegmented else _split_at_spaces(characters))


def _characters(indices: Sequence[int], ids: Sequence[int], tokens: Tokens) -> list[TokenGroup]:
    """Groups tokens so that no group ends within a character. Invalid bytes become U+FFFD, as in decoding."""
    groups = []
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    inside: list[int] = []
    text = ""
    for number, index in enumerate(indices):
        is_last = number == len(indices) - 1
        inside.append(index)
        text += decoder.decode(_bytes_of(tokens.tokenizer.id_to_token(ids[index]) or ""), is_last)
        if is_last or not decoder.getstate()[0]:
            groups.append(TokenGroup(tuple(inside), text, tuple(inside) if _is_spoken(text) else ()))
            inside, text = [], ""
    return groups


def _is_spoken(text: str) -> bool:
    """Returns True for a text that is more than spaces and punctuation that is not read aloud."""
    return any(
        sign in _READ_ALOUD or not (sign.isspace() or unicodedata.category(sign).startswith("P")) for sign in text
    )


def _split_at_spaces(groups: Sequence[TokenGroup]) -> list[TokenGroup]:
    words: list[TokenGroup] = []
    for group in groups:
        if not words or group.text.startswith(" ") or group.text.strip() in _STANDS_ALONE:
            words.append(group)
        else:
            words[-1] = _joined(words[-1], group)
    return words


def _join_punctuation(words: Sequence[TokenGroup]) -> list[TokenGroup]:
    """Joins opening marks to the word after them, and closing marks to the word before."""
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


def _join_spaces(words: Sequence[TokenGroup]) -> list[TokenGroup]:
    """Joins groups of spaces to the word before them or, at the beginning, to the word after."""
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
    return TokenGroup(first.indices + second.indices, first.text + second.text, first.spoken + second.spoken)


@cache
def _byte_of_letter() -> dict[str, int]:
    """Byte-level BPE writes each byte as a letter: printable Latin-1 as itself, the others in order from U+0100."""
    as_themselves = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in as_themselves]
    return {chr(byte): byte for byte in as_themselves} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _bytes_of(token: str) -> bytes:
    """Returns the text of a token; added tokens with other letters than those of bytes stand for themselves."""
    letters = _byte_of_letter()
    return bytes(letters[letter] for letter in token) if letters.keys() >= {*token} else token.encode()


Interval = tuple[int, int]  # samples: the first one, and the one after the last

MIN_WORD_SAMPLES = round(SECONDS_PER_TIMESTAMP * SAMPLE_RATE)  # one position of the encoder
MAX_SHIFT_SAMPLES = round(0.5 * SAMPLE_RATE)  # samples between a boundary and the pause that it is moved to
# Boundaries lie nearer to the beginning of their pause than to its end: a pause within the word before costs more.
COST_BEFORE, COST_AFTER = 1.0, 0.7


def fit_to_pauses(words: Sequence[Interval], pauses: Sequence[Interval], num_samples: int) -> list[Interval]:
    """Moves the intervals of words so that none reaches into a pause, and words next to a pause end or begin with it.

    Each pause is assigned to the boundary between two words (or before the first or after the last) that has to be
    moved least. A pause further than `MAX_SHIFT_SAMPLES` from every boundary lies within a word and is ignored. Words
    may become empty.

    Args:
        words: Intervals in samples, never decreasing, within the chunk.
        pauses: Intervals in samples, in order.
        num_samples: Length of the chunk.
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
    """Returns (number of words before the pause, pause) of the pauses near a boundary, in order."""
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
            # Distance of the boundary from the pause, on either side.
            before, after = befores[boundary], afters[boundary]
            if max(_excess(begin, after if after is not None else before), _excess(before, end)) > MAX_SHIFT_SAMPLES:
                continue
        least = max(least, boundary)
        found.append((least, (begin, end)))
    return found


def _excess(later: int | None, earlier: int | None) -> int:
    """Returns by how many samples `later` exceeds `earlier`; 0 if it does not, or if there is no word on one side."""
    return 0 if later is None or earlier is None else max(0, later - earlier)


def separate_words(words: Sequence[Interval], begin: int, end: int) -> list[Interval]:
    """Moves the intervals of words into [begin, end] so that none overlap and each has `MIN_WORD_SAMPLES` or more.

    The order is kept, and words are moved no further than necessary. If the interval is too short for words of that
    length, all get the same shorter minimum.
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
    for index in range(len(moved) - 1, -1, -1):
        start, stop = moved[index]
        stop = min(stop, limit)
        limit = min(start, stop - shortest)
        moved[index] = (limit, stop)
    return moved
