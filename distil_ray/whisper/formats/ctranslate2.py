"""CTranslate2's folders (faster-whisper): model.bin with the weights, config.json with decoding rules, a vocabulary.

model.bin (version 6, little endian) holds a version, the name "WhisperSpec" and its revision, then the variables, each
with name, shape, number type and data in row-major order, then aliases of variables. Attention projections are stacked:
q, k and v by rows; in cross-attention q alone, then k and v, with zeros for the bias that Whisper's keys lack.
Quantized matrices are int8 or int16, with a scale for each row or for all: the number is the integer divided by the
scale.
"""

import json
import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from distil_ray.whisper.formats.model_files import read_json, upper_layer_heads
from distil_ray.whisper.formats.tensors import FLOAT16, FLOAT32, Array, Checkpoint, Sizes, Tensor, map_file
from distil_ray.whisper.formats.vocabulary import EOT, to_bytes, token_texts
from distil_ray.whisper.weights_cache import WeightsError

WEIGHTS, CONFIG = "model.bin", "config.json"
VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
FILE_VERSION, SPEC, SPEC_REVISION = 6, "WhisperSpec", 3
HEAD = struct.pack("<IH", FILE_VERSION, len(SPEC) + 1) + SPEC.encode() + b"\0"  # the file begins with it
GELU = 3  # CTranslate2's number of the activation
BFLOAT16 = "bfloat16"
NUMBER_TYPES = {0: "float32", 1: "int8", 2: "int16", 3: "int32", 4: "float16", 5: BFLOAT16}  # by the file's codes
NUMBER_CODES = {name: code for code, name in NUMBER_TYPES.items()}
DTYPES = {FLOAT32: FLOAT32, FLOAT16: FLOAT16, "int8": FLOAT32, "int8_float16": FLOAT16}  # -> of what is not quantized
STEPS = np.float32(127)
# Kinds of parameter, as CTranslate2 and as Hugging Face name them.
LINEAR = (("weight", "weight"), ("bias", "bias"))
NORM = (("gamma", "weight"), ("beta", "bias"))

Variables = Mapping[str, NDArray[np.generic]]


