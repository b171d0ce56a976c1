"""The trained part of a student: its decoder layers, over the embeddings and positions of the main model.

The weights are in Hugging Face's layers, so that their names are those of a checkpoint. The forward pass is implemented
here, because theirs has no mask over the window, which silence and batches of different lengths need. All positions of
a text are trained at once; drafting token by token is in `recognition/native`.
"""

from copy import deepcopy
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

PREFIX = "model.decoder."  # of the names that a checkpoint has for what is trained


class StudentDecoder(nn.Module):
    """Ids in, hidden states out. ``layers`` and ``layer_norm`` are trained, what else it needs is not."""

    embeddings: Tensor  # (vocabulary, d_model)
    positions: Tensor  # (places of a text, d_model)

    def __init__(self, module: Any, numbers: list[int], dropout: float = 0.0) -> None:
        """Takes the layers of these numbers from a Whisper module, in float32, as copies of its own."""
        super().__init__()
        decoder = module.model.decoder
        self.layers = nn.ModuleList(deepcopy(decoder.layers[number]).float() for number in numbers)
        self.layer_norm = deepcopy(decoder.layer_norm).float()
        self.requires_grad_(True)
        self.register_buffer("embeddings", decoder.embed_tokens.weight.detach().float(), persistent=False)
        self.register_buffer("positions", decoder.embed_positions.weight.detach().float(), persistent=False)
        self._heads: int = module.config.decoder_attention_heads
        self._dropout = dropout

    def forward(self, ids: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Hidden states, shape (rows, P, d_model), of texts `ids`, shape (rows, P).

        `states`: what is heard, shape (rows, T, d_model); `mask`: is added to the attention to it, shape (rows, T).
        """
        hidden = self._dropped(functional.embedding(ids, self.embeddings) + self.positions[: ids.shape[1]])
        across = mask[:, None, None, :].to(states.dtype)
        for layer in self.layers:
            part: Any = layer
            normed = part.self_attn_layer_norm(hidden)
            hidden = hidden + self._dropped(self._attend(part.self_attn, normed, normed, None))
            normed = part.encoder_attn_layer_norm(hidden)
            hidden = hidden + self._dropped(self._attend(part.encoder_attn, normed, states, across))
            wide = functional.gelu(part.fc1(part.final_layer_norm(hidden)))
            hidden = hidden + self._dropped(part.fc2(wide))
        result: Tensor = self.layer_norm(hidden)
        return result

    def logits(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """float32 logits, shape (..., len(ids)), of some ids of the vocabulary, int64."""
        return functional.linear(hidden, self.embeddings[ids]).float()

    def checkpoint(self) -> dict[str, Tensor]:
        """Returns the trained tensors by their names in a checkpoint."""
        return {PREFIX + name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}

    def _attend(self, attention: Any, queries: Tensor, heard: Tensor, mask: Tensor | None) -> Tensor:
        """Attention to what is `heard`; without a mask to what stands before each query."""

        def split(product: nn.Linear, source: Tensor) -> Tensor:
            return product(source).unflatten(-1, (self._heads, -1)).transpose(1, 2)  # type: ignore[no-any-return]

        query, key = split(attention.q_proj, queries), split(attention.k_proj, heard)
        value = split(attention.v_proj, heard)
        mask = None if mask is None else mask.to(query.dtype)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        return attention.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _dropped(self, hidden: Tensor) -> Tensor:
        return functional.dropout(hidden, self._dropout, self.training)
