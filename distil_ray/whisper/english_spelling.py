"""British to American spellings, as Whisper's English normalizer replaces them.

Published checkpoints carry this map as normalizer.json, and transformers' `EnglishTextNormalizer` takes it as an
argument. It is read out of the package whisper-normalizer (MIT), none of whose code runs.
"""

import json
from functools import cache
from importlib.resources import files

PACKAGE, FILE = "whisper_normalizer", "normalizers/english.json"


@cache
def english_spelling() -> dict[str, str]:
    """The American spelling of each British one, in the order of the published normalizer.json; not to be changed."""
    spelling: dict[str, str] = json.loads(files(PACKAGE).joinpath(FILE).read_text(encoding="utf-8"))
    return spelling
