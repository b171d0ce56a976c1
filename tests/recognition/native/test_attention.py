"""The Triton kernel is taken where it compiles and agrees with plain products, which it does in the interpreter."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from distil_ray.recognition.native.attention import choose_single_query_attention


def test_without_triton_a_gpu_gets_plain_products_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "distil_ray.recognition.native.triton_attention", raising=False)
    kernel, note = choose_single_query_attention(torch.device("cuda"), torch.bfloat16, 64)
    assert kernel is None
    assert note is not None and "plain products" in note and "triton" in note


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
