"""A tiny Whisper checkpoint: real file formats, without real weights."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from distil_ray.whisper.tokenizer import Tokens

SPECIALS = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|de|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
NUM_BYTES = 256
VOCAB_SIZE = NUM_BYTES + len(SPECIALS) + 1501


def small_tokenizer() -> Tokenizer:
    """A tokenizer with one token per byte, Whisper's special tokens and the timestamp tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.add_tokens([f"<|{index * 0.02:.2f}|>" for index in range(1501)])
    return tokenizer


def small_config(**changes: Any) -> dict[str, Any]:
    return {
        "model_type": "whisper",
        "vocab_size": VOCAB_SIZE,
        "num_mel_bins": 80,
        "encoder_layers": 2,
        "decoder_layers": 2,
        **changes,
    }


def small_generation_config(**changes: Any) -> dict[str, Any]:
    return {"is_multilingual": True, "suppress_tokens": [1, 2], "begin_suppress_tokens": [3], **changes}


def small_tokens(**changes: Any) -> Tokens:
    return Tokens.from_configs(small_config(), small_generation_config(**changes), small_tokenizer())


def write_small_folder(folder: Path, weights: bytes = b"weights", **changes: Any) -> Path:
    """Writes every file of a model folder except real weights; `changes` are those of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(small_config(**changes)))
    (folder / "generation_config.json").write_text(json.dumps(small_generation_config()))
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 80}))
    small_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "model.safetensors").write_bytes(weights)
    return folder
