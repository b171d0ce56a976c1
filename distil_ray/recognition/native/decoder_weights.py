"""The weights of the decoder, arranged for the rows of a step."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from distil_ray.recognition.native.float8 import Float8Layers, quantize
from distil_ray.recognition.native.half_linear import HalfLinear
from distil_ray.recognition.native.linear import (
    Int8Linear,
    Linear,
    PackedLinear,
    Projection,
    fuse_linears,
    prepare_for_steps,
)
from distil_ray.recognition.native.state_attention import StateProjection
from distil_ray.whisper.formats.tensors import EMBEDDING
from distil_ray.whisper.processor import Int8Products
from distil_ray.whisper.safetensors_files import StoredRows
from distil_ray.whisper.stored_model import StoredModel


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """The weights of one decoder layer."""

    self_norm: nn.LayerNorm
    self_qkv: Projection  # (3 d, d): query, key, value
    self_out: Projection
    cross_norm: nn.LayerNorm
    cross_query: Projection
    cross_kv: Projection | None  # (2 d, d): key, value, of the encoder's hidden states; None: of `cross_states`
    cross_states: StateProjection | None
    cross_out: Projection
    mlp_norm: nn.LayerNorm
    fc1: Projection
    fc2: Projection


def prepare_layer(
    layer: Any, int8: Int8Products | None, float8: Float8Layers | None, state_heads: int | None, has_many_rows: bool
) -> DecoderLayer:
    """Arranges the weights of a Hugging Face decoder layer.

    Cross-attention reads hidden states with `state_heads` heads; if None, keys and values.
    """

    def large(*parts: tuple[nn.Linear, float]) -> Projection:
        return _projection(fuse_linears(*parts), int8, has_many_rows)

    def square(linear: nn.Linear, scale: float = 1.0) -> Projection:
        return prepare_for_steps(fuse_linears((linear, scale)), has_many_rows)

    self_attention, cross_attention = layer.self_attn, layer.encoder_attn
    keys_and_values = fuse_linears(
        (cross_attention.k_proj, 1.0), (cross_attention.v_proj, 1.0)
    )  # of whole windows, so not arranged for a few rows
    return DecoderLayer(
        self_norm=layer.self_attn_layer_norm,
        self_qkv=large(
            (self_attention.q_proj, self_attention.scaling), (self_attention.k_proj, 1.0), (self_attention.v_proj, 1.0)
        ),
        self_out=square(self_attention.out_proj),
        cross_norm=layer.encoder_attn_layer_norm,
        cross_query=square(cross_attention.q_proj, cross_attention.scaling),
        cross_kv=quantize(keys_and_values, int8, float8) if state_heads is None else None,
        cross_states=None if state_heads is None else StateProjection(keys_and_values, state_heads),
        cross_out=square(cross_attention.out_proj),
        mlp_norm=layer.final_layer_norm,
        fc1=large((layer.fc1, 1.0)),
        fc2=large((layer.fc2, 1.0)),
    )


def prepare_vocabulary(
    module: Any,
    int8: Int8Products | None,
    vocabulary: Tensor | None,
    float8: Float8Layers | None,
    has_many_rows: bool,
) -> tuple[Tensor | StoredRows, Projection]:
    """Returns the embeddings of the tokens, by id, and the projection to the logits of `vocabulary`.

    Whisper has one matrix for both. Where the projection is a copy of it, the embeddings are left in the file.
    """
    weight = module.proj_out.weight
    linear = Linear(weight if vocabulary is None else weight[vocabulary], None)
    projection = _projection(linear, int8, has_many_rows) if float8 is None else float8.add(linear)
    if not isinstance(module, StoredModel):
        return module.model.decoder.embed_tokens.weight, projection
    is_copy = vocabulary is not None or isinstance(projection, PackedLinear | HalfLinear | Int8Linear)
    if module.device.type == "cpu" and (is_copy or not module.is_tied):
        return module.embedding_rows(), projection
    return weight if module.is_tied else module.read(EMBEDDING), projection


def _projection(linear: Linear, int8: Int8Products | None, has_many_rows: bool) -> Projection:
    """Returns `linear` in 8 bits, or arranged for the rows of a step."""
    return prepare_for_steps(linear, has_many_rows) if int8 is None else Int8Linear(linear, int8)
