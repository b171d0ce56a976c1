"""Checkpoints of large shapes with random weights, which cost as much as real ones if they write as many tokens.

They are written to a folder like any checkpoint, so that recognizers load them as usual. The end token is suppressed,
so that texts have the requested length; ids stand for made-up words of four letters.
"""

import json
from dataclasses import asdict, dataclass
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import WhisperConfig, WhisperForConditionalGeneration

NUM_WORDS = 50_257
V3_LANGUAGES = 100
NUM_TIMESTAMPS = 1501
LANGUAGE = "en"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a Whisper checkpoint; `d_model` is the width, heads have 64 numbers."""

    d_model: int
    encoder_layers: int
    decoder_layers: int
    num_mel_bins: int = 128
    vocab_size: int = NUM_WORDS + V3_LANGUAGES + 8 + NUM_TIMESTAMPS

    @property
    def heads(self) -> int:
        return self.d_model // 64


SHAPES = {
    "distil-large-v3": ModelShape(1280, 32, 2),
    "large-v3-turbo": ModelShape(1280, 32, 4),
    "large-v3": ModelShape(1280, 32, 32),
    "tiny-shape": ModelShape(128, 2, 2, num_mel_bins=80),  # to try the benchmark itself out
}


def read_shape(folder: Path) -> ModelShape:
    """Returns the shape of a checkpoint on disk."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return ModelShape(**{name: config[name] for name in ModelShape.__slots__})


def write_random_checkpoint(shape: ModelShape, folder: Path, device: str, dtype: torch.dtype) -> None:
    """Writes a checkpoint of this shape to an empty folder; the weights are drawn on `device`."""
    specials = _specials()
    eot, sot = NUM_WORDS, NUM_WORDS + 1
    torch.manual_seed(0)
    with torch.device(device):
        module: Any = WhisperForConditionalGeneration(
            WhisperConfig(
                **asdict(shape),
                encoder_attention_heads=shape.heads,
                decoder_attention_heads=shape.heads,
                encoder_ffn_dim=4 * shape.d_model,
                decoder_ffn_dim=4 * shape.d_model,
                pad_token_id=eot,
                bos_token_id=eot,
                eos_token_id=eot,
                decoder_start_token_id=sot,
            )
        )
    module.to(dtype).save_pretrained(folder)
    _tokenizer(specials).save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text(json.dumps(_generation(specials, eot)), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": shape.num_mel_bins}), encoding="utf-8")


def _specials() -> list[str]:
    """Returns the special tokens of Whisper v3 in the order of their ids, without the timestamp tokens."""
    codes = [LANGUAGE, *(f"x{number}" for number in range(1, V3_LANGUAGES))]
    after = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    return [f"<|{name}|>" for name in ("endoftext", "startoftranscript", *codes, *after)]


def _tokenizer(specials: list[str]) -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made_up = islice(map("".join, product(ascii_lowercase, repeat=4)), NUM_WORDS - len(letters))
    words = [*letters, *(f"Ġ{word}" for word in made_up)]  # this letter stands for a blank
    tokenizer = Tokenizer(BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    tokenizer.add_tokens([f"<|{number * 0.02:.2f}|>" for number in range(NUM_TIMESTAMPS)])
    return tokenizer


def _generation(specials: list[str], eot: int) -> dict[str, Any]:
    ids = {name: NUM_WORDS + number for number, name in enumerate(specials)}
    return {
        "is_multilingual": True,
        "lang_to_id": {name: ids[name] for name in specials[2 : 2 + V3_LANGUAGES]},
        "task_to_id": {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "max_initial_timestamp_index": 50,
        "suppress_tokens": [eot],
        "begin_suppress_tokens": [eot],
        "max_length": 448,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), eot),
        "decoder_start_token_id": eot + 1,
    }
