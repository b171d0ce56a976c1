"""Reader of CTranslate2's Whisper weights (model.bin); renames the tensors as in Hugging Face's model.

The file (version 6, little endian) holds a version, the name "WhisperSpec" and its revision, then the variables, each
with name, shape, number type and data in row-major order, then aliases of variables. Only unquantized weights are
accepted. OpenAI's checkpoints are float16, so that a float16 file is exact. Requires numpy only, neither torch nor
ctranslate2.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from distil_ray.whisper.weights_cache import WeightsError

Tensors = dict[str, NDArray[np.floating]]

FILE_VERSION = 6
NUMBER_TYPES = {0: "float32", 1: "int8", 2: "int16", 3: "int32", 4: "float16"}  # by the file's codes
# Kinds of parameter, as CTranslate2 and as Hugging Face name them.
LINEAR = (("weight", "weight"), ("bias", "bias"))
NORM = (("gamma", "weight"), ("beta", "bias"))


@dataclass(slots=True)
class _Reader:
    """The bytes of a file and the current position in them."""

    data: bytes
    position: int = 0

    def number(self, code: str) -> int:
        """Reads an integer; `code` is its `struct` format."""
        (value,) = struct.unpack_from("<" + code, self.data, self.position)
        self.position += struct.calcsize(code)
        return int(value)

    def text(self) -> str:
        """Reads a u16 length, which includes the closing NUL, then the bytes."""
        length = self.number("H")
        self.position += length
        return self.data[self.position - length : self.position - 1].decode()

    def variable(self) -> tuple[str, NDArray[np.generic]]:
        name = self.text()
        shape = [self.number("I") for _ in range(self.number("B"))]
        code = self.number("B")
        num_bytes = self.number("I")
        if code not in NUMBER_TYPES:
            raise WeightsError(f"model.bin: variable {name} has the unknown number type {code}")
        dtype = np.dtype(NUMBER_TYPES[code])
        values = np.frombuffer(self.data, dtype, num_bytes // dtype.itemsize, self.position)
        self.position += num_bytes
        return name, values.reshape(shape)


def read_variables(data: bytes) -> dict[str, NDArray[np.generic]]:
    """Returns the variables of a model.bin by name, as views of `data`.

    Raises:
        WeightsError: It is no Whisper file of the supported version, or it is not complete.
    """
    reader = _Reader(data)
    version, spec, _ = reader.number("I"), reader.text(), reader.number("I")
    if spec != "WhisperSpec" or version != FILE_VERSION:
        raise WeightsError(f"model.bin: expected WhisperSpec, version {FILE_VERSION}; found {spec}, version {version}")
    variables = dict(reader.variable() for _ in range(reader.number("I")))
    for _ in range(reader.number("I")):
        reader.text(), reader.text()  # the only alias is the output projection, which Hugging Face ties by itself
    if reader.position != len(data):
        raise WeightsError(
            f"model.bin: {len(data) - reader.position} bytes are left over; its parts may be joined in the wrong order"
        )
    return variables


def attention_heads(variables: Mapping[str, NDArray[np.generic]]) -> dict[str, int]:
    """Returns the number of attention heads of "encoder" and "decoder"."""
    return {side: int(variables[f"{side}/num_heads"]) for side in ("encoder", "decoder")}


def to_hugging_face(variables: Mapping[str, NDArray[np.generic]]) -> Tensors:
    """Returns the state dict of `WhisperForConditionalGeneration` without the tied output projection.

    Raises:
        WeightsError: A variable is missing, unknown or quantized.
    """
    tensors = _Tensors(variables)
    tensors.take("decoder/embeddings/weight", "model.decoder.embed_tokens.weight")
    tensors.group("encoder/conv1", "model.encoder.conv1", LINEAR)
    tensors.group("encoder/conv2", "model.encoder.conv2", LINEAR)
    for side in ("encoder", "decoder"):
        tensors.take(f"{side}/position_encodings/encodings", f"model.{side}.embed_positions.weight")
        tensors.group(f"{side}/layer_norm", f"model.{side}.layer_norm", NORM)
        for layer in range(_num_layers(variables, side)):
            _convert_layer(tensors, f"{side}/layer_{layer}", f"model.{side}.layers.{layer}", side == "decoder")
    left = [name for name, array in variables.items() if array.ndim and name not in tensors.used]
    if left:  # variables without a shape are settings, not weights
        raise WeightsError(f"model.bin: {len(left)} variables are unknown in Hugging Face's model, such as {left[0]}")
    return tensors.found


def _convert_layer(tensors: "_Tensors", source: str, target: str, has_cross_attention: bool) -> None:
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

    def __init__(self, variables: Mapping[str, NDArray[np.generic]]) -> None:
        self.found: Tensors = {}
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
        weights = np.split(self._read(f"{source}/weight"), len(parts))
        biases = np.split(self._read(f"{source}/bias"), len(parts))
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            self.found[f"{target}.{part}_proj.weight"] = weight
            if part != "k":
                self.found[f"{target}.{part}_proj.bias"] = bias
            elif bias.any():
                raise WeightsError(f"model.bin: {source} gives the keys a bias, which Whisper does not have")

    def _read(self, name: str) -> NDArray[np.floating]:
        array = self._variables[name]
        if not np.issubdtype(array.dtype, np.floating):
            raise WeightsError(f"model.bin: {name} is {array.dtype}; only unquantized weights can be converted")
        self.used.add(name)
        return cast(NDArray[np.floating], array)


def _num_layers(variables: Mapping[str, NDArray[np.generic]], side: str) -> int:
    prefix = f"{side}/layer_"
    numbers = (name.removeprefix(prefix).split("/")[0] for name in variables if name.startswith(prefix))
    return 1 + max(int(number) for number in numbers if number.isdigit())
