"""The cross-attention queries of the alignment heads, kept while a text is decoded, to align it at its end.

The weights of an alignment head are one product of the queries of a text and the keys of its window, which are both
known when the text ends. Without the queries the text has to run through the decoder a second time, which took a tenth
of the time of short clips.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

# A layer, the numbers of heads, and their queries, float32, shape (heads, queries, head), to the products with their
# keys, float32, shape (heads, queries, encoder positions).
Products = Callable[[int, Tensor, Tensor], Tensor]


class QueryRecord:
    """Scaled queries by layer, slot and decoder position. On a CPU only: rows of a GPU would need fixed addresses."""

    def __init__(
        self, heads: Mapping[int, Tensor], slots: int, positions: int, head_size: int, dtype: torch.dtype
    ) -> None:
        """Reserves memory, which is used as the texts grow.

        Args:
            heads: Numbers of the alignment heads, int64, of each layer that has any.
            slots: Rows.
            positions: Decoder positions of a row.
            head_size: Numbers of a query.
            dtype: Of the queries.
        """
        self._heads = heads
        self._queries = {
            layer: torch.empty(slots, positions, len(own), head_size, dtype=dtype) for layer, own in heads.items()
        }

    def add(self, layer: int, query: Tensor, positions: Tensor) -> None:
        """Stores the queries of a step over the first slots.

        Args:
            layer: Number of the layer.
            query: Shape (rows, P, heads, head); scaled.
            positions: Decoder positions, int64, shape (rows, P).
        """
        heads = self._heads.get(layer)
        if heads is not None:
            rows = torch.arange(len(query))[:, None]
            self._queries[layer][rows, positions] = query[:, :, heads]

    def move_rows(self, sources: Sequence[int], targets: Sequence[int], positions: int) -> None:
        """Copies the first `positions` of the slots `sources` to the slots `targets`."""
        for queries in self._queries.values():
            for source, target in zip(sources, targets, strict=True):
                queries[target, :positions] = queries[source, :positions]

    def attention_weights(self, slot: int, first: int, num: int, mask: Tensor, products: Products) -> Tensor:
        """Returns the attention of `num` tokens from position `first` on, in the alignment heads.

        Args:
            slot: Of the text.
            first: Decoder position.
            num: Tokens.
            mask: Added to the weights, shape (encoder positions of the slot,).
            products: Returns the products with the keys of the slot.

        Returns:
            float32, shape (heads, num, encoder positions of the slot).
        """
        weights = []
        for layer, heads in self._heads.items():
            queries = self._queries[layer][slot, first : first + num].transpose(0, 1)
            # In float32 also where the cache is not: the shapes differ with every text, and in bfloat16 oneDNN compiles
            # a kernel for each.
            weights.append((products(layer, heads, queries.float()) + mask).softmax(dim=-1))
        return torch.cat(weights)
