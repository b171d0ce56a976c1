"""The common form of a checkpoint between formats: tensors by Hugging Face's names, sizes, and what else a file holds.

Readers return a `Checkpoint` whose tensors are loaded one by one, so that a conversion needs the memory of one tensor
and not of all. The output projection is left out, because Whisper ties it to the embedding. `check_tensors` compares
names and shapes with those that the sizes require; a file whose header and tensors disagree is an error.
"""

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distil_ray.whisper.weights_cache import WeightsError

Json = dict[str, Any]
Array = NDArray[np.floating]

FLOAT32, FLOAT16 = "float32", "float16"
EMBEDDING = "model.decoder.embed_tokens.weight"
TIED = "proj_out.weight"  # the output projection: the embedding once more
MAX_SIZE = 1 << 20  # of any single size; a damaged header has others
KERNEL = 3  # width of both convolutions


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that is read when it is needed.

    Attributes:
        shape: Shape in Hugging Face's order.
        dtype: "float32" or "float16", the dtype that `load` returns.
        load: Returns the numbers.
    """

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Array]

    @classmethod
    def of(cls, array: Array) -> "Tensor":
        """Returns a tensor of an array that is in memory, or mapped into it."""
        return cls(array.shape, array.dtype.name, lambda: array)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a checkpoint, named as in config.json."""

    vocab_size: int
    num_mel_bins: int
    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_attention_heads: int
    decoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    max_source_positions: int
    max_target_positions: int

    @classmethod
    def from_dimensions(cls, source: str, dimensions: Mapping[str, Any]) -> "Sizes":
        """Returns the sizes of OpenAI's model dimensions, which whisper.cpp's header holds too.

        Args:
            source: The file, for messages.
            dimensions: n_mels, n_vocab, n_audio_… and n_text_….

        Raises:
            WeightsError: One of them is missing, or no model can have it.
        """
        for name in DIMENSIONS:
            value = dimensions.get(name)
            if not _is_size(value):
                raise WeightsError(
                    f"{source}: the dimension {name} is {value!r}; the file is damaged or no Whisper model"
                )
        width = dimensions["n_audio_state"]
        if dimensions["n_text_state"] != width:
            raise WeightsError(f"{source}: encoder and decoder have widths {width} and {dimensions['n_text_state']}")
        found = {ours: dimensions[theirs] for theirs, ours in DIMENSIONS.items() if theirs != "n_text_state"}
        return cls(**found, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Sizes":
        """Returns the sizes of a config.json.

        Raises:
            KeyError: One of them is missing.
            WeightsError: No model can have one of them.
        """
        defaults = {"max_source_positions": 1500, "max_target_positions": 448}
        found = {name: config[name] if name in config else defaults[name] for name in cls.__slots__}
        for name, value in found.items():
            if not _is_size(value):
                raise WeightsError(f"config.json: {name} is {value!r}; must be a number from 1 to {MAX_SIZE}")
        return cls(**found)

    @property
    def dimensions(self) -> dict[str, int]:
        """OpenAI's model dimensions, in the order of whisper.cpp's header.

        Raises:
            WeightsError: The dimensions do not state a size, and it is not the one that their programs derive.
        """
        for name in ("encoder_ffn_dim", "decoder_ffn_dim"):
            if getattr(self, name) != 4 * self.d_model:
                raise WeightsError(
                    f"{name}={getattr(self, name)}: in the formats of OpenAI and whisper.cpp it is always four times"
                    f" the width ({4 * self.d_model})"
                )
        return {theirs: getattr(self, ours) for theirs, ours in DIMENSIONS.items()}


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_SIZE


# OpenAI's name -> name in config.json, in the order of whisper.cpp's header
DIMENSIONS = {
    "n_vocab": "vocab_size",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
    "n_mels": "num_mel_bins",
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as a reader found it, or as a writer needs it.

    Attributes:
        source: The file or folder, for messages.
        sizes: Its sizes.
        tensors: The state dict of `WhisperForConditionalGeneration` without the tied output projection.
        vocabulary: The text tokens as bytes, in the order of their ids; None where the file does not hold them.
        tokenizer: Content of tokenizer.json; None where there is none.
        generation: The keys of generation_config.json that the source states.
    """

    source: str
    sizes: Sizes
    tensors: Mapping[str, Tensor]
    vocabulary: tuple[bytes, ...] | None = None
    tokenizer: Json | None = None
    generation: Json = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        """ "float16" if all tensors are, otherwise "float32"."""
        return FLOAT16 if all(tensor.dtype == FLOAT16 for tensor in self.tensors.values()) else FLOAT32


def expected_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor by its name in Hugging Face's model."""
    width = sizes.d_model
    shapes: dict[str, tuple[int, ...]] = {
        "model.encoder.conv1.weight": (width, sizes.num_mel_bins, KERNEL),
        "model.encoder.conv1.bias": (width,),
        "model.encoder.conv2.weight": (width, width, KERNEL),
        "model.encoder.conv2.bias": (width,),
        "model.encoder.embed_positions.weight": (sizes.max_source_positions, width),
        "model.decoder.embed_positions.weight": (sizes.max_target_positions, width),
        EMBEDDING: (sizes.vocab_size, width),
    }
    for side, layers, inner in (
        ("encoder", sizes.encoder_layers, sizes.encoder_ffn_dim),
        ("decoder", sizes.decoder_layers, sizes.decoder_ffn_dim),
    ):
        shapes |= _pair(f"model.{side}.layer_norm", (width,))
        for layer in range(layers):
            shapes |= _layer_shapes(f"model.{side}.layers.{layer}", width, inner, side == "decoder")
    return shapes


def _layer_shapes(name: str, width: int, inner: int, has_cross_attention: bool) -> dict[str, tuple[int, ...]]:
    shapes = _pair(f"{name}.fc1", (inner, width)) | _pair(f"{name}.fc2", (width, inner))
    shapes |= _pair(f"{name}.final_layer_norm", (width,))
    for attention in ("self_attn", "encoder_attn") if has_cross_attention else ("self_attn",):
        shapes |= _pair(f"{name}.{attention}_layer_norm", (width,))
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _pair(f"{name}.{attention}.{part}", (width, width))
        del shapes[f"{name}.{attention}.k_proj.bias"]  # Whisper's keys have none
    return shapes


def _pair(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def full_name(name: str) -> str:
    """Returns the name in a `WhisperForConditionalGeneration`: those of a saved `WhisperModel` lack the first part."""
    return f"model.{name}" if name.startswith(("encoder.", "decoder.")) else name


def drop_projection(source: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors without the output projection, which is the embedding of tokens once more.

    The config.json of such tensors is that of `tied_config`.

    Args:
        source: Name of the checkpoint, for messages.
        tensors: Its tensors.

    Raises:
        WeightsError: It is another matrix, which the formats cannot express. Recognition and transformers 5 use such a
            matrix, also where config.json says that it is tied.
    """
    if TIED in tensors and EMBEDDING in tensors:
        projection, embedding = tensors[TIED].load(), tensors[EMBEDDING].load()
        if not np.array_equal(projection, embedding):
            raise WeightsError(
                f"{source}: its output projection ({TIED}) is not the embedding of tokens. Only safetensors can be used"
                " of such a checkpoint: save it with save_pretrained"
            )
    return {name: tensor for name, tensor in tensors.items() if name != TIED}


def tied_config(config: Json) -> Json:
    """Returns the config.json of a checkpoint that is stored without its output projection.

    Where it says that the projection is not tied, transformers would initialize the missing one randomly.
    """
    return config if config.get("tie_word_embeddings", True) else {**config, "tie_word_embeddings": True}


def check_tensors(source: str, sizes: Sizes, tensors: Mapping[str, Tensor]) -> None:
    """Checks that the tensors are those of a Whisper model of these sizes.

    Raises:
        WeightsError: A tensor is missing, unknown, or has another shape, or the heads do not divide the width.
    """
    for heads in (sizes.encoder_attention_heads, sizes.decoder_attention_heads):
        if sizes.d_model % heads:
            raise WeightsError(f"{source}: {heads} attention heads do not divide the width {sizes.d_model}")
    if sizes.encoder_layers + sizes.decoder_layers > len(tensors):  # before a list of as many names is made
        raise WeightsError(f"{source}: {len(tensors)} tensors are too few for the layers of its sizes")
    shapes = expected_shapes(sizes)
    if missing := [name for name in shapes if name not in tensors]:
        raise WeightsError(f"{source}: lacks {len(missing)} tensors, such as {missing[0]}")
    if unknown := [name for name in tensors if name not in shapes]:
        raise WeightsError(f"{source}: has {len(unknown)} tensors that Whisper does not have, such as {unknown[0]}")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise WeightsError(f"{source}: {name} has the shape {tensors[name].shape}; its sizes require {shape}")


def map_file(path: Path) -> mmap.mmap:
    """Returns the bytes of a file, mapped into memory. Raises `WeightsError` for an empty one."""
    with open(path, "rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise WeightsError(f"{path.name}: is empty") from error