class _Reader:
    """The bytes of a file and the current position in them."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> int:
        start = self.position
        if start + size > len(self.data):
            raise WeightsError(f"{WEIGHTS}: ends after {len(self.data)} bytes, but states more; it is not complete")
        self.position += size
        return start

    def number(self, code: str) -> int:
        """Reads an integer; `code` is its `struct` format."""
        (value,) = struct.unpack_from("<" + code, self.data, self.take(struct.calcsize(code)))
        return int(value)

    def text(self) -> str:
        """Reads a u16 length, which includes the closing NUL, then the bytes."""
        length = self.number("H")
        start = self.take(length)
        return self.data[start : start + max(0, length - 1)].decode("utf-8", "replace")

    def variable(self) -> tuple[str, NDArray[np.generic]]:
        name = self.text()
        shape = [self.number("I") for _ in range(self.number("B"))]
        code = self.number("B")
        num_bytes = self.number("I")
        if code not in NUMBER_TYPES:
            raise WeightsError(f"{WEIGHTS}: variable {name} has the unknown number type {code}")
        dtype = np.dtype(np.uint16 if NUMBER_TYPES[code] == BFLOAT16 else NUMBER_TYPES[code])
        count = 1
        for size in shape:
            count *= size
        if num_bytes != count * dtype.itemsize:
            raise WeightsError(f"{WEIGHTS}: variable {name} has {num_bytes} bytes and the shape {tuple(shape)}")
        start = self.take(count * dtype.itemsize)
        values: NDArray[np.generic] = np.frombuffer(self.data, dtype, count, start)
        if NUMBER_TYPES[code] == BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)  # exact
        return name, values.reshape(shape)


def read_variables(data: bytes | mmap.mmap) -> dict[str, NDArray[np.generic]]:
    """Returns the variables of a model.bin by name, as views of `data`; aliases are variables, too.

    Raises:
        WeightsError: It is no Whisper file of the supported version, or it is not complete.
    """
    reader = _Reader(data)
    version, spec, _ = reader.number("I"), reader.text(), reader.number("I")
    if spec != SPEC or version != FILE_VERSION:
        raise WeightsError(
            f"{WEIGHTS}: expected {SPEC}, version {FILE_VERSION}; found {spec[:40]!r}, version {version}"
        )
    variables = dict(reader.variable() for _ in range(reader.number("I")))
    for _ in range(reader.number("I")):
        alias, name = reader.text(), reader.text()
        if name not in variables:
            raise WeightsError(f"{WEIGHTS}: {alias} is an alias of {name}, which is missing")
        variables[alias] = variables[name]
    if reader.position != len(data):
        raise WeightsError(
            f"{WEIGHTS}: {len(data) - reader.position} bytes are left over; its parts may be joined in the wrong order"
        )
    return variables


def read(path: Path) -> Checkpoint:
    """Reads a model.bin, and the decoding rules and the vocabulary beside it.

    Raises:
        WeightsError: It is no Whisper model, damaged or not complete.
    """
    checkpoint = from_variables(read_variables(map_file(path)))
    rules = read_json(path.parent / CONFIG) or {}
    keys = {
        "suppress_tokens": "suppress_ids",
        "begin_suppress_tokens": "suppress_ids_begin",
        "alignment_heads": "alignment_heads",
    }
    generation = {ours: rules[theirs] for ours, theirs in keys.items() if rules.get(theirs)}
    if generation.get("alignment_heads") == _upper_heads(checkpoint.sizes):  # none are known: see `write`
        del generation["alignment_heads"]
    return replace(checkpoint, vocabulary=_vocabulary(path.parent), generation=generation)


def _upper_heads(sizes: Sizes) -> list[list[int]]:
    return [list(head) for head in upper_layer_heads(sizes.decoder_layers, sizes.decoder_attention_heads)]


def _vocabulary(folder: Path) -> tuple[bytes, ...] | None:
    """Returns the text tokens of vocabulary.json or vocabulary.txt, which lists all tokens by their ids."""
    for name in VOCABULARIES:
        if not (folder / name).exists():
            continue
        text = (folder / name).read_text(encoding="utf-8")
        try:
            tokens = text.split("\n") if name.endswith(".txt") else json.loads(text)
            return tuple(to_bytes(name, token) for token in tokens[: tokens.index(EOT)])
        except (ValueError, TypeError, AttributeError) as error:
            raise WeightsError(f"{name}: is no vocabulary of Whisper ({error})") from error
    return None


def from_variables(variables: Variables) -> Checkpoint:
    """Returns the weights of a model.bin.

    Raises:
        WeightsError: A variable is missing, unknown, or not of numbers.
    """
    tensors = _Tensors(variables)
    tensors.take("decoder/embeddings/weight", "model.decoder.embed_tokens.weight")
    tensors.group("encoder/conv1", "model.encoder.conv1", LINEAR)
    tensors.group("encoder/conv2", "model.encoder.conv2", LINEAR)
    layers = {}
    for side in ("encoder", "decoder"):
        tensors.take(f"{side}/position_encodings/encodings", f"model.{side}.embed_positions.weight")
        tensors.group(f"{side}/layer_norm", f"model.{side}.layer_norm", NORM)
        layers[side] = _num_layers(variables, side)
        for layer in range(layers[side]):
            _read_layer(tensors, f"{side}/layer_{layer}", f"model.{side}.layers.{layer}", side == "decoder")
    unused = [name for name, array in variables.items() if array.ndim and name not in tensors.used]
    # The output projection is the embedding. Variables without a shape are settings, not weights.
    left = [name for name in unused if not name.startswith("decoder/projection/")]
    if left:
        raise WeightsError(f"{WEIGHTS}: {len(left)} variables are unknown in Hugging Face's model, such as {left[0]}")
    return Checkpoint(WEIGHTS, _sizes(tensors, layers), tensors.found)


def _sizes(tensors: "_Tensors", layers: Mapping[str, int]) -> Sizes:
    def shape(name: str, axis: int) -> int:
        found = tensors.found[name].shape
        if axis >= len(found):
            raise WeightsError(f"{WEIGHTS}: {name} has the shape {found}")
        return found[axis]

    return Sizes(
        vocab_size=shape("model.decoder.embed_tokens.weight", 0),
        num_mel_bins=shape("model.encoder.conv1.weight", 1),
        d_model=shape("model.decoder.embed_tokens.weight", 1),
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=tensors.setting("encoder/num_heads"),
        decoder_attention_heads=tensors.setting("decoder/num_heads"),
        encoder_ffn_dim=shape("model.encoder.layers.0.fc1.weight", 0),
        decoder_ffn_dim=shape("model.decoder.layers.0.fc1.weight", 0),
        max_source_positions=shape("model.encoder.embed_positions.weight", 0),
        max_target_positions=shape("model.decoder.embed_positions.weight", 0),
    )


def _read_layer(tensors: "_Tensors", source: str, target: str, has_cross_attention: bool) -> None:
    """Converts a layer. linear_0 is q, k and v stacked by rows (in cross-attention q; linear_1 is k and v), and the
    last one is the output projection."""
    tensors.group(f"{source}/self_attention/layer_norm", f"{target}.self_attn_layer_norm", NORM)
    tensors.stacked(f"{source}/self_attention/linear_0", f"{target}.self_attn", "qkv")
    tensors.group(f"{source}/self_attention/linear_1", f"{target}.self_attn.out_proj", LINEAR)
    if has_cross_attention:
        tensors.group(f"{source}/attention/layer_norm", f"{target}.encoder_attn_layer_norm", NORM)
        tensors.stacked(f"{source}/attention/linear_0", f"{target}.encoder_attn", "q")
        tensors.stacked(f"{source}/attention/linear_1", f"{target}.encoder_attn", "kv")
        tensors.group(f"{source}/attention/linear_2", f"{target}.encoder_attn.out_proj", LINEAR)
    tensors.group(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm", NORM)
    tensors.group(f"{source}/ffn/linear_0", f"{target}.fc1", LINEAR)
    tensors.group(f"{source}/ffn/linear_1", f"{target}.fc2", LINEAR)


class _Tensors:
    """The tensors that were converted so far, by Hugging Face's names."""

    def __init__(self, variables: Variables) -> None:
        self.found: dict[str, Tensor] = {}
        self.used: set[str] = set()
        self._variables = variables

    def take(self, source: str, target: str) -> None:
        """Converts a variable."""
        self.found[target] = self._read(source)

    def group(self, source: str, target: str, kinds: tuple[tuple[str, str], ...]) -> None:
        """Converts the parameters of a layer; `kinds` are pairs of CTranslate2's and Hugging Face's names."""
        for theirs, ours in kinds:
            self.take(f"{source}/{theirs}", f"{target}.{ours}")

    def stacked(self, source: str, target: str, parts: str) -> None:
        """Splits stacked projections. Whisper's keys have no bias; CTranslate2 writes zeros for it."""
        for kind in ("weight", "bias"):
            whole = self._read(f"{source}/{kind}")
            if not whole.shape or whole.shape[0] % len(parts):
                raise WeightsError(f"{WEIGHTS}: {source}/{kind} has the shape {whole.shape}")
            rows = whole.shape[0] // len(parts)
            for index, part in enumerate(parts):
                load = partial(_rows, whole.load, index * rows, (index + 1) * rows)
                if kind == "weight" or part != "k":
                    shape = (rows, *whole.shape[1:])
                    self.found[f"{target}.{part}_proj.{kind}"] = Tensor(shape, whole.dtype, load)
                elif load().any():
                    raise WeightsError(f"{WEIGHTS}: {source} gives the keys a bias, which Whisper does not have")

    def setting(self, name: str) -> int:
        """Returns a setting, a variable without a shape."""
        return int(cast(Any, self._variable(name)).item())

    def _variable(self, name: str) -> NDArray[np.generic]:
        if name not in self._variables:
            raise WeightsError(f"{WEIGHTS}: lacks the variable {name}")
        self.used.add(name)
        return self._variables[name]

    def _read(self, name: str) -> Tensor:
        array = self._variable(name)
        if np.issubdtype(array.dtype, np.floating):
            return Tensor.of(cast(Array, array))
        if f"{name}_scale" not in self._variables:
            raise WeightsError(f"{WEIGHTS}: {name} is {array.dtype} and has no scale")
        scale = self._variable(f"{name}_scale")
        if scale.size not in (1, array.shape[0] if array.ndim else 1):
            raise WeightsError(f"{WEIGHTS}: {name} has {array.shape[:1]} rows and {scale.size} scales")
        return Tensor(array.shape, FLOAT32, partial(_dequantize, array, scale))


