"""The cache takes only the memory that its rows need, and keeps what they hold when it grows."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.recognition.native.kv_cache import BLOCK_SHARE, CrossBlock, KVCache, plan_blocks
from tests.support.memory import resident_mb


def cache_of(**sizes: int) -> KVCache:
    device = torch.device("cpu")
    return KVCache(**sizes, dtype=torch.float32, device=device, window_dtype=None, keeps_states=False)


def small_cache() -> KVCache:
    return cache_of(layers=2, slots=6, heads=2, head_size=4, positions=100, encoder_positions=100)


def fill(cache: KVCache, slot: int, length: int) -> None:
    """Writes the number of the slot as keys, and its negative as values."""
    cache.reserve_window(slot, length)
    for layer in range(2):
        keys, values = cache.cross_kv(layer, slot)
        keys[..., :length], values[:, :length] = slot + 1, -slot - 1
    cache.encoder_lengths[slot] = length


def holds(cache: KVCache, slot: int, number: int, length: int) -> bool:
    both = [cache.cross_kv(layer, slot) for layer in range(2)]
    return all(
        bool((keys[..., :length] == number + 1).all()) and bool((values[:, :length] == -number - 1).all())
        for keys, values in both
    )


def test_the_cache_takes_what_its_windows_and_texts_need() -> None:
    """Sixteen slots of whisper-base are 760 MB; one window of 20 s and two of 5 s with short texts take 50."""
    before = resident_mb()
    cache = cache_of(layers=6, slots=16, heads=8, head_size=64, positions=464, encoder_positions=1500)
    cache.lay_out([250, 1000, 240])
    cache.reserve_texts(40)
    for block in cache.blocks:
        block.keys.fill_(1.0)
        block.values.fill_(1.0)
    assert [(block.first, block.stop, block.positions) for block in cache.blocks] == [(0, 1, 1008), (1, 3, 256)]
    assert resident_mb() - before < 70
    del block
    cache.lay_out([100])
    assert resident_mb() - before < 20, "the memory of the run before is returned"


def test_a_run_that_needs_about_as_much_gets_the_memory_of_the_run_before() -> None:
    cache = small_cache()
    sizes = []
    for lengths in ([64] * 6, [64, 32], [], [16], [16, 16], [64] * 6):
        cache.lay_out(lengths)
        sizes += [block.keys.untyped_storage().nbytes() for block in cache.blocks[:1]]
    needed = 2 * 2 * 2 * 4 * 4  # bytes of a position of a slot: two layers, keys and values, two heads of four numbers
    assert sizes == [each * needed for each in (6 * 64, 6 * 64, 16, 2 * 16, 6 * 64)]


@given(st.lists(st.integers(1, 100), max_size=12))
def test_every_slot_has_room_for_its_window_and_little_more(lengths: list[int]) -> None:
    cache = small_cache()
    cache.lay_out(lengths)
    longest = sorted(lengths, reverse=True)[:6]
    assert sum(block.stop - block.first for block in cache.blocks) == len(longest)
    for slot, length in enumerate(longest):
        positions = cache.block_of(slot).positions
        assert min(length, 100) <= positions <= max(100 if length > 96 else 0, (length + 15) / BLOCK_SHARE)
    rooms = [positions for _, positions in plan_blocks(longest)]
    assert rooms == sorted(rooms, reverse=True), "what moves to a slot before its own fits"


def test_longer_windows_and_texts_than_foreseen_make_it_grow_and_keep_the_others() -> None:
    cache = small_cache()
    cache.lay_out([64, 32, 16])
    cache.reserve_texts(10)
    for slot, length in enumerate((64, 30, 16)):
        fill(cache, slot, length)
    cache.self_kv[1][:, 2] = 7.0
    held = cache.self_kv[1].shape[3]
    fill(cache, 4, 20)  # a slot behind all others
    fill(cache, 2, 90)  # a window that is longer than those before it
    for slot, length in ((0, 64), (1, 30), (2, 90), (4, 20)):
        assert holds(cache, slot, slot, length), slot
    assert cache.cross_kv(0, 0)[0].shape[-1] >= cache.cross_kv(0, 2)[0].shape[-1]
    cache.reserve_texts(held + 1)
    assert held < cache.self_kv[1].shape[3] <= 100
    assert (cache.self_kv[1][:, 2, :, :held] == 7.0).all() and not cache.self_kv[1][:, 2, :, held:].any()
    cache.reserve_texts(100)
    assert cache.self_kv[0].shape[3] == 100


def test_keys_of_some_heads_are_gathered_from_all_blocks() -> None:
    cache = small_cache()
    cache.lay_out([64, 16])
    fill(cache, 0, 64)
    fill(cache, 1, 10)
    found = cache.gather_keys(1, torch.tensor([1, 0]), 40, torch.tensor([1]))
    assert found.shape == (2, 1, 4, 40)
    assert (found[0, :, :, :10] == 2).all() and not found[0, :, :, 10:].any() and (found[1] == 1).all()


def test_rows_move_to_slots_with_more_room() -> None:
    cache = small_cache()
    cache.lay_out([64, 64, 32, 16])
    cache.reserve_texts(8)
    for slot, length in enumerate((64, 60, 30, 16)):
        fill(cache, slot, length)
        for self_kv in cache.self_kv:
            self_kv[:, slot] = slot
    cache.cross_mask[3] = 3.0
    cache.move_rows([3, 2], [0, 1], positions=5, encoder_positions=30)
    assert holds(cache, 0, 3, 16) and holds(cache, 1, 2, 30)
    assert cache.encoder_lengths.tolist()[:2] == [16, 30]
    assert (cache.cross_mask[0] == 3.0).all()
    assert (cache.self_kv[1][:, 0, :, :5] == 3).all() and (cache.self_kv[1][:, 0, :, 5:] == 0).all()


def test_rows_moved_by_layer_equal_rows_moved_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everything stays in its place, as on a GPU, and where rows are copied one by one."""
    one_by_one, at_once = (
        cache_of(layers=2, slots=6, heads=2, head_size=4, positions=8, encoder_positions=32) for _ in range(2)
    )

    def tensors(cache: KVCache) -> list[torch.Tensor]:
        (block,) = cache.blocks
        return [*cache.self_kv, block.keys, block.values, cache.encoder_lengths, cache.cross_mask]

    for cache in (one_by_one, at_once):
        cache.lay_out([32] * 6)
        cache.reserve_texts(8)
        for tensor in tensors(cache):
            tensor.copy_(torch.arange(tensor.numel()).view_as(tensor))
        cache.encoder_lengths.fill_(20)
    monkeypatch.setattr(at_once, "is_static", True)
    for cache in (one_by_one, at_once):
        cache.move_rows([5, 3], [0, 2], positions=5, encoder_positions=20)
    for mine, other in zip(tensors(one_by_one), tensors(at_once), strict=True):
        assert torch.equal(mine, other)


def test_memory_that_the_system_refuses_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    cache = small_cache()
    monkeypatch.setattr("distil_ray.recognition.native.kv_cache.mmap.mmap", refuse)
    with pytest.raises(MemoryError, match="key-value cache"):
        cache.lay_out([10])
    assert not any(isinstance(block, CrossBlock) for block in cache.blocks)
