"""The limits of a device: matrix rate, memory rate, and the cost of attention with and without a mask.

They are measured in the same run as the recognizers, in the same dtype. Data is random, because zeros run faster on
some devices.
"""

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from distil_ray.recognition.native.device import device_time

TRIES = 7
SIZES = {"cuda": 8192, "cpu": 256}  # of the square matrices
COPIED_BYTES = {"cuda": 4 << 30, "cpu": 4 << 20}  # at most
COPIED_SHARE = 0.25  # of the free memory of a GPU, at most
WINDOWS = {"cuda": 32, "cpu": 1}  # of attention
HEADS, HEAD, POSITIONS, SILENT = 20, 64, 800, 88  # a large encoder's, windows of 16 s


@torch.inference_mode()
def measure_limits(device: torch.device, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """Yields operations and bytes per second, and the seconds of one attention layer by kind of mask."""
    yield {"measure": "limits", "operations_per_s": _matrix_rate(device, dtype)}
    yield {"measure": "limits", "bytes_per_s": _memory_rate(device)}
    yield {"measure": "attention", **_attention(device, dtype)}


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    size = SIZES[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / median_s(lambda: left @ right, device)


def _memory_rate(device: torch.device) -> float:
    """Returns bytes read and written per second."""
    size = COPIED_BYTES[device.type]
    if device.type == "cuda":
        size = min(size, int(COPIED_SHARE * torch.cuda.mem_get_info(device)[0]))
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_s(lambda: target.copy_(source), device)


def _attention(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Returns seconds of one layer over windows with silence context: with a mask, as the encoder does it, and without.

    Also by cuDNN, which the encoder does not use because it plans each shape anew: seconds of the first call and of
    later ones.
    """
    windows = WINDOWS[device.type]
    query = torch.randn(windows, HEADS, POSITIONS, HEAD, device=device, dtype=dtype)
    keys, values = (torch.randn(windows, HEADS, POSITIONS + SILENT, HEAD, device=device, dtype=dtype) for _ in "kv")
    mask = torch.zeros(1, 1, 1, POSITIONS + SILENT, device=device, dtype=dtype)
    attend = functional.scaled_dot_product_attention
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        found: dict[str, Any] = {
            "with_mask_s": median_s(lambda: attend(query, keys, values, attn_mask=mask), device),
            "without_s": median_s(lambda: attend(query, keys, values), device),
            "windows": windows,
        }
    try:
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
            began = device_time(device)
            attend(query, keys, values, attn_mask=mask)
            found["cudnn_first_s"] = device_time(device) - began
            found["cudnn_with_mask_s"] = median_s(lambda: attend(query, keys, values, attn_mask=mask), device)
    except RuntimeError as error:
        found["cudnn_failed"] = str(error).partition("\n")[0]
    return found


def median_s(work: Callable[[], object], device: torch.device) -> float:
    """Returns the median seconds of one call, after two warm-up calls."""
    work(), work()
    taken = []
    for _ in range(TRIES):
        began = device_time(device)
        work()
        taken.append(device_time(device) - began)
    return max(median(taken), 1e-9)
