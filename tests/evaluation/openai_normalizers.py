"""The normalizers of openai-whisper for comparison, from another copy of their code than the package uses.

The package whisper-normalizer has them with four more contractions in the English one, which are taken out here. The
result is that of openai-whisper 20250625 for 60,000 texts of printable ASCII, and for the references of the corpus.
"""

from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

ADDED = (r"\bkinda\b", r"\bsorta\b", r"\bdunno\b", r"\bcause\b")
# Of the JSON of openai's spellings with its keys sorted (openai-whisper 20250625, whisper/normalizers/english.json).
SPELLINGS_SHA256 = "a9514fed7a5a462d97b9a7a2f93d38e7ec098ad2dd4171096b9d9e7b2a8ccdec"


def _english() -> EnglishTextNormalizer:
    normalizer = EnglishTextNormalizer()
    for pattern in ADDED:
        del normalizer.replacers[pattern]
    return normalizer


_ENGLISH, _BASIC = _english(), BasicTextNormalizer()


def openai_english(text: str) -> str:
    return " ".join(_ENGLISH(text).split())


def openai_basic(text: str) -> str:
    return " ".join(_BASIC(text).split())
