"""Writes a checkpoint for faster-whisper as a CTranslate2 folder; the inverse of whisper/ctranslate2.py.

Attention projections are stacked (q, k and v; in cross-attention q alone, then k and v), with zeros for the bias that
Whisper's keys lack. Numbers are not changed; CTranslate2 quantizes when it loads.
"""

import json
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from benchmarks.formats.hugging_face import Checkpoint, Weights, num_layers
from distil_ray.whisper.ctranslate2 import FILE_VERSION, LINEAR, NORM, NUMBER_TYPES

SPEC, SPEC_REVISION = "WhisperSpec", 3
GELU = 3  # CTranslate2's number of the activation
NUMBER_CODES = {name: code for code, name in NUMBER_TYPES.items()}

Variables = dict[str, NDArray[np.generic]]


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes model.bin, config.json and vocabulary.json, and copies the tokenizer."""
    with open(folder / "model.bin", "wb") as file:
        _write_model(file, variables(checkpoint.weights(), checkpoint.config))
    generation = checkpoint.generation
    rules = {
        "suppress_ids": generation.get("suppress_tokens") or [],
        "suppress_ids_begin": generation.get("begin_suppress_tokens") or [],
        "lang_ids": sorted(generation.get("lang_to_id", {}).values()),
        "alignment_heads": generation.get("alignment_heads") or [],
    }
    (folder / "config.json").write_text(json.dumps(rules), encoding="utf-8")
    (folder / "vocabulary.json").write_text(json.dumps(checkpoint.tokens), encoding="utf-8")
    for name in ("tokenizer.json", "preprocessor_config.json"):
        (folder / name).write_bytes((checkpoint.folder / name).read_bytes())


def variables(weights: Weights, config: dict[str, int]) -> Variables:
    """Returns the variables of CTranslate2 by name: tensors, and settings stored as scalars."""
    found: Variables = {
        "encoder/num_heads": np.array(config["encoder_attention_heads"], np.int16),
        "decoder/num_heads": np.array(config["decoder_attention_heads"], np.int16),
        "decoder/activation": np.array(GELU, np.int8),
        "decoder/pre_norm": np.array(1, np.int8),
        "decoder/alibi": np.array(0, np.int8),
        "decoder/scale_embeddings": np.array(0, np.int8),
        "decoder/start_from_zero_embedding": np.array(0, np.int8),
        "decoder/alignment_layer": np.array(-1, np.int16),
        "decoder/alignment_heads": np.array(1, np.int16),
        "decoder/embeddings/weight": weights["model.decoder.embed_tokens.weight"],
    }
    for convolution in ("conv1", "conv2"):
        _copy(found, f"encoder/{convolution}", weights, f"model.encoder.{convolution}", LINEAR)
    for side in ("encoder", "decoder"):
        found[f"{side}/position_encodings/encodings"] = weights[f"model.{side}.embed_positions.weight"]
        _copy(found, f"{side}/layer_norm", weights, f"model.{side}.layer_norm", NORM)
        layers = f"model.{side}.layers."
        for layer in range(num_layers(list(weights), layers)):
            _copy_layer(found, f"{side}/layer_{layer}", weights, f"{layers}{layer}", side == "decoder")
    return found


def _copy_layer(found: Variables, target: str, weights: Weights, source: str, has_cross_attention: bool) -> None:
    _copy(found, f"{target}/self_attention/layer_norm", weights, f"{source}.self_attn_layer_norm", NORM)
    _stack(found, f"{target}/self_attention/linear_0", weights, f"{source}.self_attn", "qkv")
    _copy(found, f"{target}/self_attention/linear_1", weights, f"{source}.self_attn.out_proj", LINEAR)
    if has_cross_attention:
        _copy(found, f"{target}/attention/layer_norm", weights, f"{source}.encoder_attn_layer_norm", NORM)
        _stack(found, f"{target}/attention/linear_0", weights, f"{source}.encoder_attn", "q")
        _stack(found, f"{target}/attention/linear_1", weights, f"{source}.encoder_attn", "kv")
        _copy(found, f"{target}/attention/linear_2", weights, f"{source}.encoder_attn.out_proj", LINEAR)
    _copy(found, f"{target}/ffn/layer_norm", weights, f"{source}.final_layer_norm", NORM)
    _copy(found, f"{target}/ffn/linear_0", weights, f"{source}.fc1", LINEAR)
    _copy(found, f"{target}/ffn/linear_1", weights, f"{source}.fc2", LINEAR)


def _copy(found: Variables, target: str, weights: Weights, source: str, kinds: tuple[tuple[str, str], ...]) -> None:
    for theirs, ours in kinds:
        found[f"{target}/{theirs}"] = weights[f"{source}.{ours}"]


def _stack(found: Variables, target: str, weights: Weights, source: str, parts: str) -> None:
    matrices = [weights[f"{source}.{part}_proj.weight"] for part in parts]
    zeros = np.zeros(matrices[0].shape[0], matrices[0].dtype)
    found[f"{target}/weight"] = np.concatenate(matrices)
    found[f"{target}/bias"] = np.concatenate([weights.get(f"{source}.{part}_proj.bias", zeros) for part in parts])


def _write_model(file: BinaryIO, found: Variables) -> None:
    file.write(struct.pack("<I", FILE_VERSION) + _text(SPEC) + struct.pack("<II", SPEC_REVISION, len(found)))
    for name, array in sorted(found.items()):
        file.write(_text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape))
        file.write(struct.pack("<BI", NUMBER_CODES[array.dtype.name], array.nbytes))
        file.write(np.ascontiguousarray(array).tobytes())
    file.write(struct.pack("<I", 1) + _text("decoder/projection/weight") + _text("decoder/embeddings/weight"))


def _text(text: str) -> bytes:
    """Returns a string in CTranslate2's encoding: its length with a closing NUL, then the bytes."""
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"
