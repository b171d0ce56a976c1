"""Cross-attention over the hidden states of the encoder, without keys and values.

A key is the product of a head's weights with a hidden state, so the product of a query with a key is that of the state
with the query times these weights: q · (K h) = (Kᵀ q) · h. Likewise a sum of values is the product of a head's weights
with a sum of states: Σ a (V h + b) = V Σ a h + b, as the shares a add up to one. The latent attention of DeepSeek-V2
(arXiv:2405.04434, section 2.1) is computed like this. A window then has one vector of d_model numbers for each
position, which all layers and heads read, instead of a key and a value in each layer: 3 MB instead of 37 MB for a full
window of whisper-base in float32. And nothing is projected when a window comes, an eighth of the encoder's operations
for whisper-base.

Queries and sums have d_model numbers for each head, which takes d_model / head size times the multiplications. For one
query per row that takes about as long as reading keys and values from memory. For several (beams, drafts) it takes
longer: there the decoder reads keys and values.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional

from distil_ray.recognition.native.linear import Linear
from distil_ray.recognition.native.row_padding import RowPadding


def can_read_states(tensor: Tensor) -> bool:
    """Returns whether attention reads states with this device and number type.

    On a GPU it reads keys and values, and in bfloat16: with AMX, full windows took 7 % longer with states.
    """
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


class StateProjection:
    """The weights of keys and values of one layer, applied to queries and to sums of states, in float32.

    The result of a row is the same, bit for bit, whatever rows are beside it.
    """

    def __init__(self, keys_and_values: Linear, heads: int) -> None:
        """Takes the projection of keys and values, weight (2 d_model, d_model); keys have no bias."""
        weight = keys_and_values.weight
        width = weight.shape[1]
        self._keys = weight[:width].view(heads, -1, width)
        self._values = weight[width:].view(heads, -1, width)
        self._bias = None if keys_and_values.bias is None else keys_and_values.bias[width:]

    def project_queries(self, query: Tensor) -> Tensor:
        """Returns queries for states, shape (rows, P x heads, d_model), of scaled ones, (rows, P, heads, head)."""
        rows, length, heads, _ = query.shape
        padding, _ = _row_paddings(*self._keys.shape)
        projected = _multiply_queries(padding.pad(query.flatten(0, 1)), self._keys)[: rows * length]
        # The kernel of attention may add in another order where queries lie otherwise in memory.
        return projected.contiguous().view(rows, length * heads, -1)

    def project_sums(self, sums: Tensor) -> Tensor:
        """Returns the mixed values, shape (rows, P, d_model), of sums of states, (rows, P x heads, d_model)."""
        rows, _, width = sums.shape
        _, padding = _row_paddings(*self._values.shape)
        by_row = sums.view(-1, len(self._values), width)
        mixed = _multiply_sums(padding.pad(by_row), self._values)[: len(by_row)].reshape(rows, -1, width)
        return mixed if self._bias is None else mixed + self._bias

    def keys(self, states: Tensor, heads: Tensor) -> Tensor:
        """Returns the transposed keys of some heads, shape (rows, heads, head, T), of states, (rows, T, d_model)."""
        return torch.matmul(self._keys[heads], states.to(self._keys.dtype).transpose(1, 2).unsqueeze(1))

    def products(self, query: Tensor, heads: Tensor, states: Tensor) -> Tensor:
        """Returns the products of queries with keys, float32, shape (heads, queries, T).

        Args:
            query: Scaled, float32, shape (heads, queries, head).
            heads: Their numbers.
            states: Of one window, shape (T, d_model).
        """
        return torch.matmul(torch.bmm(query, self._keys[heads]), states.to(query.dtype).T)

    def keys_and_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Returns transposed keys, shape (heads, head, T), and values, (heads, T, head), of states, (T, d_model)."""
        states = states.to(self._keys.dtype)
        keys = torch.matmul(self._keys, states.T)
        values = torch.matmul(states, self._values.transpose(1, 2))
        return keys, values if self._bias is None else values + self._bias.view(len(values), 1, -1)


def _multiply_queries(query: Tensor, keys: Tensor) -> Tensor:
    """Returns the products of queries, shape (num, heads, head), with weights, (heads, head, width): (num, heads,
    width).
    """
    return torch.bmm(query.transpose(0, 1), keys).transpose(0, 1)


def _multiply_sums(sums: Tensor, values: Tensor) -> Tensor:
    """Returns the products of sums, shape (num, heads, width), with weights, (heads, head, width): (num, heads, head).

    The weights are on the left: on Intel processors, the order of additions then depends on the number of rows only for
    a single one.
    """
    return torch.bmm(values, sums.permute(1, 2, 0)).permute(2, 0, 1)


@functools.cache
def _row_paddings(heads: int, head_size: int, width: int) -> tuple[RowPadding, RowPadding]:
    """Returns the paddings of queries and of sums for all layers of these sizes."""
    weights = torch.randn(heads, head_size, width, generator=torch.Generator().manual_seed(0))
    return (
        RowPadding(functools.partial(_multiply_queries, keys=weights), (heads, head_size)),
        RowPadding(functools.partial(_multiply_sums, values=weights), (heads, width)),
    )


def _attend_by_row(query: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
    """Returns what `attend_to_states` does, by plain products for a row at a time.

    In bfloat16 on an AMD EPYC (Zen 4), 48 clips took 6.9 s of CPU time with int8, and 8.9 with products of all rows of
    one length at once, as oneDNN compiles a kernel for each number of rows; with float32 states and SDPA 7.5.
    """
    sums = torch.empty_like(query)
    for row, (own, positions) in enumerate(zip(query, states, strict=True)):
        weights = torch.mm(own, positions.T)
        if mask is not None:
            weights += mask[row if len(mask) > 1 else 0, 0]
        torch.mm(torch.softmax(weights, dim=-1), positions, out=sums[row])
    return sums


def attend_to_states(query: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the sums of states, shape (rows, queries, d_model), weighted by attention.

    Args:
        query: Of `StateProjection.project_queries`, shape (rows, queries, d_model).
        states: Shape (rows, T, d_model), in float32 or bfloat16, in which it is computed.
        mask: Added to the weights, shape (rows or 1, 1, 1, T).
    """
    if states.dtype == torch.bfloat16:
        return _attend_by_row(query.to(states.dtype), states, mask).to(query.dtype)
    if len(query) == 1 and torch.get_num_threads() > 1:
        # The kernel gives a row to a thread. A single row would be computed by all in another order of sums.
        query, states = query.expand(2, -1, -1), states.expand(2, -1, -1)
        return attend_to_states(query, states, mask)[:1]
    keys = states.unsqueeze(1)
    return functional.scaled_dot_product_attention(query.unsqueeze(1), keys, keys, attn_mask=mask, scale=1.0).squeeze(1)
