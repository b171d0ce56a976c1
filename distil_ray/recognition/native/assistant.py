"""The model that drafts: what is loaded of it, and how little of it is needed.

An assistant with the main model's own encoder (Distil-Whisper keeps its teacher's, frozen) hears through that one, and
its copy is not kept. Any other encodes for itself, from the same features. As its drafts are verified, it may compute
more cheaply than the main model: in 8 bits where the processor has products for them, and with a part of the
vocabulary. The projection to all 51,865 tokens would be half of a step; tokens get their numbers in the order in which
the tokenizer learned them, so that the first ones are the frequent ones.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.whisper.checkpoint import assistant_mismatch
from distil_ray.whisper.model import LoadedModel, load_model, supports_int8
from distil_ray.whisper.tokenizer import Tokens

FREQUENT_TOKENS = 32_768  # of the vocabulary, beside all special and time tokens: 97 % of those of read English
# A frozen encoder that was stored in another number type differs by 0.4 % at most; another encoder by far more.
ROUNDING = 0.01


@dataclass(frozen=True, slots=True)
class Assistant:
    """``encoder``: None where it hears through the main model's. ``vocabulary``: the ids it drafts, in rising order."""

    decoder: Decoder
    encoder: Encoder | None
    vocabulary: Tensor
    warnings: tuple[str, ...]


def load_assistant(
    folder: str | Path, main_folder: str | Path, main: LoadedModel, tokens: Tokens, options: RecognizerOptions
) -> Assistant:
    """The assistant in a local model folder, on the main model's device, for windows as in `options`.

    Raises ValueError, which names the difference, for a checkpoint that cannot draft for this one.
    """
    if reason := assistant_mismatch(Path(main_folder), Path(folder)):
        raise ValueError(f"model.assistant={folder} cannot draft for {main_folder}: {reason}")
    is_int8 = main.device.type == "cpu" and main.attention == "sdpa" and supports_int8()
    dtype = "int8" if is_int8 else str(main.dtype).removeprefix("torch.")
    model = load_model(folder, device=main.device.type, dtype=dtype, attention=main.attention, threads=options.threads)
    vocabulary = drafted_ids(tokens, model.module.config.vocab_size).to(main.device)
    is_shared = shares_encoder(main.module, model.module)
    encoder = None if is_shared else Encoder(model.module, is_int8)
    if encoder is not None and options.window == "gated":
        encoder.add_silence()
    hears = "hears through the main model's encoder" if is_shared else "has an encoder of its own"
    layers = model.module.config.decoder_layers
    note = f"model.assistant: {layers} decoder layers in {model.dtype_name}; it {hears}"
    return Assistant(Decoder(model.module, is_int8, vocabulary), encoder, vocabulary, (note,))


def shares_encoder(main: Any, assistant: Any) -> bool:
    """Whether two Whisper modules have the same encoder, up to the rounding of what it was stored in."""
    mine, its = (dict(module.model.encoder.named_parameters()) for module in (main, assistant))
    if {name: each.shape for name, each in mine.items()} != {name: each.shape for name, each in its.items()}:
        return False
    return all(_is_near(mine[name], its[name]) for name in mine)


def _is_near(mine: Tensor, its: Tensor) -> bool:
    return bool((mine - its).norm(dtype=torch.float32) <= ROUNDING * mine.norm(dtype=torch.float32))


def drafted_ids(tokens: Tokens, size: int) -> Tensor:
    """The ids that an assistant drafts, of a vocabulary of so many entries, in rising order."""
    return torch.cat([torch.arange(min(FREQUENT_TOKENS, tokens.eot)), torch.arange(tokens.eot, size)])
