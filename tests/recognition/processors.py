"""Markers for tests that need certain CPU instructions. The others run on any x86-64 with AVX2.

Such a processor is emulated by ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 in the environment.
"""

import pytest

from distil_ray.whisper import model

needs_products = pytest.mark.skipif(
    not model.supports_int8(),
    reason="the processor has no 8-bit products (VNNI, AMX), without which model.dtype=int8 is refused",
)
