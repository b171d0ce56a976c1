"""Which attention a decoder's step takes for its single query a row, and why.

Plain products are good everywhere, but read every row as far as the longest. On a GPU a Triton kernel reads each row's
own positions alone (triton_attention.py); before it is taken it has to compile here and agree with plain products.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]

TRIED_LENGTHS = (1, 70, 200)  # within one step of the kernel, and over several
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}  # of numbers about 1


def choose_attention(device: torch.device, dtype: torch.dtype, head_size: int) -> tuple[Attention | None, str | None]:
    """The kernel, or None where plain products do; and why, where there was a choice."""
    if device.type != "cuda":
        return None, None
    try:
        from distil_ray.recognition.native.triton_attention import attend

        difference = trial(attend, device, dtype, head_size)
    except Exception as error:  # no Triton, no compiler, a GPU too old: none of it may end a run
        lines = str(error).strip().splitlines()
        return (
            None,
            f"a step's attention: plain products, as Triton's is not to be had ({lines[-1] if lines else error!r})",
        )
    if not difference <= TOLERANCE[dtype]:
        return None, f"a step's attention: plain products, as Triton's differs from them by {difference:.1e}"
    return attend, "a step's attention: one Triton kernel, which reads the positions of each row alone"


def trial(attention: Attention, device: torch.device, dtype: torch.dtype, head_size: int) -> float:
    """The largest difference from plain products in float32, over rows of several lengths, with a mask and without."""
    rows, heads, positions = len(TRIED_LENGTHS), 2, 256
    noise = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=noise).to(device, dtype)

    query, keys = some(rows, heads, head_size) / head_size**0.5, some(rows, heads, head_size, positions)
    values, mask = some(rows, heads, positions, head_size), some(rows, positions)
    lengths = torch.tensor(TRIED_LENGTHS, device=device)
    differences = []
    for added in (None, mask):
        found = attention(query, keys, values, lengths, added).float()
        exact = plain_attention(
            query.float(), keys.float(), values.float(), lengths, None if added is None else added.float()
        )
        differences.append(float((found - exact).abs().max()))
    return max(differences)


def plain_attention(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of scaled queries, shape (rows, heads, head), over turned keys, shape (rows, heads, head, positions).

    `values`: (rows, heads, positions, head). Of each row the first `lengths`, shape (rows,), positions count, one at
    least; `mask`, shape (rows, positions or more), is added before the softmax. Gives the shape of `query`.
    """
    weights = torch.matmul(query[:, :, None], keys)
    if mask is not None:
        weights = weights + mask[:, None, None, : keys.shape[3]]
    places = torch.arange(keys.shape[3], device=keys.device)
    behind = places >= lengths.clamp(min=1)[:, None]
    shares = torch.softmax(weights.masked_fill(behind[:, None, None], float("-inf")), dim=-1)
    return torch.matmul(shares, values)[:, :, 0]
