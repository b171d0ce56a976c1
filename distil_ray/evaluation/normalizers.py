"""The normalizers that texts go through before their words are compared, by name and version.

Published WERs use openai's two, which transformers ships: ``whisper_english`` and ``whisper_basic``. The second turns
every combining mark into a blank; where a language writes its vowels with such marks, ``unicode`` keeps them. Every
text goes through `unify_typography` first, whatever the normalizer. Knows no scores. Packages are imported when a
normalizer is first used: transformers takes about a second and loads no torch.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version

from distil_ray.evaluation.typography import TYPOGRAPHY_VERSION, compose, unify_typography
from distil_ray.whisper.companion_files import english_spelling

UNICODE_VERSION = 1  # increases whenever the normalizer ``unicode`` gives another text for the same one

# Languages whose words `whisper_basic` breaks: those written with combining marks that NFKC does not compose with their
# letter into one character, and those with the letter U+0130, whose lower case has such a mark.
LANGUAGES_WITH_MARKS: dict[str, tuple[str, ...]] = {
    "Arabic": ("ar", "fa", "ps", "sd", "ur"),
    "Bengali": ("as", "bn"),
    "Devanagari": ("hi", "mr", "ne", "sa"),
    "Gujarati": ("gu",),
    "Gurmukhi": ("pa",),
    "Hebrew": ("he", "yi"),
    "Kannada": ("kn",),
    "Khmer": ("km",),
    "Lao": ("lo",),
    "Malayalam": ("ml",),
    "Myanmar": ("my",),
    "Sinhala": ("si",),
    "Tamil": ("ta",),
    "Telugu": ("te",),
    "Thai": ("th",),
    "Tibetan": ("bo",),
    "Latin with tone marks": ("ln", "yo"),
    "Latin with dotted and dotless i": ("az", "tr"),
}
_WITH_MARKS = frozenset(code for codes in LANGUAGES_WITH_MARKS.values() for code in codes)
_TURKIC = frozenset(LANGUAGES_WITH_MARKS["Latin with dotted and dotless i"])

SEPARATOR = "; "  # between several normalizers in one text


def choose_normalizer(choice: str, language: str | None) -> str:
    """Returns the name of the normalizer for texts in a language, given as ``en`` or ``en-GB``; None: not known.

    `choice` is a value of the setting ``scoring.normalizer``. ``auto`` is ``whisper_english`` for English, ``unicode``
    for the languages of `LANGUAGES_WITH_MARKS`, and ``whisper_basic`` for all others. Turkish and Azerbaijani have a
    form of ``unicode`` with their own lower case.
    """
    code = (language or "").lower().replace("_", "-").split("-")[0]
    if choice == "auto":
        choice = "whisper_english" if code == "en" else "unicode" if code in _WITH_MARKS else "whisper_basic"
    return "unicode_turkic" if choice == "unicode" and code in _TURKIC else choice


def normalize(name: str, text: str) -> str:
    """Returns a text as a normalizer writes it, with single blanks between words.

    Where neither letters nor digits are left, the text is empty, although openai's English would leave a full stop.
    Raises `KeyError` for a name that no normalizer has. ``whisper_english`` raises `ValueError` for a number of
    thousands of digits.
    """
    normalized = " ".join(_normalizer(name)(unify_typography(text)).split())
    return normalized if any(map(str.isalnum, normalized)) else ""


def normalize_like(normalizer: str, text: str) -> str | None:
    """Returns a text as the column ``normalizer`` says that another was normalized; None for one that is not known.

    The version is not looked at: a caller that needs the very text compares with what is stored.
    """
    try:
        return normalize(normalizer.split(" ", 1)[0], text)
    except (KeyError, ValueError):
        return None


@cache
def versioned(name: str) -> str:
    """Returns a normalizer's name with the versions of all that makes its text, as the column ``normalizer`` has it."""
    return f"{name} ({', '.join([*_versions(name), f'typography {TYPOGRAPHY_VERSION}'])})"


def in_several_versions(normalizers: Iterable[str]) -> list[str]:
    """Returns the names that occur in more than one version: scores by them cannot be compared with each other."""
    names = [normalizer.split(" ", 1)[0] for normalizer in set(normalizers)]
    return sorted({name for name in names if names.count(name) > 1})


def _versions(name: str) -> list[str]:
    if name == "none":
        return []
    if name.startswith("unicode"):
        return [f"version {UNICODE_VERSION}"]
    package = f"whisper-normalizer {version('whisper-normalizer')}"
    if name == "whisper_normalizer_english":
        return [package]
    transformers = f"transformers {version('transformers')}"
    return [transformers, f"spellings of {package}"] if name == "whisper_english" else [transformers]


@cache
def _normalizer(name: str) -> Callable[[str], str]:
    return _MAKERS[name]()


def _whisper_english() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normalizer: Callable[[str], str] = EnglishTextNormalizer(english_spelling())  # type: ignore[no-untyped-call]
    return normalizer


def _whisper_basic() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    normalizer: Callable[[str], str] = BasicTextNormalizer()
    return normalizer


def _whisper_normalizer_english() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    normalizer: Callable[[str], str] = EnglishTextNormalizer()
    return normalizer


# ---------------------------------------------------------------- the normalizer `unicode`

_BRACKETED = re.compile(r"[<\[][^>\]]*[>\]]|\([^)]+\)")  # remarks, which openai's normalizers remove as well
_DOTTED_I = "i\u0307"  # what U+0130 becomes in lower case
_TATWEEL = "\u0640"


def _unicode() -> Callable[[str], str]:
    return _keep_marks


def _unicode_turkic() -> Callable[[str], str]:
    return lambda text: _keep_marks(text.replace("I", "ı").replace("İ", "i"))


def _keep_marks(text: str) -> str:
    """Lower case without punctuation, symbols and points; vowel signs and other combining marks stay where they are."""
    folded = _BRACKETED.sub("", text).casefold().replace(_DOTTED_I, "i")
    words = compose(folded).translate(_REPLACEMENTS).split()
    return " ".join(map(_from_first_letter, words))


def _from_first_letter(word: str) -> str:
    """A word without marks that no letter stands before."""
    return next((word[start:] for start, sign in enumerate(word) if unicodedata.category(sign)[0] != "M"), "")


class _Replacements(dict[int, str]):
    """What becomes of a character, looked up in Unicode when it is first met."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        self[code] = replacement = _replacement(sign)
        return replacement


def _replacement(sign: str) -> str:
    category = unicodedata.category(sign)
    if sign == _TATWEEL or category == "Me" or (category == "Mn" and _is_point(sign)):
        return ""
    return sign if category[0] in "LMN" else " "


def _is_point(sign: str) -> bool:
    """Whether a mark is one of those that Arabic and Hebrew are mostly written without."""
    return unicodedata.name(sign, "").startswith(("ARABIC", "HEBREW"))


_REPLACEMENTS = _Replacements()

_MAKERS: dict[str, Callable[[], Callable[[str], str]]] = {
    "whisper_english": _whisper_english,
    "whisper_basic": _whisper_basic,
    "unicode": _unicode,
    "unicode_turkic": _unicode_turkic,
    "whisper_normalizer_english": _whisper_normalizer_english,
    "none": lambda: str,
}
