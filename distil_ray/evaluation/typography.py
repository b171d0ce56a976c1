"""Unifies characters that differ in typography only, before texts are compared.

Word processors write U+2019 where a keyboard writes ``'``; web pages contain soft hyphens, joiners and no-break spaces.
Without unification each such difference between a reference and a transcript counts as a word error. The rules are
independent of language. Only the standard library is imported.
"""

import re
import unicodedata

TYPOGRAPHY_VERSION = 1  # incremented whenever `unify_typography` returns another text for the same input

# Half rings (U+02BE, U+02BF) are the apostrophes of transliterated Arabic and Hebrew, U+A78C the saltillo.
_APOSTROPHES = "\u2018\u2019\u201a\u201b\u02bb\u02bc\u02bd\u02be\u02bf\u055a\u05f3\u07f4\u07f5\ua78c\u1fbd\u1fbf\u1ffe"
_QUOTES = "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\u2033\u2036\u05f4\u301d\u301e\u301f"
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2e3a\u2e3b\u058a\u05be\u1806"
# Spacing accents, which NFKC would turn into a blank and a combining mark.
_SPACING_ACCENTS = [
    sign for sign in map(chr, range(0x80, 0x2040)) if unicodedata.normalize("NFKC", sign)[0] == " " != sign
]
# Ranges of the property Default_Ignorable_Code_Point (Unicode 16), the Hangul fillers (which are letters) among them.
_INVISIBLE = (
    *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F)),
    *((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF)),
    *((0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)
_CONTROLS = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if not chr(code).isspace()]

_INVISIBLE_CODES = dict.fromkeys([*_CONTROLS, *(code for first, last in _INVISIBLE for code in range(first, last + 1))])
_PLAIN = {
    **dict.fromkeys(map(ord, _APOSTROPHES), "'"),
    **dict.fromkeys(map(ord, _QUOTES), '"'),
    **dict.fromkeys(map(ord, _DASHES), "-"),
    **dict.fromkeys(map(ord, _SPACING_ACCENTS), " "),
}

# Letters that Unicode encodes both with and without a joiner: Malayalam chillu letters, Bengali khanda ta.
_JOINED = {
    "\u0d23\u0d4d\u200d": "\u0d7a",
    "\u0d28\u0d4d\u200d": "\u0d7b",
    "\u0d30\u0d4d\u200d": "\u0d7c",
    "\u0d32\u0d4d\u200d": "\u0d7d",
    "\u0d33\u0d4d\u200d": "\u0d7e",
    "\u0d15\u0d4d\u200d": "\u0d7f",
    "\u09a4\u09cd\u200d": "\u09ce",
}
_JOINED_LETTER = re.compile("|".join(_JOINED))
# Thai and Lao "am" is one character, which NFKC decomposes, or a ring and a vowel with a tone before or between them.
_RING_BEFORE_TONE = re.compile("([\u0e4d\u0ecd])([\u0e48-\u0e4b\u0ec8-\u0ecb])")
_AM = {"\u0e4d\u0e32": "\u0e33", "\u0ecd\u0eb2": "\u0eb3"}
# Signs that stand for an apostrophe between letters only: grave, acute, primes and similar modifiers.
_BETWEEN_LETTERS = re.compile("(?<=\\S)[`\u00b4\u2032\u2035\u02b9\u02ca\u02cb](?=\\S)")


def unify_typography(text: str) -> str:
    """Returns the text in composed form, with one kind of apostrophe, quotation mark and dash, and nothing invisible.

    Apostrophes become ``'``, quotation marks ``"``, dashes and minus signs ``-``, an ellipsis ``...``, no-break and
    other spaces a blank, and full-width forms, ligatures and presentation forms their plain letters. Grave, acute and
    prime become ``'`` between two letters; elsewhere an acute is a blank, as other accents without a letter are.
    Invisible characters are removed (soft hyphen, joiners, direction marks, variation selectors, control
    characters); line breaks and tabs stay, and so do case, words, punctuation and combining marks. Printable ASCII
    is returned unchanged except for a grave between letters. The function is idempotent.
    """
    if text.isascii() and text.isprintable() and "`" not in text:
        return text
    text = unicodedata.normalize("NFC", text)  # NFD and NFC input give the same result
    text = _JOINED_LETTER.sub(lambda found: _JOINED[found[0]], text) if "\u200d" in text else text
    # Applied before NFKC, which decomposes an acute, and again after it, because NFKC produces further signs: U+FF40
    # becomes a grave, U+FE58 a dash, and U+0149 begins with an apostrophe.
    return _plain(compose(_plain(text.translate(_INVISIBLE_CODES))))


def compose(text: str) -> str:
    """Returns the text in NFKC, except that the vowel "am" of Thai and Lao stays one character."""
    composed = _RING_BEFORE_TONE.sub(r"\2\1", unicodedata.normalize("NFKC", text))
    for parts, whole in _AM.items():
        composed = composed.replace(parts, whole)
    return composed


def _plain(text: str) -> str:
    return _BETWEEN_LETTERS.sub(_apostrophe_between_letters, text).translate(_PLAIN)


def _apostrophe_between_letters(found: re.Match[str]) -> str:
    beside = found.string[found.start() - 1], found.string[found.end()]
    return "'" if all(unicodedata.category(sign)[0] in "LM" for sign in beside) else found[0]
