"""The decoder's cache takes the memory that is written to, and lays short windows side by side."""

from pathlib import Path

import torch

from distil_ray.recognition.cache import Cache


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def test_memory_that_is_not_written_is_not_taken() -> None:
    """Sixteen slots of whisper-base are 730 MB; two windows of 5 s take 12."""
    before = resident_mb()
    cache = Cache(
        layers=6,
        slots=16,
        heads=8,
        head_size=64,
        positions=448,
        encoder_positions=1500,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    cache.fit(250)
    cache.cross_keys[:, :2] = 1.0
    cache.cross_values[:, :2] = 1.0
    assert resident_mb() - before < 50
    assert cache.cross_keys.shape == (6, 16, 8, 64, 256), "whole lanes"
    assert cache.cross_values.shape == (6, 16, 8, 256, 64)
    assert not cache.own[-1, -1, -1].any()
