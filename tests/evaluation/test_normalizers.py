"""Normalizers: those of openai-whisper, one that keeps vowel signs, and the versions in their names."""

import hashlib
import json
import unicodedata
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from distil_ray.config import ScoringConfig
from distil_ray.evaluation.normalizers import (
    LANGUAGES_WITH_MARKS,
    choose_common_normalizer,
    choose_normalizer,
    name_with_versions,
    names_in_several_versions,
    normalize,
    normalize_like,
)
from distil_ray.evaluation.typography import compose, unify_typography
from distil_ray.evaluation.wer import Scorer
from distil_ray.whisper.companion_files import english_spelling
from tests.evaluation.openai_normalizers import SPELLINGS_SHA256, openai_basic, openai_english

CHOICES = ["whisper_english", "whisper_basic", "simplified_chinese", "unicode", "whisper_normalizer_english", "none"]

ENGLISH = """
twenty one oh zero point five hundred thousand million dollars cents per cent percent double triple and minus first
second nineteen sixes can't won't he'd it's y'all colour grey Mr. Mrs. gonna kinda sorta dunno cause uh um $5 5% 1,000
3.14 1960s £ ... .. . , - (aside) [noise] <x> half St. ' 's 12:30 7th A.B. wait.... $ %
"""
english = st.lists(st.sampled_from(ENGLISH.split()), max_size=12).map(" ".join)
ascii_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="`"), max_size=40)


@settings(max_examples=1500, deadline=None)
@given(st.one_of(english, ascii_text))
def test_ascii_text_is_normalized_as_by_openai_whisper(text: str) -> None:
    for name, openai in (("whisper_english", openai_english), ("whisper_basic", openai_basic)):
        expected = openai(text)
        assert normalize(name, text) == (expected if any(map(str.isalnum, expected)) else "")


