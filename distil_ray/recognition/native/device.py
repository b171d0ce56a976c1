"""Memory, timing and transfers of the device that the decoder runs on.

The number of slots follows from the bytes of one slot in the key-value caches, which are what grows with the batch.
"""

import ctypes
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from distil_ray.recognition.memory_estimate import choose_cpu_slots
from distil_ray.whisper.processor import has_amx

GLIBC_TRIM_THRESHOLD, GLIBC_MMAP_THRESHOLD = -1, -3  # parameters of mallopt (malloc.h)
KEPT_BYTES = 2**30  # freed memory that stays with the process
MAX_KERNELS = 64  # of oneDNN; a step has about five
MAX_AMX_KERNELS = 192  # where each one takes 1 to 10 ms to compile; about 100 are in use
SMALLEST_RETURNED_BYTES = 2**18  # smaller blocks are many, and each would take whole pages
LARGEST_KEPT_BYTES = 32 * 2**20  # the largest value that mallopt accepts; larger blocks return to the system
# Parts of the messages of RuntimeErrors: of the host allocator, of CUDA and of its libraries. cuFFT and cuBLAS allocate
# outside of torch; where that fails, cuFFT reports an internal error, and cuBLAS that its handle could not be created.
OUT_OF_MEMORY_MESSAGES = (
    *("can't allocate memory", "not enough memory", "out of memory", "alloc_failed"),
    *("cufft_internal_error", "cublas_status_not_initialized"),
)
GPU_SLOTS = 256  # chunks at most
GPU_SLOTS_STEP = 8  # rows that matrix products on a GPU take at once
GPU_CACHE_SHARE = 0.5  # of the free memory; the rest is for the encoder's activations and the logits


def has_gpu() -> bool:
    """Returns True if torch can use a GPU in this process."""
    return torch.cuda.is_available()


def choose_slots(requested: int | None, device: torch.device, bytes_per_slot: int) -> tuple[int, str | None]:
    """Returns the number of slots and, where it was chosen automatically, a message with the reason.

    Args:
        requested: The setting `decoding.batch_size`; None to choose.
        device: Where the caches are.
        bytes_per_slot: Of all caches together.
    """
    if requested is not None:
        return requested, None
    if device.type == "cpu":
        slots = choose_cpu_slots(bytes_per_slot)
        mib = bytes_per_slot / 2**20
        return slots, f"decoding.batch_size=auto: {slots} on a CPU ({mib:.0f} MiB of cache per chunk)"
    free, _ = torch.cuda.mem_get_info(device)
    slots = max(1, min(GPU_SLOTS, int(free * GPU_CACHE_SHARE) // bytes_per_slot))
    slots -= slots % GPU_SLOTS_STEP if slots > GPU_SLOTS_STEP else 0
    return slots, f"decoding.batch_size=auto: {slots} ({free / 2**30:.1f} GiB of free GPU memory)"


def device_time(device: torch.device) -> float:
    """Returns a clock in seconds: CPU time of this process, or on a GPU wall time once all queued work is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an allocation failed, on a GPU or on the host.

    `error` is one that torch, a library of CUDA or Python raise for that, or was raised while one of these was handled,
    as the end of a recording that ran out of memory is.
    """
    if not isinstance(error, (RuntimeError, MemoryError)):
        return False
    cause: BaseException | None = error
    while cause is not None:
        message = str(cause).lower()
        if isinstance(cause, (torch.OutOfMemoryError, MemoryError)) or (
            isinstance(cause, RuntimeError) and any(part in message for part in OUT_OF_MEMORY_MESSAGES)
        ):
            return True
        cause = cause.__context__
    return False


def is_cuda_usable() -> bool:
    """Returns whether CUDA still computes in this process, or is not in use.

    After some errors, such as an illegal memory access, an assertion in a kernel or a fault of the hardware, all later
    calls of the process fail too.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def release_memory(device: torch.device) -> None:
    """Returns cached blocks to the GPU, so that smaller ones can be allocated. Does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def prepare_memory() -> None:
    """Limits what the libraries below torch keep; to be called before a model is loaded.

    oneDNN keeps a compiled kernel of about 0.3 MB for every layer and number of rows that it was called with. The rows
    of a step are few, those of windows and texts are not: the default of 1024 kernels takes 300 MB in the end. A limit
    in the environment has precedence; one that is set after the first kernel has no effect.

    glibc returns the memory of large tensors to the system as soon as torch frees them, until `keep_freed_memory`.
    While weights are arranged, each is there twice for a moment; in the heap, what they leave would stay between those
    that are kept. Does nothing on other C libraries.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(MAX_AMX_KERNELS if has_amx() else MAX_KERNELS))
    _set_malloc({GLIBC_MMAP_THRESHOLD: SMALLEST_RETURNED_BYTES})


def keep_freed_memory() -> None:
    """Makes glibc keep the memory that torch frees on the host from now on, and return what has been freed.

    To be called once a model is loaded. Does nothing on other C libraries.

    An encoder layer allocates and frees 3 to 12 MB a dozen times. glibc returns such blocks to the system each time,
    and the system clears their pages anew: up to a seventh of the CPU time of a full window in int8.
    """
    _set_malloc({GLIBC_MMAP_THRESHOLD: LARGEST_KEPT_BYTES, GLIBC_TRIM_THRESHOLD: KEPT_BYTES})
    if (trim := c_function("malloc_trim")) is not None:
        trim(0)


def _set_malloc(parameters: dict[int, int]) -> None:
    mallopt = c_function("mallopt")
    if mallopt is not None:
        for parameter, value in parameters.items():
            mallopt(parameter, value)


def c_function(name: str) -> Callable[..., int] | None:
    """Returns a function of the C library; None if it has none, as other libraries than glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def copy_async(values: Sequence[Any], device: torch.device) -> Tensor:
    """Returns a tensor of numbers, or of rows of numbers, on `device`.

    On a GPU the copy goes through pinned memory and the host does not wait: a plain copy would wait until the GPU has
    done all work before it. On a CPU nothing is copied.
    """
    tensor = torch.tensor(values)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
