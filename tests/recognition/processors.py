"""What a test needs of the processor."""

import pytest

from distil_ray.whisper import model

needs_products = pytest.mark.skipif(
    model._cpu_flags().isdisjoint(model.CPU_FLAGS_OF_INT8), reason="this processor has no 8-bit products"
)
