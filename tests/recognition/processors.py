"""Markers for tests that need certain CPU instructions, and the environment of a processor that lacks them."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from distil_ray.whisper.processor import EIGHT_BITS, SEVEN_BITS, cpu_flags, has_int8_products

Test = TypeVar("Test", bound=Callable[..., Any])

WITHOUT_VNNI = {  # a processor with AVX2, for torch, oneDNN, MKL and FBGEMM
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
}
needs_vnni = pytest.mark.skipif(not has_int8_products(), reason="the processor has no 8-bit products (VNNI, AMX)")
needs_avx2 = pytest.mark.skipif("avx2" not in cpu_flags(), reason="the processor has no AVX2: int8 is float32 there")
# Without instructions for bfloat16 its products are emulated, and take five times as long as those of float32.
_EMULATED = () if cpu_flags() & {"avx512_bf16", "amx_bf16"} else (pytest.mark.slow,)
BFLOAT16 = pytest.param("bfloat16", marks=_EMULATED)


def slow_if_emulated(test: Test) -> Test:
    """Marks a test with bfloat16 as slow where its products are emulated."""
    for mark in _EMULATED:
        test = mark(test)
    return test


# The ways to compute int8 that this processor supports.
PRODUCTS = [
    pytest.param(EIGHT_BITS, marks=needs_vnni, id="8-bits"),
    pytest.param(SEVEN_BITS, marks=needs_avx2, id="7-bits"),
]
