"""Hugging Face's model folders: reads one for a writer of another format, and writes one from what a reader found.

What the source of a checkpoint lacks is completed: the tokenizer from its vocabulary, suppressed tokens from the
tokenizer, alignment heads from the sizes. Tensors are written one after the other in the layout of safetensors, so that
memory for one tensor is enough; the bytes are those that the library `safetensors` writes.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distil_ray.whisper.formats.model_files import (
    FEATURE_EXTRACTOR,
    complete_tokenizer,
    generation_config,
    model_config,
    read_json,
    special_tokens,
    tokenizer_config,
    write_json,
)
from distil_ray.whisper.formats.tensors import (
    FLOAT16,
    FLOAT32,
    Array,
    Checkpoint,
    Json,
    Sizes,
    Tensor,
    check_tensors,
    drop_projection,
    full_name,
    tied_config,
)
from distil_ray.whisper.formats.vocabulary import (
    ENGLISH_SIZE,
    NUM_TEXT_TOKENS,
    check_tokenizer,
    make_tokenizer,
    require_known_size,
    suppressed_tokens,
)
from distil_ray.whisper.model_folders import WEIGHTS, list_safetensors
from distil_ray.whisper.weights_cache import WeightsError

COMPANIONS = (  # files of a Hugging Face folder that may lie beside weights in another format
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "normalizer.json",
)
_CODES = {FLOAT32: "F32", FLOAT16: "F16"}

FetchVocabulary = Callable[[bool], Sequence[bytes]]  # called with True for the multilingual one


def write_folder(
    checkpoint: Checkpoint,
    folder: Path,
    fetch_vocabulary: FetchVocabulary | None = None,
    companions: Mapping[str, Json] | None = None,
) -> None:
    """Writes a Hugging Face folder of a checkpoint in another format.

    Args:
        checkpoint: What the reader of the format found.
        folder: An existing folder.
        fetch_vocabulary: Returns the text tokens of Whisper's vocabulary where neither the checkpoint nor a companion
            has them; not needed with a tokenizer.json.
        companions: JSON files that lie beside the weights, by their names. tokenizer.json is used, the others if
            config.json has the sizes of the checkpoint.

    Raises:
        WeightsError: The tensors are not those of the sizes, or the tokenizer is that of another vocabulary, or cannot
            be known.
    """
    source, sizes = checkpoint.source, checkpoint.sizes
    check_tensors(source, sizes, checkpoint.tensors)
    companions = dict(companions or {})
    tokenizer = _tokenizer(checkpoint, companions.get("tokenizer.json"), fetch_vocabulary)
    specials = special_tokens(tokenizer)
    files = {
        "config.json": model_config(sizes, checkpoint.dtype, specials),
        "preprocessor_config.json": {**FEATURE_EXTRACTOR, "feature_size": sizes.num_mel_bins},
    }
    if _describes(companions.get("config.json"), sizes):
        files |= {name: companions[name] for name in COMPANIONS if name in companions and name != "tokenizer.json"}
        files["config.json"] = tied_config(files["config.json"])
    if "generation_config.json" not in files:
        stated = dict(checkpoint.generation)
        _check_rules(source, stated, sizes)
        if not {"suppress_tokens", "begin_suppress_tokens"} <= stated.keys():
            suppressed, first = suppressed_tokens(tokenizer)
            stated = {"suppress_tokens": suppressed, "begin_suppress_tokens": first} | stated
        files["generation_config.json"] = generation_config(stated, sizes, specials)
    save_tensors(checkpoint.tensors, folder / WEIGHTS)
    for name, content in files.items():
        write_json(folder / name, content)
    write_json(folder / "tokenizer.json", tokenizer, indent=None)
    write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer), indent=None)


def _tokenizer(checkpoint: Checkpoint, companion: Json | None, fetch_vocabulary: FetchVocabulary | None) -> Json:
    source, vocab_size = checkpoint.source, checkpoint.sizes.vocab_size
    if companion is not None:
        try:
            tokenizer = complete_tokenizer(companion)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise WeightsError(f"{source}: tokenizer.json is no Whisper tokenizer ({error!r})") from error
        check_tokenizer(source, tokenizer, vocab_size)
        return tokenizer
    require_known_size(source, vocab_size)
    words = checkpoint.vocabulary
    if words is None and fetch_vocabulary is not None:
        words = tuple(fetch_vocabulary(vocab_size != ENGLISH_SIZE))
    if words is None:
        raise WeightsError(f"{source}: holds no tokenizer. Put the tokenizer.json of the model beside it")
    return make_tokenizer(source, words, vocab_size)


def _describes(config: Json | None, sizes: Sizes) -> bool:
    """Returns True if a config.json is that of a Whisper checkpoint of these sizes."""
    if config is None or config.get("model_type") != "whisper":
        return False
    try:
        return Sizes.from_config(config) == sizes
    except (KeyError, WeightsError):
        return False


def _check_rules(source: str, stated: Json, sizes: Sizes) -> None:
    """Checks the ids and alignment heads that a source states.

    Heads of layers that the decoder does not have are no error, here as elsewhere: students keep their teacher's.
    """
    try:
        ids = [token for key in ("suppress_tokens", "begin_suppress_tokens") for token in stated.get(key) or []]
        are_ids = all(isinstance(token, int) and 0 <= token < sizes.vocab_size for token in ids)
        heads = [number for layer, head in stated.get("alignment_heads") or [] for number in (layer, head)]
        are_heads = all(isinstance(number, int) and number >= 0 for number in heads)
    except (TypeError, ValueError):
        are_ids = are_heads = False
    if not are_ids or not are_heads:
        raise WeightsError(f"{source}: its config.json states suppressed tokens or alignment heads that are none")


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a safetensors file, tensor by tensor; those of the larger dtype first, then by name."""
    ordered = sorted(tensors, key=lambda name: (-np.dtype(tensors[name].dtype).itemsize, name))
    header: Json = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in ordered:
        tensor = tensors[name]
        begin, end = end, end + int(np.prod(tensor.shape, dtype=np.int64)) * np.dtype(tensor.dtype).itemsize
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in ordered:
            file.write(np.ascontiguousarray(tensors[name].load(), tensors[name].dtype).data)


