"""A checkpoint whose tensors are read from its files when they are asked for, and kept by nobody else.

The native recognizer arranges weights for its computation, layer by layer. With this class the memory of one layer is
enough for that; a model that is loaded as a whole first would need its own size beside the arranged one. Attributes
have the names of Hugging Face's `WhisperForConditionalGeneration`, so that the encoder and the decoder take either. It
needs no transformers, whose modules take 110 MB.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from distil_ray.whisper.formats.tensors import EMBEDDING, TIED, Sizes, expected_shapes
from distil_ray.whisper.safetensors_files import StoredRows, StoredTensors
from distil_ray.whisper.weights_cache import WeightsError

MEDIAN_FILTER_WIDTH = 7  # of word timestamps, where config.json does not state it


@dataclass(frozen=True, slots=True)
class WeightAndBias:
    """Weight and bias of a linear layer or of a convolution."""

    weight: Tensor
    bias: Tensor | None

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """The projections of an attention; `scaling` is the factor of its queries."""

    q_proj: WeightAndBias
    k_proj: WeightAndBias
    v_proj: WeightAndBias
    out_proj: WeightAndBias
    scaling: float


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The weights of a layer; an encoder layer has no `encoder_attn`."""

    self_attn: AttentionWeights
    self_attn_layer_norm: nn.LayerNorm
    encoder_attn: AttentionWeights | None
    encoder_attn_layer_norm: nn.LayerNorm | None
    fc1: WeightAndBias
    fc2: WeightAndBias
    final_layer_norm: nn.LayerNorm


class StoredModel:
    """A checkpoint in a local folder.

    Attributes:
        config: Sizes by the names of config.json.
        generation_config: Content of generation_config.json.
        dtype: dtype of all tensors.
        device: Device of all tensors.
        is_tied: The output projection is the embedding of the tokens.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        """Reads the small files and the headers.

        Raises:
            WeightsError: A file is missing or damaged.
        """
        config = _read_json(folder / "config.json")
        try:
            sizes = Sizes.from_config(config)
        except KeyError as error:
            raise WeightsError(f"{folder}: config.json is not Whisper's; it lacks {error}") from error
        median = config.get("median_filter_width", MEDIAN_FILTER_WIDTH)
        self.config = SimpleNamespace(**asdict(sizes), median_filter_width=median, _attn_implementation="sdpa")
        generation = folder / "generation_config.json"
        self.generation_config = SimpleNamespace(**(_read_json(generation) if generation.exists() else {}))
        self.dtype, self.device = dtype, device
        self._tensors = StoredTensors(folder)
        self._shapes = expected_shapes(sizes)
        self._shapes[TIED] = self._shapes[EMBEDDING]
        self.is_tied = TIED not in self._tensors or self._is_embedding_again(config.get("tie_word_embeddings", True))

    @property
    def model(self) -> SimpleNamespace:
        """The `encoder` and the `decoder`."""
        return SimpleNamespace(encoder=StoredStack(self, "encoder"), decoder=StoredStack(self, "decoder"))

    @property
    def proj_out(self) -> WeightAndBias:
        """The output projection."""
        return WeightAndBias(self.read(EMBEDDING if self.is_tied else TIED), None)

    def read(self, name: str) -> Tensor:
        """Returns a tensor. Raises `WeightsError` if it is missing or has another shape than the sizes require."""
        return self._tensors.read(self._stored_name(name), self.dtype, self._shapes[name]).to(self.device)

    def _is_embedding_again(self, should_be: bool) -> bool:
        """Returns whether the stored output projection is to be the embedding. If its numbers differ, transformers uses
        them, whatever the config says."""
        return should_be and torch.equal(self.read(TIED), self.read(EMBEDDING))

    def embedding_rows(self) -> StoredRows:
        """Returns the embeddings of tokens, on the CPU, of which only those in use take memory."""
        rows, columns = self._shapes[EMBEDDING]
        return self._tensors.rows(self._stored_name(EMBEDDING), self.dtype, (rows, columns))

    def pair(self, name: str) -> WeightAndBias:
        """Returns a weight, and its bias if the layer has one."""
        return WeightAndBias(
            self.read(f"{name}.weight"), self.read(f"{name}.bias") if f"{name}.bias" in self._shapes else None
        )

    def norm(self, name: str) -> nn.LayerNorm:
        """Returns a layer norm."""
        weights = self.pair(name)
        norm = nn.LayerNorm(weights.out_features, elementwise_affine=False)
        assert weights.bias is not None, "every norm has one"
        norm.weight, norm.bias = (nn.Parameter(each, requires_grad=False) for each in (weights.weight, weights.bias))
        return norm

    def names(self, prefix: str) -> list[str]:
        """Returns the names of the tensors that begin with `prefix`."""
        return [name for name in self._shapes if name.startswith(prefix)]

    def _stored_name(self, name: str) -> str:
        """Returns the name in the files: those of a `WhisperModel` lack the first part."""
        short = name.removeprefix("model.")
        return short if short in self._tensors else name


class StoredStack:
    """The encoder or the decoder of a checkpoint."""

    def __init__(self, stored: StoredModel, side: str) -> None:
        self._stored = stored
        self._prefix = f"model.{side}"
        self._is_decoder = side == "decoder"
        config = stored.config
        self._num_layers: int = config.decoder_layers if self._is_decoder else config.encoder_layers
        heads = config.decoder_attention_heads if self._is_decoder else config.encoder_attention_heads
        self._scaling = (config.d_model // heads) ** -0.5

    @property
    def conv1(self) -> WeightAndBias:
        return self._stored.pair(f"{self._prefix}.conv1")

    @property
    def conv2(self) -> WeightAndBias:
        return self._stored.pair(f"{self._prefix}.conv2")

    @property
    def embed_positions(self) -> WeightAndBias:
        return self._stored.pair(f"{self._prefix}.embed_positions")

    @property
    def layer_norm(self) -> nn.LayerNorm:
        return self._stored.norm(f"{self._prefix}.layer_norm")

    @property
    def layers(self) -> Iterator[LayerWeights]:
        """Yields the layers, each read when it is asked for."""
        for number in range(self._num_layers):
            yield self._layer(f"{self._prefix}.layers.{number}")

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yields the name and the values of every tensor, each read when it is asked for."""
        for name in self._stored.names(f"{self._prefix}."):
            yield name, self._stored.read(name)

    def _layer(self, name: str) -> LayerWeights:
        pair, norm = self._stored.pair, self._stored.norm
        return LayerWeights(
            self_attn=self._attention(f"{name}.self_attn"),
            self_attn_layer_norm=norm(f"{name}.self_attn_layer_norm"),
            encoder_attn=self._attention(f"{name}.encoder_attn") if self._is_decoder else None,
            encoder_attn_layer_norm=norm(f"{name}.encoder_attn_layer_norm") if self._is_decoder else None,
            fc1=pair(f"{name}.fc1"),
            fc2=pair(f"{name}.fc2"),
            final_layer_norm=norm(f"{name}.final_layer_norm"),
        )

    def _attention(self, name: str) -> AttentionWeights:
        pair = self._stored.pair
        return AttentionWeights(
            q_proj=pair(f"{name}.q_proj"),
            k_proj=pair(f"{name}.k_proj"),
            v_proj=pair(f"{name}.v_proj"),
            out_proj=pair(f"{name}.out_proj"),
            scaling=self._scaling,
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: must be a JSON object")
    return content
