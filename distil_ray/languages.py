"""Language codes: maps tags, codes and names of languages to the codes of Whisper.

``nb_no``, ``cmn_hans_cn`` and ``eng-US`` are tags, ``ger``, ``deu`` and ``iw`` codes of ISO 639, ``English (US)`` and
``Mandarin Chinese`` names. The package `langcodes` parses them all; it is imported on first use, so that recognition
runs without it. This module adds what is specific to Whisper: its own codes where they differ (``jw``, ``tl``), and a
macrolanguage in place of a member without a code of its own (``no`` for ``nb``, ``zh`` for ``cmn``, and for ``yue``
with checkpoints from before large-v3).
"""

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache

_WHISPER = """
af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is it ja
jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq
sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh
"""
# Values that corpora use for an unknown language, or for several. `nan` is a float that was written
# as text, far more often than the code of Min Nan Chinese, which Whisper does not know by itself (``nan-TW`` is zh).
_UNDETERMINED = """
unknown unk und undetermined undefined unspecified auto detect multi multilingual multiple mixed other mul mis zxx null
none nan <na> n/a ? -
"""
# Languages that write no spaces between words: Japanese, Chinese, Cantonese, Thai, Lao, Burmese, Khmer.
UNSEGMENTED = frozenset({"ja", "zh", "yue", "th", "lo", "my", "km"})
WHISPER_LANGUAGES = frozenset(_WHISPER.split())
UNDETERMINED = frozenset(_UNDETERMINED.split())
_R_NULL = "NA"  # as R writes it; `na` is Nauruan
_WHISPERS = {"jv": "jw", "fil": "tl"}  # BCP 47 -> Whisper's code, where it has another
_SEVERAL = re.compile(r"""[,;/|+&\[\]"']+|\s-\s|\sand\s""")  # between the names of several languages
_ASIDE = re.compile(r"\(.*?\)")


def language_code(written: str | None) -> str | None:
    """Returns Whisper's code of a language; a language that Whisper does not know is returned as it is written.

    None stands for a language to detect: where none is written, an undetermined one, or several different ones.
    """
    if written is None or _is_undetermined(written):
        return None
    return _code(written)


def match_language_code(written: str, languages: Collection[str]) -> str | None:
    """Returns the code by which a checkpoint knows a language, None if it does not.

    Args:
        written: the language in any spelling.
        languages: codes that the checkpoint has tokens for.
    """
    return next((code for code in _candidates(written) if code in languages), None)


def require_language(written: str) -> None:
    """Raises ValueError, with a similar name, for what is no language: neither a code, a tag nor a name of any."""
    if (code := language_code(written)) is None or code in WHISPER_LANGUAGES or _parse(code) is not None:
        return
    similar = suggest_language(written, WHISPER_LANGUAGES)
    raise ValueError(
        f"language={written!r} is not a language" + (f". Did you mean {similar}?" if similar else "; write its code")
    )


def select_languages(written: Collection[str], languages: Sequence[str]) -> tuple[str, ...]:
    """Returns those codes of `languages` that `written` lists, in their order; all of them where nothing is written.

    Args:
        written: Languages in any spelling; unknown ones are left out.
        languages: Codes that the checkpoint has tokens for.
    """
    if not written:
        return tuple(languages)
    codes = {match_language_code(each, languages) for each in written}
    return tuple(code for code in languages if code in codes)


def suggest_language(written: str, languages: Collection[str]) -> str | None:
    """Returns the code and name of the language whose name is most similar, such as "es (Spanish)"; None if none is."""
    from langcodes import Language

    names = {Language.get(code).display_name().lower(): code for code in languages}
    close = difflib.get_close_matches(written.lower(), names, n=1, cutoff=0.75)
    return f"{names[close[0]]} ({close[0].title()})" if close else None


@lru_cache(maxsize=4096)
def _code(written: str) -> str | None:
    whole = match_language_code(written, WHISPER_LANGUAGES)
    parts = [part for part in _SEVERAL.split(_ASIDE.sub(" ", written)) if not _is_undetermined(part)]
    codes = {match_language_code(part, WHISPER_LANGUAGES) for part in parts} - {None}
    if len(codes) > 1:  # asked of the parts first: to `find`, "English / Spanish" is a kind of English
        return None
    return codes.pop() if codes else whole or written


def _is_undetermined(written: str) -> bool:
    text = written.strip()
    return not text or text == _R_NULL or text.lower().startswith(("und-", "und_")) or text.lower() in UNDETERMINED


def _candidates(written: str) -> Iterator[str]:
    """Yields the possible codes of a language, the most exact first."""
    text = written.strip().removeprefix("<|").removesuffix("|>")
    yield text.lower()
    language = _parse(text)
    if language is not None:
        from langcodes.data_dicts import MACROLANGUAGES

        yield _WHISPERS.get(language, language)
        if (macrolanguage := MACROLANGUAGES.get(language)) is not None:
            yield macrolanguage


@lru_cache(maxsize=4096)
def _parse(text: str) -> str | None:
    """Returns the normalized language subtag of a tag, POSIX locale (``de_DE.UTF-8``) or name; None for other text."""
    from langcodes import Language, find

    try:
        tag = Language.get(re.split("[.@]", text, maxsplit=1)[0])
        if tag.is_valid():
            return tag.language
    except ValueError:
        pass
    try:
        return Language.get(str(find(text))).language  # once more, for what is deprecated: sh, mo
    except LookupError:
        return None


def is_unsegmented(language: str | None) -> bool:
    """Returns True for a language that writes no spaces between words, by its code or tag (``ja``, ``zh-CN``)."""
    return primary_subtag(language) in UNSEGMENTED


def primary_subtag(language: str | None) -> str | None:
    """Returns the language code of a tag in lower case: ``zh`` of ``zh-CN`` or ``zh_CN``; None for None."""
    return None if language is None else language.lower().replace("_", "-").split("-")[0]
