"""Reads a checkpoint's folder in Hugging Face's format, as numpy arrays and plain dicts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.floating]]


@dataclass(frozen=True)
class Checkpoint:
    """A local folder with model.safetensors (or its shards), config.json, tokenizer.json.

    generation_config.json may be missing; `generation` is empty then.
    """

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        return self._json("config.json")

    @cached_property
    def generation(self) -> dict[str, Any]:
        return self._json("generation_config.json") if (self.folder / "generation_config.json").exists() else {}

    @cached_property
    def tokens(self) -> list[str]:
        """Returns the vocabulary in order of ids, as the tokenizer writes it (bytes in GPT-2's printable alphabet)."""
        tokenizer = self._json("tokenizer.json")
        ids = dict(tokenizer["model"]["vocab"])
        ids |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        named = {number: text for text, number in ids.items()}
        return [named.get(number, f"<|unused{number}|>") for number in range(self.config["vocab_size"])]

    def weights(self) -> Weights:
        """Returns every tensor by name, without the output projection, which Whisper ties to the embedding."""
        from safetensors.numpy import load_file

        found: Weights = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            found |= load_file(path)
        found.pop("proj_out.weight", None)
        return found

    def _json(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return content


def num_layers(names: Sequence[str], prefix: str) -> int:
    """Returns the number of layers below `prefix`, such as ``model.encoder.layers.``."""
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in names if name.startswith(prefix))