def _rows(load: Callable[[], Array], begin: int, end: int) -> Array:
    return load()[begin:end]


def _dequantize(integers: NDArray[Any], scale: NDArray[Any]) -> Array:
    scale = scale.astype(np.float32).reshape(-1, *([1] * (integers.ndim - 1)))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # scales of damaged files
        numbers: Array = integers.astype(np.float32) / scale
    return numbers


def _num_layers(variables: Variables, side: str) -> int:
    prefix = f"{side}/layer_"
    numbers = {name.removeprefix(prefix).split("/")[0] for name in variables if name.startswith(prefix)}
    layers = [int(number) for number in numbers if number.isdecimal()]
    if not layers or len(layers) != 1 + max(layers):
        raise WeightsError(f"{WEIGHTS}: has no consecutive layers of the {side}")
    return len(layers)


def write(checkpoint: Checkpoint, folder: Path, dtype: str = FLOAT32) -> None:
    """Writes a checkpoint for CTranslate2.

    Without alignment heads, or with some that the decoder does not have, all heads of its upper layers are named, as
    CTranslate2's own converter does: its word timestamps fail on an empty list.

    Args:
        checkpoint: The checkpoint, with its tokenizer.
        folder: An existing folder.
        dtype: A key of `DTYPES`.
    """
    tokenizer = checkpoint.tokenizer
    if tokenizer is None:
        raise WeightsError(f"{checkpoint.source}: has no tokenizer.json")
    with open(folder / WEIGHTS, "wb") as file:
        _write_model(file, variables_of(checkpoint), dtype)
    generation, sizes = checkpoint.generation, checkpoint.sizes
    heads = generation.get("alignment_heads") or []
    are_inside = all(layer < sizes.decoder_layers and head < sizes.decoder_attention_heads for layer, head in heads)
    rules = {
        "suppress_ids": generation.get("suppress_tokens") or [],
        "suppress_ids_begin": generation.get("begin_suppress_tokens") or [],
        "lang_ids": sorted((generation.get("lang_to_id") or {}).values()),
        "alignment_heads": heads if heads and are_inside else _upper_heads(sizes),
    }
    texts = token_texts(tokenizer, sizes.vocab_size)
    for name, content in ((CONFIG, rules), (VOCABULARIES[0], texts), ("tokenizer.json", tokenizer)):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