def test_the_spellings_are_those_of_openai() -> None:
    text = json.dumps(english_spelling(), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == SPELLINGS_SHA256


def test_two_english_normalizers_are_offered_and_differ_in_four_contractions() -> None:
    text = "the cause, kinda sorta, dunno"
    assert normalize("whisper_english", text) == "the cause kinda sorta dunno"
    assert normalize("whisper_normalizer_english", text) == "the because kind of sort of do not know"


# A word of each language whose letters `whisper_basic` loses, and what `unicode` makes of it.
WORDS_WITH_MARKS = {
    "ar": ("السَّلامُ كتـــاب", "السلام كتاب"),
    "as": ("অসমীয়া।", "অসমীয়া"),
    "az": ("İNSANLAR QIZ", "insanlar qız"),
    "bn": ("বাংলা, ভাষা", "বাংলা ভাষা"),
    "bo": ("བོད་སྐད", "བོད སྐད"),
    "fa": ("دَرِ خانهٔ", "در خانه"),
    "gu": ("ગુજરાતી!", "ગુજરાતી"),
    "he": ("שָׁלוֹם", "שלום"),
    "hi": ("हिन्दी, नमस्ते दुनिया।", "हिन्दी नमस्ते दुनिया"),
    "km": ("ភាសាខ្មែរ", "ភាសាខ្មែរ"),
    "kn": ("ಕನ್ನಡ ಭಾಷೆ", "ಕನ್ನಡ ಭಾಷೆ"),
    "ln": ("lokɔ́tɔ́", "lokɔ́tɔ́"),
    "lo": ("ພາສາລາວນີ້", "ພາສາລາວນີ້"),
    "ml": ("മലയാളം", "മലയാളം"),
    "mr": ("मराठी भाषा", "मराठी भाषा"),
    "my": ("မြန်မာစာ", "မြန်မာစာ"),
    "ne": ("नेपाली", "नेपाली"),
    "pa": ("ਪੰਜਾਬੀ", "ਪੰਜਾਬੀ"),
    "ps": ("پَښتو", "پښتو"),
    "sa": ("संस्कृतम्", "संस्कृतम्"),
    "sd": ("سِنڌي", "سنڌي"),
    "si": ("සිංහල", "සිංහල"),
    "ta": ("தமிழ் மொழி", "தமிழ் மொழி"),
    "te": ("తెలుగు", "తెలుగు"),
    "th": ("น้ำที่นี่", "น้ำที่นี่"),
    "tr": ("İstanbul ISPARTA", "istanbul ısparta"),
    "ur": ("اُردُو", "اردو"),
    "yi": ("ייִדיש", "יידיש"),
    "yo": ("ẹ́kọ́ Yorùbá", "ẹ́kọ́ yorùbá"),
}
# Of others, which it leaves whole.
WORDS_WITHOUT = {
    **{"af": "môre", "am": "አማርኛ", "be": "ўсё", "bg": "български", "br": "ivez", "cs": "příliš žluťoučký", "cy": "tŷ"},
    **{"de": "größer", "el": "άνθρωπος", "es": "mañana", "et": "õhtu", "fi": "äiti", "fr": "déjà où", "ha": "ƙasa"},
    **{
        "hr": "čaša",
        "hu": "őrült",
        "hy": "հայերեն",
        "is": "þetta",
        "ja": "ガラスです",
        "ka": "ქართული",
        "kk": "қазақша",
    },
    **{"ko": "한국어", "lt": "ačiū", "lv": "ņemt", "mi": "māori", "mk": "ѓавол", "mn": "өнөөдөр", "mt": "ħażin"},
    **{"no": "blåbær", "pl": "źdźbło", "pt": "coração", "ro": "mâță", "ru": "ёлка йод", "sk": "ľúbiť", "sq": "është"},
    **{
        "sr": "ћирилица",
        "sv": "smörgås",
        "tg": "ҷавоб ӯ",
        "tt": "җавап",
        "uk": "їжак",
        "vi": "tiếng việt",
    },
}


def test_auto_selects_unicode_exactly_for_languages_that_whisper_basic_damages() -> None:
    assert set(WORDS_WITH_MARKS) == {code for codes in LANGUAGES_WITH_MARKS.values() for code in codes}
    assert set(WORDS_WITH_MARKS) <= set(LANGUAGES)
    for language, (word, expected) in WORDS_WITH_MARKS.items():
        name = choose_normalizer("auto", language)
        assert name.startswith("unicode"), language
        assert normalize(name, word) == normalize(name, expected) == compose(expected), language
        assert normalize("whisper_basic", word) != expected, language
    for language, word in WORDS_WITHOUT.items():
        assert choose_normalizer("auto", language) == "whisper_basic", language
        assert normalize("whisper_basic", unicodedata.normalize("NFD", word)) == word, language
    assert choose_normalizer("auto", "en-GB") == "whisper_english"
    assert choose_normalizer("auto", "hi_in") == "unicode"
    assert choose_normalizer("whisper_basic", "hi") == "whisper_basic"


def test_traditional_and_simplified_characters_are_the_same_words() -> None:
    traditional, simplified = "公交汽車定期發車,臺灣的 SWAPO。", "公交汽车定期发车，台湾的 swapo"
    for language in ("zh", "yue", "zh-TW"):
        assert choose_normalizer("auto", language) == "simplified_chinese"
        assert normalize("simplified_chinese", traditional) == normalize("simplified_chinese", simplified)
        score = Scorer(ScoringConfig()).score(traditional, simplified, language)
        assert (score.wer, score.text_normalized) == (0.0, "公交汽车定期发车 台湾的 swapo")
        assert score.normalizer.startswith(f"simplified_chinese (OpenCC {version('opencc')}, transformers ")
    assert normalize("whisper_basic", traditional) != normalize("whisper_basic", simplified)
    assert choose_common_normalizer("auto", ["en", "zh"]) == "simplified_chinese"
    assert choose_common_normalizer("auto", ["hi", "zh"]) == "unicode"
    japanese = "発車の検査"  # the Japanese forms are no variants of the same words
    assert normalize(choose_normalizer("auto", "ja"), japanese) == japanese


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("नमस्ते (हँसी) [शोर] जी", "नमस्ते जी"),  # remarks in brackets
        ("की\u200d है\u200c!", "की है"),
        ("می\u200cخواهم", "میخواهم"),
        ("ന്\u200d ത്", "ൻ ത്"),  # a chillu letter in two spellings
        ("ত্\u200d", "ৎ"),
        ("นํ้า", "น้ำ"),  # the vowel in two keystrokes
        ("ﺍﻟﺴﻼﻡ", "السلام"),  # presentation forms
        ("क़लम", "क़लम"),  # a letter that Unicode composes in one way only
        ("Straße ΟΔΟΣ", "strasse οδοσ"),
        ("ﬁne Ａ５", "fine a5"),
        ("\u093f\u0301 ०१२ ½", "०१२ 1 2"),  # marks without a letter
        ("1️⃣ 🙂", "1"),
    ],
)
def test_unicode_keeps_only_letters_marks_and_digits(text: str, expected: str) -> None:
    assert (
        normalize("unicode", text) == unicodedata.normalize("NFKC", expected) or normalize("unicode", text) == expected
    )


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize(
    "text", ["...", "….", "$", "%", "— –", "¿?", "。、", "۔", "🙂", "\u200b\ufeff", "´ `", "(..)", "' '"]
)
def test_punctuation_alone_has_no_words_in_any_normalizer(name: str, text: str) -> None:
    assert normalize(name, text) == ""


