"""What a comparison keeps on disk, so that it is computed once: answers as lines of JSON, encoder states as arrays.

A window of whisper-base takes one and a half seconds to encode and three megabytes to keep. Whoever compares decoders
encodes the same windows again and again: with timestamps and without, in batches of one, three and thirty-two, here
and in transformers. A hash of the features finds them again, whoever made the features. That two encoders give the
same states, bit for bit, is for the user to prove before one of them reads what the other has kept.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Encode = Callable[[Tensor], Tensor]  # (rows, mel bins, frames) to (rows, positions, d_model), float32


class JsonLinesCache:
    """Answers by key, a line each, added as they come; a line that a killed process left unfinished does not count."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    key, value = json.loads(line)
                except ValueError:
                    continue
                self._known[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def add(self, key: str, value: Any) -> None:
        self._known[key] = value
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps([key, value]))  # a new line first: the one before may be torn


class EncoderStateCache:
    """Encoder states of one checkpoint in float32, a file a window."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def cached(self, encode: Encode) -> Encode:
        """`encode`, asked row by row, and only for what is not there yet."""

        def recall(features: Tensor) -> Tensor:
            return torch.stack([self._row(encode, row) for row in features.float().contiguous()])

        return recall

    def _row(self, encode: Encode, features: Tensor) -> Tensor:
        path = self._folder / f"{hashlib.sha256(features.numpy().tobytes()).hexdigest()[:32]}.npy"
        if not path.exists():
            unfinished = path.with_name(f"{path.stem}.{os.getpid()}.part.npy")
            np.save(unfinished, encode(features[None])[0].numpy())
            unfinished.replace(path)
        return torch.from_numpy(np.load(path))