Load = Callable[[], NDArray[np.generic]]


def variables_of(checkpoint: Checkpoint) -> dict[str, Load]:
    """Returns the variables of CTranslate2 by name: tensors, and settings stored as scalars."""
    tensors, sizes = checkpoint.tensors, checkpoint.sizes
    settings = {
        "encoder/num_heads": np.array(sizes.encoder_attention_heads, np.int16),
        "decoder/num_heads": np.array(sizes.decoder_attention_heads, np.int16),
        "decoder/activation": np.array(GELU, np.int8),
        "decoder/pre_norm": np.array(1, np.int8),
        "decoder/alibi": np.array(0, np.int8),
        "decoder/scale_embeddings": np.array(0, np.int8),
        "decoder/start_from_zero_embedding": np.array(0, np.int8),
        "decoder/alignment_layer": np.array(-1, np.int16),
        "decoder/alignment_heads": np.array(1, np.int16),
    }
    found: dict[str, Load] = {name: partial(np.array, value) for name, value in settings.items()}
    found["decoder/embeddings/weight"] = tensors["model.decoder.embed_tokens.weight"].load
    for convolution in ("conv1", "conv2"):
        _copy(found, f"encoder/{convolution}", tensors, f"model.encoder.{convolution}", LINEAR)
    for side, layers in (("encoder", sizes.encoder_layers), ("decoder", sizes.decoder_layers)):
        found[f"{side}/position_encodings/encodings"] = tensors[f"model.{side}.embed_positions.weight"].load
        _copy(found, f"{side}/layer_norm", tensors, f"model.{side}.layer_norm", NORM)
        for layer in range(layers):
            _copy_layer(found, f"{side}/layer_{layer}", tensors, f"model.{side}.layers.{layer}", side == "decoder")
    return found