def test_the_documented_examples_are_correct() -> None:
    lines = (Path(__file__).parents[2] / "docs/output.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("| | text | `whisper_basic` | `unicode` |")
    rows = [line.split("|")[1:-1] for line in lines[start + 2 : start + 10]]
    for name, *cells in rows:
        text, basic, kept = (cell.strip().strip("`") for cell in cells)
        unicode = "unicode_turkic" if name.strip() == "Turkish" else "unicode"
        assert (normalize("whisper_basic", text), normalize(unicode, text)) == (basic, compose(kept)), name


def test_a_normalizer_is_named_with_the_versions_of_all_its_parts() -> None:
    transformers, package = version("transformers"), version("whisper-normalizer")
    assert name_with_versions("whisper_english") == (
        f"whisper_english (transformers {transformers}, spellings of whisper-normalizer {package}, typography 1)"
    )
    assert name_with_versions("whisper_basic") == f"whisper_basic (transformers {transformers}, typography 1)"
    assert name_with_versions("unicode") == "unicode (version 1, typography 1)"
    assert name_with_versions("none") == "none (typography 1)"


def test_several_versions_of_one_normalizer_are_named() -> None:
    old = "whisper_english (whisper-normalizer 0.1.15)"
    assert names_in_several_versions(
        [name_with_versions("whisper_english"), name_with_versions("unicode"), old, old]
    ) == ["whisper_english"]
    assert names_in_several_versions([name_with_versions("whisper_english"), name_with_versions("unicode")]) == []


def test_texts_can_be_normalized_as_a_stored_row_was() -> None:
    assert normalize_like("whisper_english (whisper-normalizer 0.1.15)", "Don’t!") == "do not"
    assert normalize_like("unicode_turkic (version 1, typography 1)", "IĞDIR") == "ığdır"
    assert normalize_like("of_a_later_version (9)", "a") is None


def test_each_normalizer_can_be_selected_by_the_setting() -> None:
    for choice in ("auto", *CHOICES):
        assert ScoringConfig.model_validate({"normalizer": choice}).normalizer == choice


# ---------------------------------------------------------------- typography


@pytest.mark.parametrize(
    ("typeset", "typed"),
    [
        ("don’t don‘t don‛t donʼt don′t don`t don´t don＇t don‵t", " ".join(["don't"] * 9)),
        ("d\u00adon\u200b’t \ufeffa\u2060b\u200e \u202bc\u202c", "don't ab c"),
        ("“a” „b“ «c» ‹d› ＂e＂ ″", '"a" "b" "c" "d" "e" "'),
        ("a–b — c ― d‑e −5 f－g ﹘", "a-b - c - d-e -5 f-g -"),
        ("wait… ‥", "wait... .."),
        ("a\u00a0b\u202fc\u2007d\u3000e\u2009f", "a b c d e f"),
        ("cafe\u0301 ﬁ ﬂ ﬃ Ａ１！ ĳ", "café fi fl ffi A1! ij"),
        ("ŉ", "'n"),
        ("5′ 10″", '5′ 10"'),  # a prime beside a digit is no apostrophe
        ("a ` b ´ c", "a ` b   c"),
        ("a\x00b\x07\tc\nd", "ab\tc\nd"),
        ("क\u0301´त", "क\u0301'त"),  # a letter's mark may stand between it and the apostrophe
        ("❤\ufe0f", "❤"),
    ],
)
def test_typography_is_unified(typeset: str, typed: str) -> None:
    assert unify_typography(typeset) == typed


@settings(max_examples=1000, deadline=None)
@given(
    st.one_of(st.text(max_size=20), st.text(st.characters(max_codepoint=0xFFFF, categories=["L", "M", "P", "S", "Cf"])))
)
def test_unify_typography_is_idempotent_and_independent_of_the_unicode_form(text: str) -> None:
    unified = unify_typography(text)
    assert unify_typography(unified) == unified
    for form in ("NFC", "NFD"):
        assert unify_typography(unicodedata.normalize(form, text)) == unified


@given(ascii_text)
def test_printable_ascii_is_not_changed(text: str) -> None:
    assert unify_typography(text) == text
