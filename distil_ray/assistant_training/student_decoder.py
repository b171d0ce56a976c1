"""The trained part of a student: decoder layers that use the embeddings and positions of the main model.

The layers are those of transformers, so the weights have the names of a checkpoint. The forward pass is implemented
here, because that of transformers has no mask for the cross-attention, which silence and batches of different lengths
need. It computes all positions of a text at once; drafting token by token is in `recognition/native`.
"""

from copy import deepcopy
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

PREFIX = "model.decoder."  # of the trained tensors' names in a checkpoint


class StudentDecoder(nn.Module):
    """Decoder from ids to hidden states. ``layers`` and ``layer_norm`` are trained; embeddings are constant."""

    embeddings: Tensor  # (vocabulary, d_model)
    positions: Tensor  # (max. text length, d_model)
    projection: Tensor | None  # (vocabulary, d_model), of logits; None: the embeddings

    def __init__(self, module: Any, numbers: list[int], dropout: float = 0.0) -> None:
        """Copies decoder layers of a Whisper model, in float32.

        Args:
            module: A `WhisperForConditionalGeneration`.
            numbers: Indices of the layers to copy.
            dropout: Dropout probability in training.
        """
        super().__init__()
        decoder = module.model.decoder
        self.layers = nn.ModuleList(deepcopy(decoder.layers[number]).float() for number in numbers)
        self.layer_norm = deepcopy(decoder.layer_norm).float()
        self.requires_grad_(True)
        self.register_buffer("embeddings", decoder.embed_tokens.weight.detach().float(), persistent=False)
        self.register_buffer("positions", decoder.embed_positions.weight.detach().float(), persistent=False)
        is_tied = module.proj_out.weight is decoder.embed_tokens.weight
        projection = None if is_tied else module.proj_out.weight.detach().float()
        self.register_buffer("projection", projection, persistent=False)
        self._heads: int = module.config.decoder_attention_heads
        self._dropout = dropout

    def forward(self, ids: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Returns hidden states, shape (rows, P, d_model).

        Args:
            ids: Token ids, int64, shape (rows, P).
            states: Encoder states, shape (rows, T, d_model).
            mask: Added to the cross-attention scores, shape (rows, T).
        """
        hidden = self._apply_dropout(functional.embedding(ids, self.embeddings) + self.positions[: ids.shape[1]])
        cross_mask = mask[:, None, None, :].to(states.dtype)
        for layer in self.layers:
            part: Any = layer
            normed = part.self_attn_layer_norm(hidden)
            hidden = hidden + self._apply_dropout(self._attend(part.self_attn, normed, normed, None))
            normed = part.encoder_attn_layer_norm(hidden)
            hidden = hidden + self._apply_dropout(self._attend(part.encoder_attn, normed, states, cross_mask))
            wide = functional.gelu(part.fc1(part.final_layer_norm(hidden)))
            hidden = hidden + self._apply_dropout(part.fc2(wide))
        result: Tensor = self.layer_norm(hidden)
        return result

    def logits(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Returns the float32 logits of some ids of the vocabulary (int64), shape (..., len(ids))."""
        projection = self.embeddings if self.projection is None else self.projection
        return functional.linear(hidden, projection[ids]).float()

    def checkpoint(self) -> dict[str, Tensor]:
        """Returns the trained tensors by their names in a checkpoint."""
        return {PREFIX + name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}

    def _attend(self, attention: Any, queries: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the attention output over `source`; causal if there is no mask."""

        def split(projection: nn.Linear, inputs: Tensor) -> Tensor:
            return projection(inputs).unflatten(-1, (self._heads, -1)).transpose(1, 2)  # type: ignore[no-any-return]

        query, key = split(attention.q_proj, queries), split(attention.k_proj, source)
        value = split(attention.v_proj, source)
        mask = None if mask is None else mask.to(query.dtype)
        output = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        return attention.out_proj(output.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _apply_dropout(self, hidden: Tensor) -> Tensor:
        return functional.dropout(hidden, self._dropout, self.training)