def _copy_layer(
    found: dict[str, Load], target: str, tensors: Mapping[str, Tensor], source: str, has_cross_attention: bool
) -> None:
    _copy(found, f"{target}/self_attention/layer_norm", tensors, f"{source}.self_attn_layer_norm", NORM)
    _stack(found, f"{target}/self_attention/linear_0", tensors, f"{source}.self_attn", "qkv")
    _copy(found, f"{target}/self_attention/linear_1", tensors, f"{source}.self_attn.out_proj", LINEAR)
    if has_cross_attention:
        _copy(found, f"{target}/attention/layer_norm", tensors, f"{source}.encoder_attn_layer_norm", NORM)
        _stack(found, f"{target}/attention/linear_0", tensors, f"{source}.encoder_attn", "q")
        _stack(found, f"{target}/attention/linear_1", tensors, f"{source}.encoder_attn", "kv")
        _copy(found, f"{target}/attention/linear_2", tensors, f"{source}.encoder_attn.out_proj", LINEAR)
    _copy(found, f"{target}/ffn/layer_norm", tensors, f"{source}.final_layer_norm", NORM)
    _copy(found, f"{target}/ffn/linear_0", tensors, f"{source}.fc1", LINEAR)
    _copy(found, f"{target}/ffn/linear_1", tensors, f"{source}.fc2", LINEAR)


def _copy(
    found: dict[str, Load], target: str, tensors: Mapping[str, Tensor], source: str, kinds: tuple[tuple[str, str], ...]
) -> None:
    for theirs, ours in kinds:
        found[f"{target}/{theirs}"] = tensors[f"{source}.{ours}"].load


def _stack(found: dict[str, Load], target: str, tensors: Mapping[str, Tensor], source: str, parts: str) -> None:
    def weight() -> NDArray[np.generic]:
        return np.concatenate([tensors[f"{source}.{part}_proj.weight"].load() for part in parts])

    def bias() -> NDArray[np.generic]:
        zeros = np.zeros_like(tensors[f"{source}.{parts[-1]}_proj.bias"].load())
        return np.concatenate(
            [zeros if part == "k" else tensors[f"{source}.{part}_proj.bias"].load() for part in parts]
        )

    found[f"{target}/weight"], found[f"{target}/bias"] = weight, bias


def _is_quantizable(name: str) -> bool:
    """Returns True for matrices and convolutions, the weights that have a scale in CTranslate2."""
    return name.endswith("/weight")


def _write_model(file: BinaryIO, variables: Mapping[str, Load], dtype: str) -> None:
    quantizes = dtype.startswith("int8")
    scales = [f"{name}_scale" for name in variables if quantizes and _is_quantizable(name)]
    file.write(HEAD + struct.pack("<II", SPEC_REVISION, len(variables) + len(scales)))
    for name, load in sorted(variables.items()):
        array = load()
        if not np.issubdtype(array.dtype, np.floating):
            _write_variable(file, name, array)
        elif quantizes and _is_quantizable(name):
            integers, scale = quantize(cast(Array, array))
            _write_variable(file, name, integers)
            _write_variable(file, f"{name}_scale", scale)
        else:
            _write_variable(file, name, array.astype(DTYPES[dtype]))
    tied = ["weight", "weight_scale"] if quantizes else ["weight"]
    file.write(struct.pack("<I", len(tied)))
    for part in tied:
        file.write(_text(f"decoder/projection/{part}") + _text(f"decoder/embeddings/{part}"))


def quantize(array: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Returns int8 with a scale for each row (of a convolution: for each output channel), as CTranslate2 quantizes."""
    numbers = array.astype(np.float32)
    largest = np.abs(numbers.reshape(len(numbers), -1)).max(axis=1)
    largest[largest == 0] = STEPS
    scale = STEPS / np.maximum(largest, STEPS / np.finfo(np.float32).max)
    return np.rint(numbers * scale.reshape(-1, *([1] * (numbers.ndim - 1)))).astype(np.int8), scale


def _write_variable(file: BinaryIO, name: str, array: NDArray[np.generic]) -> None:
    file.write(_text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape))
    file.write(struct.pack("<BI", NUMBER_CODES[array.dtype.name], array.nbytes))
    file.write(np.ascontiguousarray(array).tobytes())


def _text(text: str) -> bytes:
    """Returns a string in CTranslate2's encoding: its length with a closing NUL, then the bytes."""
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"
