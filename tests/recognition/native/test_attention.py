"""The Triton kernel is used where it agrees with plain products, which ignore masked positions to the bit."""

import importlib.util
import os
import subprocess
import sys
from types import ModuleType

import pytest
import torch

from distil_ray.recognition.native import attention
from distil_ray.recognition.native.attention import choose_single_query_attention, masked_attention
from distil_ray.recognition.native.kv_cache import LANES


def test_without_triton_a_gpu_gets_plain_products_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "distil_ray.recognition.native.triton_attention", raising=False)
    kernel, note = choose_single_query_attention(torch.device("cuda"), torch.bfloat16, 64)
    assert kernel is None
    assert note is not None and "plain products" in note and "triton" in note


def test_without_the_headers_of_python_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_launcher(*_: object) -> float:
        raise subprocess.CalledProcessError(1, ["/usr/bin/gcc", "/tmp/main.c", "-O3"])

    monkeypatch.setitem(sys.modules, "distil_ray.recognition.native.triton_attention", ModuleType("triton_attention"))
    monkeypatch.setattr(
        sys.modules["distil_ray.recognition.native.triton_attention"], "single_query_attention", None, raising=False
    )
    monkeypatch.setattr(attention, "max_difference", compile_launcher)
    kernel, note = choose_single_query_attention(torch.device("cuda"), torch.bfloat16, 64)
    assert kernel is None
    assert note is not None and "plain products" in note and "/usr/bin/gcc" in note and "python3-dev" in note


INTERPRETED = """
import torch
from distil_ray.recognition.native.attention import TOLERANCE, max_difference
from distil_ray.recognition.native.triton_attention import single_query_attention

for dtype, tolerance in TOLERANCE.items():
    found = max_difference(single_query_attention, torch.device("cpu"), dtype, 64)
    assert found < tolerance, f"{dtype}: {found}"
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with torch's CUDA builds")
def test_the_kernel_gives_what_plain_products_give() -> None:
    """In Triton's interpreter, which has to be asked for before anything is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", INTERPRETED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


COMPILED = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from distil_ray.recognition.native.triton_attention import POSITIONS, WARPS, _single_query_kernel as kernel

for number_type in sys.argv[2:]:
    for has_mask in (False, True):
        signature = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(("size", "has_mask", "step"), "constexpr")
        signature |= dict.fromkeys(("query", "keys", "values", "mask", "mixed"), "*" + number_type)
        signature |= {"lengths": "*i64"} | ({} if has_mask else {"mask": "*i64"})
        source = ASTSource(kernel, signature, {"size": 64, "has_mask": has_mask, "step": POSITIONS})
        target = GPUTarget("cuda", int(sys.argv[1]), 32)
        assert triton.compile(source, target=target, options={"num_warps": WARPS}).asm["cubin"]
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with torch's CUDA builds")
@pytest.mark.parametrize(
    ("capability", "number_types"),
    [("75", ("fp16", "fp32")), ("80", ("bf16", "fp16", "fp32")), ("90", ("bf16", "fp16", "fp32"))],
)
def test_the_kernel_compiles_without_a_gpu(capability: str, number_types: tuple[str, ...]) -> None:
    """For the GPUs of three generations: Turing (T4), Ampere and Hopper."""
    command = [sys.executable, "-c", COMPILED, capability, *number_types]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("num_queries", [1, 3, 5, 15])
@pytest.mark.parametrize("length", [96, 208, 320, 500])
def test_masked_positions_behind_a_row_do_not_change_its_bits(length: int, num_queries: int) -> None:
    numbers = torch.Generator().manual_seed(0)
    query = torch.randn(4, 6, num_queries, 64, generator=numbers) / 8
    keys, values = torch.randn(4, 6, 64, 720, generator=numbers), torch.randn(4, 6, 720, 64, generator=numbers)
    mask = torch.zeros(1, 1, 1, 720)
    mask[..., length:] = float("-inf")

    def attend(num: int) -> torch.Tensor:
        return masked_attention(query, keys[..., :num], values[:, :, :num], mask[..., :num])

    own = attend(-(-length // LANES) * LANES)
    assert all(torch.equal(attend(num), own) for num in (512, 544, 720))
    expected = torch.softmax(query @ keys[..., :length], dim=-1) @ values[:, :, :length]
    assert (own - expected).abs().max() < 1e-5
