"""The cache takes only the memory that is written to, and packs short windows."""

from pathlib import Path

import pytest
import torch

from distil_ray.recognition.native.kv_cache import KVCache


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def cache_of(**sizes: int) -> KVCache:
    return KVCache(**sizes, dtype=torch.float32, device=torch.device("cpu"))


def test_unused_positions_take_no_memory() -> None:
    """Sixteen slots of whisper-base are 730 MB; two windows of 5 s take 12."""
    before = resident_mb()
    cache = cache_of(layers=6, slots=16, heads=8, head_size=64, positions=448, encoder_positions=1500)
    cache.resize_windows(250)
    cache.cross_keys[:, :2] = 1.0
    cache.cross_values[:, :2] = 1.0
    assert resident_mb() - before < 50
    assert cache.cross_keys.shape == (6, 16, 8, 64, 256), "whole lanes"
    assert cache.cross_values.shape == (6, 16, 8, 256, 64)
    assert not cache.self_kv[-1, -1, -1].any()


def test_rows_moved_by_layer_equal_rows_moved_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everything stays in its place, as on a GPU, and where rows are copied one by one."""
    one_by_one, at_once = (
        cache_of(layers=2, slots=6, heads=2, head_size=4, positions=8, encoder_positions=32) for _ in range(2)
    )
    monkeypatch.setattr(at_once, "_is_static", True)
    parts = ("self_kv", "cross_keys", "cross_values", "encoder_lengths", "cross_mask")
    for part in parts:
        numbers = torch.arange(getattr(one_by_one, part).numel()).view_as(getattr(one_by_one, part))
        for cache in (one_by_one, at_once):
            getattr(cache, part).copy_(numbers)
    for cache in (one_by_one, at_once):
        cache.move_rows([5, 3], [0, 2], positions=5, encoder_positions=20)
    assert one_by_one.encoder_lengths.tolist() == [5, 1, 3, 3, 4, 5]
    for part in parts:
        assert torch.equal(getattr(one_by_one, part), getattr(at_once, part)), part
