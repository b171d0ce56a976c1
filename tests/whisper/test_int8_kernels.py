"""8-bit products are exact for the largest numbers, and the check of that fails where they are not."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from distil_ray.whisper.int8_kernels import find_problem, pack
from distil_ray.whisper.processor import SEVEN_BITS, Int8Products
from tests.recognition.processors import PRODUCTS, WITHOUT_VNNI, needs_avx2

# Prints, for weights of 7 and of 8 bits, what `find_problem` says of either library.
PROGRAM = """
import json
from distil_ray.whisper.int8_kernels import find_problem
from distil_ray.whisper.processor import Int8Products, choose_int8_products

print(json.dumps({
    "chosen": choose_int8_products()[0].dtype,
    **{f"{library} {limit}": find_problem(Int8Products("", limit, library))
       for library in ("onednn", "fbgemm") for limit in (64, 65, 127)},
}))
"""


@pytest.mark.parametrize("products", PRODUCTS)
def test_products_of_this_processor_are_exact(products: Int8Products) -> None:
    assert find_problem(products) is None


@needs_avx2
def test_without_vnni_products_saturate_unless_weights_have_7_bits() -> None:
    """The largest weight that the kernels may get is 64: with 65, and with 127, sums of pairs exceed 16 bits."""
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | WITHOUT_VNNI, capture_output=True, text=True, check=True
    )
    problems = json.loads(found.stdout)
    assert problems.pop("chosen") == "int8_w7"
    assert problems.pop("onednn 64") is None and problems.pop("fbgemm 64") is None
    assert len(problems) == 4
    for name, problem in problems.items():
        assert problem == f"the products of {name.split()[0]} overflow", name


def test_kernels_that_fail_are_a_problem_and_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "quantized", object())  # a torch without the operators
    before = torch.backends.quantized.engine
    assert (find_problem(SEVEN_BITS) or "").startswith("fbgemm failed: ")
    assert torch.backends.quantized.engine == before


def test_weights_and_activations_are_multiplied_by_either_library() -> None:
    numbers = torch.Generator().manual_seed(1)
    weight = torch.randint(-64, 65, (40, 33), generator=numbers)
    rows = torch.randint(-127, 128, (5, 33), generator=numbers).float()
    scales = torch.rand(40, generator=numbers) + 0.5
    for products in (SEVEN_BITS, replace(SEVEN_BITS, library="onednn")):
        found = pack(weight.to(torch.int8), scales, products)(rows.clone())
        torch.testing.assert_close(found, rows @ weight.T.float() * scales)
