"""What fits: chunks into a window, slots into memory, and how to tell that memory has ended; what time work takes.

The number of slots follows from the bytes that one takes in the decoder's cache, which is what grows with the batch.
"""

import ctypes
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distil_ray.recognition.base import PCM16
from distil_ray.whisper.features import MAX_SAMPLES

CPU_SLOTS = 16  # chunks; more are slower, because the cache then spills out of the processor's own (measured)
CPU_CACHE_BYTES = 4 * 2**30  # at most; large checkpoints get fewer slots
GLIBC_TRIM_THRESHOLD, GLIBC_MMAP_THRESHOLD = -1, -3  # mallopt's names of them (malloc.h)
KEPT_BYTES = 2**30  # freed memory that stays with the process
LARGEST_KEPT_BYTES = 32 * 2**20  # the most that mallopt takes; what is larger goes back when it is freed
# In errors of torch that have no type of their own: the host's, and those of CUDA and its libraries.
OUT_OF_MEMORY_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed")
GPU_SLOTS = 256  # chunks at most
GPU_SLOTS_STEP = 8  # a GPU's products take so many rows at once
GPU_CACHE_SHARE = 0.5  # of the free memory; the rest is for the encoder's activations and the logits


def choose_slots(asked: int | None, device: torch.device, bytes_per_slot: int) -> tuple[int, str | None]:
    """Slots, and the reason where they were chosen automatically; `bytes_per_slot`: of all caches."""
    if asked is not None:
        return asked, None
    if device.type == "cpu":
        slots = max(1, min(CPU_SLOTS, CPU_CACHE_BYTES // bytes_per_slot))
        mib = bytes_per_slot / 2**20
        return slots, f"decoding.batch_size=auto: {slots} on a CPU, at {mib:.0f} MiB of cache a chunk"
    free, _ = torch.cuda.mem_get_info(device)
    slots = max(1, min(GPU_SLOTS, int(free * GPU_CACHE_SHARE) // bytes_per_slot))
    slots -= slots % GPU_SLOTS_STEP if slots > GPU_SLOTS_STEP else 0
    return slots, f"decoding.batch_size=auto: {slots}, by {free / 2**30:.1f} GiB of free GPU memory"


def device_time(device: torch.device) -> float:
    """Seconds that work on a device has taken by now: of this process' CPUs, or until the GPU has done all of it."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is what torch or Python raise when an allocation fails, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in words for sign in OUT_OF_MEMORY_MESSAGES)


def release_memory(device: torch.device) -> None:
    """Gives freed blocks back to the device, so that smaller ones can be cut from them."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """Lets this process hold on to what torch frees on the host, with glibc; elsewhere it does nothing.

    An encoder's layer allocates and frees 3 to 12 MB a dozen times. glibc gives such blocks back to the system each
    time, which zeroes their pages anew: up to a seventh of the CPU time of a full window in 8 bits.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(GLIBC_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        mallopt(GLIBC_TRIM_THRESHOLD, KEPT_BYTES)


def check_chunks(chunks: Sequence[PCM16]) -> None:
    """Raises ValueError for what is no chunk: not int16, not of one dimension, empty, or longer than 30 s."""
    for index, chunk in enumerate(chunks):
        if chunk.dtype != np.int16 or chunk.ndim != 1:
            raise ValueError(f"chunk {index} must be int16 of one dimension, found {chunk.dtype} {chunk.shape}")
        if not 0 < len(chunk) <= MAX_SAMPLES:
            raise ValueError(f"chunk {index} has {len(chunk)} samples; must be 1 to {MAX_SAMPLES} (30 s at 16 kHz)")


def copy_async(values: Sequence[Any], device: torch.device) -> Tensor:
    """A tensor of numbers, or of rows of numbers, as torch makes it of them."""
    tensor = torch.tensor(values)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
