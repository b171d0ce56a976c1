"""Languages as corpora write them: the code for a name (lhotse's recipes say "English") or a code of three letters.

What is not known here is left as it is written; the decode stage then says that the checkpoint does not know it.
"""

_NAMES = """
af afrikaans, am amharic, ar arabic, as assamese, az azerbaijani, ba bashkir, be belarusian, bg bulgarian, bn bengali,
bo tibetan, br breton, bs bosnian, ca catalan, ca valencian, cs czech, cy welsh, da danish, de german, el greek,
en english, es spanish, es castilian, et estonian, eu basque, fa persian, fa farsi, fi finnish, fo faroese, fr french,
gl galician, gu gujarati, ha hausa, haw hawaiian, he hebrew, hi hindi, hr croatian, ht haitian, hu hungarian,
hy armenian, id indonesian, is icelandic, it italian, ja japanese, jw javanese, ka georgian, kk kazakh, km khmer,
kn kannada, ko korean, la latin, lb luxembourgish, ln lingala, lo lao, lt lithuanian, lv latvian, mg malagasy,
mi maori, mk macedonian, ml malayalam, mn mongolian, mr marathi, ms malay, mt maltese, my myanmar, my burmese,
ne nepali, nl dutch, nl flemish, nn nynorsk, no norwegian, oc occitan, pa punjabi, pa panjabi, pl polish, ps pashto,
pt portuguese, ro romanian, ro moldovan, ru russian, sa sanskrit, sd sindhi, si sinhala, sk slovak, sl slovenian,
sn shona, so somali, sq albanian, sr serbian, su sundanese, sv swedish, sw swahili, ta tamil, te telugu, tg tajik,
th thai, tk turkmen, tl tagalog, tr turkish, tt tatar, uk ukrainian, ur urdu, uz uzbek, vi vietnamese, yi yiddish,
yo yoruba, yue cantonese, zh chinese, zh mandarin
"""
# ISO 639-3, and 639-2 where that differs, of the languages that corpora with such codes mostly hold.
_LETTERS = """
ara ar, ben bn, cat ca, ces cs, cze cs, cmn zh, zho zh, chi zh, dan da, deu de, ger de, ell el, gre el, eng en, est et,
eus eu, fas fa, per fa, fin fi, fra fr, fre fr, glg gl, heb he, hin hi, hrv hr, hun hu, ind id, ita it, jpn ja, kan kn,
kor ko, lav lv, lit lt, mal ml, mar mr, nld nl, dut nl, nor no, pol pl, por pt, ron ro, rum ro, rus ru, slk sk, slo sk,
slv sl, spa es, srp sr, swa sw, swe sv, tam ta, tel te, tha th, tur tr, ukr uk, urd ur, vie vi, cym cy, wel cy
"""


def _pairs(table: str) -> list[list[str]]:
    return [entry.split() for entry in table.replace("\n", " ").split(",")]


_CODES = {name: code for code, name in _pairs(_NAMES)} | dict(_pairs(_LETTERS))


def language_code(written: str) -> str:
    """The code of a language; itself if it is not a name that is known here, in letters of any case."""
    return _CODES.get(written.strip().lower(), written)