def read_folder(folder: Path) -> Checkpoint:
    """Reads a Hugging Face folder. The tensors are loaded when they are needed; bfloat16 becomes float32, exactly.

    Raises:
        WeightsError: A file is damaged, tensors and config do not match, or the tokenizer is another model's.
    """
    config, tokenizer = read_json(folder / "config.json") or {}, read_json(folder / "tokenizer.json") or {}
    try:
        sizes, tokenizer = Sizes.from_config(config), complete_tokenizer(tokenizer)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise WeightsError(f"{folder}: config.json or tokenizer.json is not Whisper's ({error!r})") from error
    if sizes.vocab_size in NUM_TEXT_TOKENS:  # others may have entries without a token
        check_tokenizer(str(folder), tokenizer, sizes.vocab_size)
    tensors: dict[str, Tensor] = {}
    for path in list_safetensors(folder):
        tensors |= _safetensors(path)
    tensors = drop_projection(str(folder), tensors)
    check_tensors(str(folder), sizes, tensors)
    generation = read_json(folder / "generation_config.json") or {}
    return Checkpoint(str(folder), sizes, tensors, tokenizer=tokenizer, generation=generation)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    from distil_ray.whisper.formats.torch_files import lazy_tensor

    try:
        file: Any = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be loaded ({error}); it is damaged or not complete") from error

    def load(name: str) -> Array:
        return lazy_tensor(file.get_tensor(name)).load()

    found = {}
    for name in file.keys():  # noqa: SIM118 - no mapping
        part = file.get_slice(name)
        dtype = FLOAT16 if part.get_dtype() == "F16" else FLOAT32
        found[full_name(name)] = Tensor(tuple(part.get_shape()), dtype, partial(load, name))
    return found
