"""Writes a checkpoint for whisper.cpp as one ggml file, with matrices in 8-bit blocks (q8_0).

Little endian, 32-bit integers: a magic number, the sizes, the mel filters, the vocabulary (text tokens as raw bytes;
whisper.cpp knows special tokens by their position), then every tensor with its dimensions reversed. As in files of
whisper.cpp's own tools, convolution kernels are float16, vectors and positional embeddings are float32, and biases of
convolutions are columns.
"""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from benchmarks.formats.hugging_face import Checkpoint
from benchmarks.formats.openai import dimensions, rename

MAGIC = 0x67676D6C  # "ggml"
FLOAT32, FLOAT16, Q8_0 = 0, 1, 8  # ggml's numbers of tensor types
FILE_TYPE = 2007  # mostly q8_0 (7), quantization version 2 (times 1000)
BLOCK = 32  # numbers that share a scale
COLUMNS = ("encoder.conv1.bias", "encoder.conv2.bias")


def write(checkpoint: Checkpoint, path: Path) -> None:
    with open(path, "wb") as file:
        _write_integers(file, MAGIC, *dimensions(checkpoint.config).values(), FILE_TYPE)
        filters = _mel_filters(checkpoint.config["num_mel_bins"])
        _write_integers(file, *filters.shape)
        file.write(filters.tobytes())
        end = checkpoint.generation.get("eos_token_id", checkpoint.config["eos_token_id"])
        words = [_raw_bytes(token) for token in checkpoint.tokens[:end]]
        _write_integers(file, len(words))
        for word in words:
            _write_integers(file, len(word))
            file.write(word)
        for name, array in checkpoint.weights().items():
            _write_tensor(file, rename(name), array.astype(np.float32))


def _write_integers(file: BinaryIO, *values: int) -> None:
    file.write(struct.pack(f"<{len(values)}i", *values))


def _write_tensor(file: BinaryIO, name: str, array: NDArray[np.float32]) -> None:
    if name in COLUMNS:
        array = array.reshape(-1, 1)
    if array.ndim == 3:
        kind, content = FLOAT16, array.astype(np.float16).tobytes()
    elif array.ndim == 2 and not name.endswith("positional_embedding") and name not in COLUMNS:
        kind, content = Q8_0, quantize(array)
    else:
        kind, content = FLOAT32, array.tobytes()
    encoded = name.encode()
    _write_integers(file, array.ndim, len(encoded), kind, *reversed(array.shape))
    file.write(encoded)
    file.write(content)


def quantize(array: NDArray[np.float32]) -> bytes:
    """Returns q8_0 blocks.

    For every 32 numbers of a row a float16 scale, then 32 int8. Row lengths are multiples of 32.
    """
    blocks = array.reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    steps = np.rint(blocks / np.where(scale == 0, 1, scale)).astype(np.int8)
    return np.concatenate([scale.astype(np.float16).view(np.uint8), steps.view(np.uint8)], axis=1).tobytes()


def _mel_filters(num_mel_bins: int) -> NDArray[np.float32]:
    """Shape (bins, 201)."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(201, num_mel_bins, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    return np.ascontiguousarray(filters.T, dtype=np.float32)


def _raw_bytes(token: str) -> bytes:
    return bytes(_BYTES[letter] for letter in token)


def _byte_of_letter() -> dict[str, int]:
    """Returns GPT-2's byte alphabet: printable bytes map to themselves, the others to U+0100 and following."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_of_letter()
