"""The formats that a Hugging Face folder can be written in, and their number types."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distil_ray.whisper.companion_files import add_companion_files
from distil_ray.whisper.formats import ctranslate2, ggml, onnx, openai
from distil_ray.whisper.formats.ggml_blocks import QUANTIZED
from distil_ray.whisper.formats.hugging_face import read_folder, save_tensors
from distil_ray.whisper.formats.model_files import read_json, write_json
from distil_ray.whisper.formats.tensors import FLOAT16, FLOAT32, Checkpoint, Tensor, tied_config
from distil_ray.whisper.formats.vocabulary import require_known_size, text_tokens
from distil_ray.whisper.model_folders import WEIGHTS
from distil_ray.whisper.weights_cache import WeightsError

AUTO = "auto"  # the dtype of the checkpoint


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """A format that checkpoints can be written in.

    Attributes:
        program: The program that reads it, for the help.
        dtypes: Number types of the matrices.
        is_folder: A checkpoint is a folder, and not a file.
        write: Writes the checkpoint of a model folder to a file, or into an existing folder; called with the model
            folder, its content, the target and one of `dtypes`. None for onnx, which an exporter writes.
    """

    program: str
    dtypes: tuple[str, ...]
    is_folder: bool
    write: Callable[[Path, Checkpoint, Path, str], None] | None


def _write_hugging_face(folder: Path, checkpoint: Checkpoint, target: Path, dtype: str) -> None:
    tensors = {name: _with_dtype(tensor, dtype) for name, tensor in checkpoint.tensors.items()}
    save_tensors(tensors, target / WEIGHTS)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".txt") and not path.name.endswith(".index.json"):
            shutil.copyfile(path, target / path.name)
    config = tied_config(read_json(folder / "config.json") or {})
    write_json(target / "config.json", {key: config[key] for key in config if key != "torch_dtype"} | {"dtype": dtype})
    add_companion_files(target)


def _with_dtype(tensor: Tensor, dtype: str) -> Tensor:
    return Tensor(tensor.shape, dtype, lambda: tensor.load().astype(np.dtype(dtype)))


def _write_ggml(folder: Path, checkpoint: Checkpoint, target: Path, dtype: str) -> None:
    words = text_tokens(checkpoint.source, checkpoint.tokenizer or {}, checkpoint.sizes.vocab_size)
    ggml.write(replace(checkpoint, vocabulary=words), target, dtype)


def _write_openai(folder: Path, checkpoint: Checkpoint, target: Path, dtype: str) -> None:
    require_known_size(checkpoint.source, checkpoint.sizes.vocab_size)  # openai-whisper derives its tokens from it
    openai.write(checkpoint, target, dtype)


def _write_ctranslate2(folder: Path, checkpoint: Checkpoint, target: Path, dtype: str) -> None:
    ctranslate2.write(checkpoint, target, dtype)
    if (features := folder / "preprocessor_config.json").exists():  # faster-whisper reads the mel bins from it
        shutil.copyfile(features, target / features.name)


FLOATS = (FLOAT32, FLOAT16)
FORMATS = {
    "hf": OutputFormat("transformers", FLOATS, True, _write_hugging_face),
    "openai": OutputFormat("openai-whisper", FLOATS, False, _write_openai),
    "ggml": OutputFormat("whisper.cpp", (*FLOATS, *QUANTIZED), False, _write_ggml),
    "ctranslate2": OutputFormat("faster-whisper", tuple(ctranslate2.DTYPES), True, _write_ctranslate2),
    "onnx": OutputFormat("transformers.js", (FLOAT32, onnx.INT8), True, None),  # its exporter reads the folder itself
}


def write_weights(folder: Path, target: Path, name: str, dtype: str = AUTO, exporter: str = sys.executable) -> str:
    """Writes the checkpoint of a model folder in another format, and returns the dtype of its matrices.

    Args:
        folder: A Hugging Face folder.
        target: The file, or an existing folder; see `OutputFormat.is_folder`.
        name: A key of `FORMATS`.
        dtype: One of its dtypes, or "auto": that of the checkpoint; for ggml float16, as whisper.cpp 1.8 aborts at
            convolutions in float32; for onnx all.
        exporter: Python interpreter that exports onnx.

    Raises:
        WeightsError: The format has no such dtype, or it cannot hold the checkpoint.
    """
    output = FORMATS[name]
    if dtype not in (AUTO, *output.dtypes):
        raise WeightsError(f"dtype={dtype}: format={name} has {', '.join(output.dtypes)}, and auto")
    checkpoint = read_folder(folder)
    if output.write is None:
        dtypes = output.dtypes if dtype == AUTO else (dtype,)
        onnx.write(folder, target, dtypes, exporter)
        return " and ".join(dtypes)
    chosen = dtype
    if dtype == AUTO:
        chosen = FLOAT16 if name == "ggml" else checkpoint.dtype
    output.write(folder, checkpoint, target, chosen)
    return chosen
