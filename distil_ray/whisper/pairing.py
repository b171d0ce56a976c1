"""Whether one checkpoint can draft for another: told from the small files of both, before any weights are there.

Drafts are token ids, so an id must mean the same to both; positions, windows and mel bins must be as many, because an
assistant works in step with the main model and hears the same features. Layers and widths are its own affair.
"""

import json
from pathlib import Path
from typing import Any

from distil_ray.whisper.tokenizer import MAX_POSITIONS, Tokens

SAME_SIZES = {
    "vocab_size": "vocabulary entries",
    "num_mel_bins": "mel bins",
    "max_target_positions": "text positions",
    "max_source_positions": "window positions",
}
DEFAULTS = {"max_target_positions": MAX_POSITIONS, "max_source_positions": 1500}  # where a config does not say
V2_V3 = {51865, 51866}  # entries of the multilingual vocabularies
SAME_TOKENS = ("sot", "eot", "transcribe", "translate", "no_timestamps", "timestamp_begin", "languages")


def obstacle(main: Path, assistant: Path) -> str | None:
    """What keeps a checkpoint from drafting for another, with both values; None if nothing does.

    `main`, `assistant`: model folders, or folders of their small files.
    """
    sizes, its_sizes = _sizes(main), _sizes(assistant)
    for name, words in SAME_SIZES.items():
        mine, its = sizes[name], its_sizes[name]
        if mine != its:
            why = "; Whisper v3 has a language more than v2" if name == "vocab_size" and {mine, its} == V2_V3 else ""
            return f"it has {its} {words}, the main model {mine}{why}"
    tokens, its_tokens = Tokens.load(main), Tokens.load(assistant)
    for name in SAME_TOKENS:
        if getattr(tokens, name) != getattr(its_tokens, name):
            return f"its special tokens are others: {name} is {getattr(its_tokens, name)}, not {getattr(tokens, name)}"
    for token in range(tokens.eot):
        text, its_text = (each.tokenizer.id_to_token(token) for each in (tokens, its_tokens))
        if text != its_text:
            return f"its tokenizer is another: token {token} is {its_text!r}, not {text!r}"
    return None


def _sizes(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {**DEFAULTS, **config}
