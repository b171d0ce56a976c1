"""Out-of-memory errors are recognized, and the batch follows from free memory."""

import pytest
import torch

from distil_ray.recognition.native.device import choose_slots, is_cuda_usable, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuFFT error: CUFFT_INTERNAL_ERROR"), True),  # its workspace is not torch's
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_errors_are_recognized(error: Exception, is_full: bool) -> None:
    assert is_out_of_memory(error) is is_full


def test_an_error_that_follows_from_out_of_memory_is_recognized() -> None:
    error = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    error.__context__ = torch.OutOfMemoryError("CUDA out of memory")
    assert is_out_of_memory(error)
    unrelated = ValueError("decoding.prompt is too long")
    unrelated.__context__ = torch.OutOfMemoryError("CUDA out of memory")
    assert not is_out_of_memory(unrelated)


@pytest.mark.parametrize(("free_gib", "slots"), [(130, 216), (20, 32), (2, 3), (0.1, 1)])
def test_the_batch_follows_from_free_memory(monkeypatch: pytest.MonkeyPatch, free_gib: float, slots: int) -> None:
    """At large-v3's third of a GB a chunk; half of the memory stays free for the encoder."""
    free = int(free_gib * 2**30)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, free))
    found, note = choose_slots(None, torch.device("cuda"), 2 * 32 * 1280 * (464 + 1500) * 2)
    assert found == slots
    assert note is not None and f"{free_gib:.1f} GiB of free GPU memory" in note


def test_cuda_is_usable_until_an_error_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    assert is_cuda_usable()  # not in use
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert is_cuda_usable()
    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    assert not is_cuda_usable()
