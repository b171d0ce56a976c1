"""Instructions of this machine's processor, and what ``model.dtype=int8`` computes with them. Imports no torch.

Products of bytes are added in pairs. Instructions for 8-bit products (VNNI, AMX) have 32 bits for the sum. Without
them, torch's kernels use an instruction of AVX2 and AVX512 whose sum has 16 bits and saturates: two products of an
unsigned byte with a weight of more than 64 may not fit. With weights of -64 to 64 the largest sum is 2 x 255 x 64 =
32,640, which does, so that the integer products are exact on every processor; the weights have 7 bits instead of 8.
"""

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
X86 = ("x86_64", "amd64")
BFLOAT16_FLAG = "amx_bf16"  # instructions for products of bfloat16 matrices
BFLOAT16_VECTOR_FLAG = "avx512_bf16"  # of bfloat16 vectors
PRODUCT_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8")  # in /proc/cpuinfo: instructions for 8-bit products
# Flags that libraries may not use, by the value of a variable in the environment (ATEN_CPU_CAPABILITY of torch,
# ONEDNN_MAX_CPU_ISA of oneDNN).
TORCH_LIMITS = {"default": ("avx512", "amx", "avx2", "avx_vnni"), "avx2": ("avx512", "amx")}
ONEDNN_LIMITS = {
    "SSE41": ("avx512", "amx", "avx_vnni"),
    "AVX": ("avx512", "amx", "avx_vnni"),
    "AVX2": ("avx512", "amx", "avx_vnni"),
    "AVX2_VNNI": ("avx512", "amx"),
    "AVX2_VNNI_2": ("avx512", "amx"),
    "AVX512_CORE": ("avx512_vnni", "avx512_bf16", "amx", "avx_vnni"),
    "AVX512_CORE_VNNI": ("avx512_bf16", "amx"),
    "AVX512_CORE_BF16": ("amx",),
    "AVX512_CORE_FP16": ("amx",),
}


@dataclass(frozen=True, slots=True)
class Int8Products:
    """A way to compute ``model.dtype=int8``.

    Attributes:
        dtype: Name in the output: "int8", or "int8_w7" with weights of 7 bits.
        max_weight: Largest magnitude of quantized weights.
        library: Whose kernels compute the products: "onednn" or "fbgemm".
    """

    dtype: str
    max_weight: int
    library: str


EIGHT_BITS = Int8Products("int8", 127, "onednn")
SEVEN_BITS = Int8Products("int8_w7", 64, "fbgemm")  # which is faster than oneDNN here: docs/performance.md


def choose_int8_products() -> tuple[Int8Products | None, str | None]:
    """Returns how this processor computes ``model.dtype=int8``, and the reason if it is not in 8 bits.

    None instead of the products: it computes in float32.
    """
    machine, flags = platform.machine().lower(), cpu_flags()
    if machine not in X86:
        return (
            None,
            f"model.dtype=int8: float32 instead, because 8-bit products need x86-64; the processor is {machine}",
        )
    if not flags.isdisjoint(PRODUCT_FLAGS):
        return EIGHT_BITS, None
    if "avx2" not in flags:
        return None, "model.dtype=int8: float32 instead, because the processor has neither VNNI nor AVX2"
    return SEVEN_BITS, (
        "model.dtype=int8: weights of 7 bits (int8_w7), because products of 8 bits may overflow on a processor without"
        " VNNI"
    )


def has_int8_products() -> bool:
    """Returns True if the processor has instructions for 8-bit products (`EIGHT_BITS`)."""
    return choose_int8_products()[0] is EIGHT_BITS


@functools.cache
def has_amx() -> bool:
    """Returns True if the processor multiplies matrices of bfloat16 in AMX tiles, at six times the rate of float32."""
    return BFLOAT16_FLAG in cpu_flags()


@functools.cache
def has_bfloat16_vectors() -> bool:
    """Returns True if the processor multiplies vectors of bfloat16, at twice the rate of float32, and has no AMX."""
    return BFLOAT16_VECTOR_FLAG in cpu_flags() and not has_amx()


def cpu_flags() -> frozenset[str]:
    """Returns the CPU flags in Linux's names; empty on other systems.

    Flags that torch or oneDNN may not use (`TORCH_LIMITS`, `ONEDNN_LIMITS`) are left out.
    """
    forbidden = (
        *TORCH_LIMITS.get(os.environ.get("ATEN_CPU_CAPABILITY", "").lower(), ()),
        *ONEDNN_LIMITS.get(os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper(), ()),
    )
    return frozenset(flag for flag in _read_cpu_flags() if not flag.startswith(forbidden))


def _read_cpu_flags() -> frozenset[str]:
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
