"""Spellings of languages that corpora use, and the codes that Whisper knows them by."""

import sys

import pytest
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from distil_ray.languages import (
    WHISPER_LANGUAGES,
    _code,
    is_unsegmented,
    language_code,
    match_language_code,
    suggest_language,
)

# FLEURS' configurations whose language Whisper has a token for, and those whose language it has not.
FLEURS = """
af_za am_et ar_eg as_in az_az be_by bg_bg bn_in bs_ba ca_es cmn_hans_cn cs_cz cy_gb da_dk de_de el_gr en_us es_419 et_ee
fa_ir fi_fi fil_ph fr_fr gl_es gu_in ha_ng he_il hi_in hr_hr hu_hu hy_am id_id is_is it_it ja_jp jv_id ka_ge kk_kz km_kh
kn_in ko_kr lb_lu ln_cd lo_la lt_lt lv_lv mi_nz mk_mk ml_in mn_mn mr_in ms_my mt_mt my_mm nb_no ne_np nl_nl oc_fr pa_in
pl_pl ps_af pt_br ro_ro ru_ru sd_arab_in sk_sk sl_si sn_zw so_so sr_rs sv_se sw_ke ta_in te_in tg_tj th_th tr_tr uk_ua
ur_pk uz_uz vi_vn yo_ng yue_hant_hk
"""
FLEURS_OTHERS = (
    "ast_es ceb_ph ckb_iq ff_sn ga_ie ig_ng kam_ke kea_cv ky_kg lg_ug luo_ke nso_za ny_mw om_et or_in umb_ao"
)
DIFFERENT = {"cmn": "zh", "fil": "tl", "jv": "jw", "nb": "no"}

SPELLINGS = {
    "no": ["no", "nb", "nb_no", "nb-NO", "nob", "nor", "Norwegian", "Norwegian Bokmål", "Bokmål, Norwegian"],
    "nn": ["nn", "nno", "nn-NO", "Nynorsk", "Norwegian Nynorsk"],
    "tl": ["tl", "fil", "fil_ph", "tgl", "Tagalog", "Filipino"],
    "jw": ["jw", "jv", "jv_id", "jav", "Javanese"],
    "he": ["he", "iw", "heb", "he-IL", "Hebrew"],
    "en": [
        *("en", "EN", "En", " en ", "eng", "eng_Latn", "eng-US", "en-US", "en_US", "en_us.UTF-8", "en-GB-oxendict"),
        *("English", "english", "ENGLISH", "English (US)", "American English", "English (strong accent)", "<|en|>"),
        *('["en"]', "['en-US', 'en-GB']", "en,en"),
    ],
    "zh": [
        *("zh", "zh-CN", "zh-TW", "zh-Hant-TW", "zh_hans", "cmn", "cmn_hans_cn", "chi", "zho", "zho_Hans", "nan-tw"),
        *("Chinese", "Mandarin", "Mandarin Chinese", "Chinese (Simplified)", "Chinese, Mandarin", "wuu"),
    ],
    "yue": ["yue", "yue_hant_hk", "zh-yue", "Cantonese"],
    "pt": ["pt", "pt-BR", "pt_PT", "por", "Brazilian Portuguese", "Portuguese (Brazil)"],
    "is": ["isl", "ice", "is-IS", "Icelandic"],
    "af": ["afr", "Afrikaans"],
    "ka": ["kat", "geo", "Georgian"],
    "bg": ["bul", "bg_BG"],
    "de": ["ger", "deu", "de-AT", "German", "Deutsch"],
    "es": ["spa", "es-419", "Spanish; Castilian", "Spanish", "español"],
    "el": ["ell", "gre", "Greek, Modern (1453-)"],
    "fa": ["per", "fas", "pes", "Farsi"],
    "ar": ["ara", "arb", "arb_Arab", "ary", "ar-001", "Arabic (Egypt)"],
    "ms": ["msa", "may", "zsm"],
    "sw": ["swa", "swh"],
    "sr": ["sr", "sr-Latn", "srp", "sh"],
    "ro": ["ro", "ron", "rum", "mo", "Moldavian"],
}


@pytest.mark.parametrize("code", SPELLINGS)
def test_every_spelling_of_a_language_is_whispers_code(code: str) -> None:
    assert {written: language_code(written) for written in SPELLINGS[code]} == dict.fromkeys(SPELLINGS[code], code)


def test_whispers_own_codes_and_names_are_known() -> None:
    assert set(LANGUAGES) == WHISPER_LANGUAGES
    assert {code: language_code(code) for code in LANGUAGES} == {code: code for code in LANGUAGES}
    assert {name: language_code(name) for name in TO_LANGUAGE_CODE} == TO_LANGUAGE_CODE


def test_configurations_of_fleurs_are_known() -> None:
    codes = {name: DIFFERENT.get(code := name.split("_")[0], code) for name in FLEURS.split()}
    assert {name: language_code(name) for name in codes} == codes


@pytest.mark.parametrize(
    "written", [*FLEURS_OTHERS.split(), "Klingon", "tlh", "xx", "ga-IE", "Zulu", "klingonish", "12"]
)
def test_what_whisper_does_not_know_stays_as_it_is_written(written: str) -> None:
    assert language_code(written) == written
    assert match_language_code(written, WHISPER_LANGUAGES) is None


@pytest.mark.parametrize(
    "written",
    [
        *(None, "", " ", "unknown", "Unknown", "und", "und-Latn", "auto", "multi", "mul", "mis", "zxx", "null", "None"),
        *("nan", "NaN", "NA", "en,de", "English / Spanish", '["en", "fr"]', "Hindi and English", "en+es"),
    ],
)
def test_an_undetermined_language_and_several_are_left_to_detection(written: str | None) -> None:
    assert language_code(written) is None


def test_a_checkpoint_that_lacks_a_language_takes_its_macrolanguage() -> None:
    older, english = WHISPER_LANGUAGES - {"yue"}, ("en",)
    assert [match_language_code("yue", known) for known in (WHISPER_LANGUAGES, older, english)] == ["yue", "zh", None]
    assert [match_language_code(written, english) for written in ("English (US)", "eng_Latn", "German")] == [
        "en",
        "en",
        None,
    ]
    assert match_language_code("tlh", ("en", "tlh")) == "tlh"  # a checkpoint that was given a token more


def test_codes_of_whisper_need_no_langcodes(monkeypatch: pytest.MonkeyPatch) -> None:
    _code.cache_clear()
    monkeypatch.setitem(sys.modules, "langcodes", None)
    assert language_code("EN") == "en"
    assert is_unsegmented("zh-CN")


@pytest.mark.parametrize("language", ["ja", "zh", "zh-CN", "ZH_tw", "yue", "th", "lo", "my", "km"])
def test_languages_without_spaces_between_words(language: str) -> None:
    assert is_unsegmented(language)


@pytest.mark.parametrize("language", ["en", "ko", "zhx", "", None])
def test_other_and_unknown_languages_have_spaces_between_words(language: str | None) -> None:
    assert not is_unsegmented(language)


@pytest.mark.parametrize(
    ("written", "suggestion"), [("Germn", "de (German)"), ("spannish", "es (Spanish)"), ("xx", None), ("Klingon", None)]
)
def test_a_misspelled_name_suggests_the_most_similar_language(written: str, suggestion: str | None) -> None:
    assert suggest_language(written, WHISPER_LANGUAGES) == suggestion
