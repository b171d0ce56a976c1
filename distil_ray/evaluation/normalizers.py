"""Text normalizers that are applied before words are compared, by name and version.

Published WERs use the two normalizers of openai-whisper, which transformers includes: ``whisper_english`` and
``whisper_basic``. The second replaces every combining mark by a blank; ``unicode`` keeps them, for languages that write
vowels with such marks. ``simplified_chinese`` is the second after OpenCC has converted traditional characters to
simplified ones: Whisper writes either, and speech does not tell which. `unify_typography` is applied first, whatever
the normalizer. Packages are imported when a normalizer is first used. Of transformers only the module with the
normalizers is loaded: importing the package takes almost a second of every process that scores.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from distil_ray.evaluation.typography import TYPOGRAPHY_VERSION, compose, unify_typography
from distil_ray.languages import primary_subtag
from distil_ray.whisper.companion_files import english_spelling

UNICODE_VERSION = 1  # incremented whenever ``unicode`` returns another text for the same input

# Languages in which `whisper_basic` splits words: those with combining marks that NFKC does not compose with their
# letter, and those with the letter U+0130, whose lower case has such a mark.
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
_CHINESE = frozenset({"yue", "zh"})
_WITH_MARKS = frozenset(code for codes in LANGUAGES_WITH_MARKS.values() for code in codes)
_TURKIC = frozenset(LANGUAGES_WITH_MARKS["Latin with dotted and dotless i"])

_TRANSFORMERS_FILE = "models/whisper/english_normalizer.py"  # in the package; it imports nothing of transformers
_TRANSFORMERS_MODULE = "transformers_whisper_normalizer"

SEPARATOR = "; "  # joins several normalizers in one string


def choose_normalizer(choice: str, language: str | None) -> str:
    """Returns the name of the normalizer for texts in a language.

    Args:
        choice: Value of the setting ``scoring.normalizer``. ``auto`` selects ``whisper_english`` for English,
            ``unicode`` for `LANGUAGES_WITH_MARKS`, ``simplified_chinese`` for Chinese and Cantonese, and
            ``whisper_basic`` for all others. Turkish and Azerbaijani get a variant of ``unicode`` with their own lower
            case.
        language: ``en`` or ``en-GB``; None if unknown.
    """
    code = primary_subtag(language) or ""
    if choice == "auto":
        choice = _automatic_choice(code)
    return "unicode_turkic" if choice == "unicode" and code in _TURKIC else choice


def choose_common_normalizer(choice: str, languages: Iterable[str | None]) -> str:
    """Returns the name of the normalizer for texts with passages in several languages; see `choose_normalizer`.

    Where ``auto`` stands for different normalizers, ``unicode`` is used if it is one of them, otherwise
    ``simplified_chinese`` if it is one, otherwise ``whisper_basic``.
    """
    names = {choose_normalizer(choice, language) for language in languages}
    if len(names) == 1:
        return names.pop()
    if any(name.startswith("unicode") for name in names):
        return "unicode"
    return "simplified_chinese" if "simplified_chinese" in names else "whisper_basic"


def _automatic_choice(code: str) -> str:
    if code == "en":
        return "whisper_english"
    if code in _CHINESE:
        return "simplified_chinese"
    return "unicode" if code in _WITH_MARKS else "whisper_basic"


def normalize(name: str, text: str) -> str:
    """Returns the normalized text, with single blanks between words.

    The result is empty if neither letters nor digits are left, although openai's English normalizer leaves a full stop.

    Raises:
        KeyError: There is no normalizer of that name.
        ValueError: ``whisper_english`` met a number of thousands of digits.
    """
    normalized = " ".join(_normalizer(name)(unify_typography(text)).split())
    return normalized if any(map(str.isalnum, normalized)) else ""


def normalize_like(normalizer: str, text: str) -> str | None:
    """Returns the text as normalized by the normalizer that a stored row names; None if it is unknown.

    The version is ignored. A caller that needs the identical text has to compare with the stored one.
    """
    try:
        return normalize(normalizer.split(" ", 1)[0], text)
    except (KeyError, ValueError):
        return None


@cache
def name_with_versions(name: str) -> str:
    """Returns a normalizer's name and the versions of everything that affects it, as in the column ``normalizer``."""
    return f"{name} ({', '.join([*_versions(name), f'typography {TYPOGRAPHY_VERSION}'])})"


def names_in_several_versions(normalizers: Iterable[str]) -> list[str]:
    """Returns the names that occur in more than one version. Scores of different versions are not comparable."""
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
    if name == "simplified_chinese":
        return [f"OpenCC {version('opencc')}", transformers]
    return [transformers, f"spellings of {package}"] if name == "whisper_english" else [transformers]


@cache
def _normalizer(name: str) -> Callable[[str], str]:
    return _MAKERS[name]()


def _whisper_english() -> Callable[[str], str]:
    normalizer: Callable[[str], str] = _load_transformers_module().EnglishTextNormalizer(english_spelling())
    return normalizer


def _whisper_basic() -> Callable[[str], str]:
    normalizer: Callable[[str], str] = _load_transformers_module().BasicTextNormalizer()
    return normalizer


def _simplified_chinese() -> Callable[[str], str]:
    from opencc import OpenCC

    simplify, normalizer = OpenCC("t2s").convert, _whisper_basic()
    return lambda text: normalizer(simplify(text))


@cache
def _load_transformers_module() -> ModuleType:
    """Loads the module of transformers that has the normalizers, from its file, without the package around it."""
    package = find_spec("transformers")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")
    spec = spec_from_file_location(_TRANSFORMERS_MODULE, Path(package.origin).parent / _TRANSFORMERS_FILE)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _whisper_normalizer_english() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    normalizer: Callable[[str], str] = EnglishTextNormalizer()
    return normalizer


# ---------------------------------------------------------------- the normalizer `unicode`

_BRACKETED = re.compile(r"[<\[][^>\]]*[>\]]|\([^)]+\)")  # remarks; openai's normalizers remove them too
_DOTTED_I = "i\u0307"  # lower case of U+0130
_TATWEEL = "\u0640"


def _unicode() -> Callable[[str], str]:
    return _keep_marks


def _unicode_turkic() -> Callable[[str], str]:
    return lambda text: _keep_marks(text.replace("I", "ı").replace("İ", "i"))


def _keep_marks(text: str) -> str:
    """Returns the text in lower case without punctuation, symbols and optional points; other combining marks stay."""
    folded = _BRACKETED.sub("", text).casefold().replace(_DOTTED_I, "i")
    words = compose(folded).translate(_REPLACEMENTS).split()
    return " ".join(map(_from_first_letter, words))


def _from_first_letter(word: str) -> str:
    """Returns the word without leading combining marks."""
    return next((word[start:] for start, sign in enumerate(word) if unicodedata.category(sign)[0] != "M"), "")


class _Replacements(dict[int, str]):
    """Replacement of each character, computed from its Unicode category on first use."""

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
    """Returns True for marks that Arabic and Hebrew usually omit."""
    return unicodedata.name(sign, "").startswith(("ARABIC", "HEBREW"))


_REPLACEMENTS = _Replacements()

_MAKERS: dict[str, Callable[[], Callable[[str], str]]] = {
    "whisper_english": _whisper_english,
    "whisper_basic": _whisper_basic,
    "simplified_chinese": _simplified_chinese,
    "unicode": _unicode,
    "unicode_turkic": _unicode_turkic,
    "whisper_normalizer_english": _whisper_normalizer_english,
    "none": lambda: str,
}
