"""Companion files: what transformers 4 and Distil-Whisper's trainer read from a model folder beside the weights.

This project reads tokenizer.json alone. Published folders hold its content a second time, as vocab.json and merges.txt,
which transformers 4's `WhisperTokenizer` and `AutoProcessor` need, and normalizer.json, which Distil-Whisper's trainer
needs. `add_companion_files` writes the files that a folder lacks.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

from distil_ray.whisper.formats.model_files import FEATURE_EXTRACTOR, tokenizer_config
from distil_ray.whisper.formats.tensors import Json

PROCESSOR = "processor_config.json"
SPELLING_PACKAGE, SPELLING_FILE = "whisper_normalizer", "normalizers/english.json"


@cache
def english_spelling() -> dict[str, str]:
    """Returns the American spelling of each British one, in the order of the published normalizer.json.

    Whisper's English normalizer replaces the British spellings. Published checkpoints carry the map as normalizer.json,
    and transformers' `EnglishTextNormalizer` takes it as an argument. It is read from the data of the package
    whisper-normalizer (MIT); none of its code runs. The returned dict is cached and must not be changed.
    """
    spelling: dict[str, str] = json.loads(files(SPELLING_PACKAGE).joinpath(SPELLING_FILE).read_text(encoding="utf-8"))
    return spelling


def add_companion_files(folder: Path) -> None:
    """Writes the files that transformers 4 and Distil-Whisper's trainer read and the folder lacks.

    A folder that transformers 5 saved is converted to the form that both versions read: its processor_config.json
    becomes preprocessor_config.json, and tokenizer_config.json is written anew. Other existing files are kept. Files
    are written atomically, so that several processes may call this at once.

    Args:
        folder: A model folder with config.json and tokenizer.json.

    Raises:
        OSError: The folder is not writable.
    """
    for name, content in _COMPANIONS.items():
        if not (folder / name).exists():
            _put(folder / name, content(folder))
    if "added_tokens_decoder" not in _read(folder, "tokenizer_config.json"):
        _put(folder / "tokenizer_config.json", _line(tokenizer_config(_read(folder, "tokenizer.json"))))
    (folder / PROCESSOR).unlink(missing_ok=True)


def _merges(folder: Path) -> str:
    merges = _read(folder, "tokenizer.json")["model"]["merges"]
    pairs = (merge if isinstance(merge, str) else " ".join(merge) for merge in merges)
    return "".join(f"{line}\n" for line in ("#version: 0.2", *pairs))


def _preprocessor(folder: Path) -> str:
    saved = _read(folder, PROCESSOR).get("feature_extractor")
    features = saved or FEATURE_EXTRACTOR | {"feature_size": _read(folder, "config.json")["num_mel_bins"]}
    return json.dumps({"processor_class": "WhisperProcessor", **features}, indent=2) + "\n"


_COMPANIONS: Mapping[str, Callable[[Path], str]] = {
    "vocab.json": lambda folder: _line(_read(folder, "tokenizer.json")["model"]["vocab"]),
    "merges.txt": _merges,
    "normalizer.json": lambda _: json.dumps(english_spelling(), indent=2) + "\n",
    "preprocessor_config.json": _preprocessor,
}


def _read(folder: Path, name: str) -> Json:
    """Returns a JSON file of the folder, or an empty dict if there is none."""
    path = folder / name
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _line(content: Json) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


def _put(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}-{uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
