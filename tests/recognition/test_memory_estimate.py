"""The estimate follows the sizes of the checkpoint and the settings, and is not below what was measured."""

from typing import Any

import pytest

from distil_ray.recognition.memory_estimate import RAY_MB, STORE_MB, estimate_memory_mb

BASE = (512, 6, 6)
LARGE_V3 = (1280, 32, 32)
DISTIL_LARGE_V3 = (1280, 32, 2)


def config(width: int, encoder_layers: int, decoder_layers: int) -> dict[str, Any]:
    return {
        "d_model": width,
        "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers,
        "encoder_ffn_dim": 4 * width,
        "decoder_ffn_dim": 4 * width,
        "vocab_size": 51_866,
        "num_mel_bins": 80,
    }


def test_weights_and_caches_are_counted_once_each() -> None:
    """Whisper-base has 73 million parameters. Keys and values of a full window take 35 MiB in float32, states 3."""
    few, many = (estimate_memory_mb(config(*BASE), dtype="float32", batch_size=slots) for slots in (1, 17))
    assert 16 * 3 < many - few < 16 * 20
    for more in ({"has_assistant": True}, {"num_texts": 2}):
        few_with_keys, many_with_keys = (
            estimate_memory_mb(config(*BASE), dtype="float32", batch_size=slots, **more) for slots in (1, 17)
        )
        assert many_with_keys - few_with_keys > many - few + 16 * 32
        assert few_with_keys > few + 32
    assert estimate_memory_mb(config(*BASE), dtype="auto", batch_size=1) == few
    assert 130 < few - estimate_memory_mb(config(*BASE), dtype="bfloat16", batch_size=1) < 250
    assert 170 < few - estimate_memory_mb(config(*BASE), dtype="int8", batch_size=1) < 190


def test_large_checkpoints_get_fewer_slots_where_the_batch_is_chosen() -> None:
    chosen, asked = (
        estimate_memory_mb(config(*LARGE_V3), dtype="float32", batch_size=size, num_texts=5) for size in (None, 16)
    )
    assert chosen < asked - 4000
    assert estimate_memory_mb(config(*DISTIL_LARGE_V3), dtype="float32", num_texts=5) < chosen / 2


@pytest.mark.parametrize(
    ("more", "at_least_mb"), [({"part_audio_s": 1200.0}, 30), ({"num_texts": 5}, 40), ({"max_new_tokens": 1}, -300)]
)
def test_settings_count(more: dict[str, Any], at_least_mb: int) -> None:
    usual = estimate_memory_mb(config(*BASE), dtype="float32", batch_size=16)
    changed = estimate_memory_mb(config(*BASE), dtype="float32", batch_size=16, **more)
    assert changed - usual >= at_least_mb
    assert changed != usual


TINY, SMALL, MEDIUM = (384, 4, 4), (768, 12, 12), (1024, 24, 24)


@pytest.mark.parametrize(
    ("shape", "dtype", "batch_size", "max_new_tokens", "measured_mb", "ratio"),
    [
        (TINY, "float32", 16, 64, 711, 1.0),
        (BASE, "float32", 16, 64, 687, 1.3),
        (BASE, "int8", 16, 64, 567, 1.4),
        (SMALL, "float32", 4, 16, 1433, 0.9),
        (MEDIUM, "float32", 2, 8, 2975, 1.0),
        (DISTIL_LARGE_V3, "bfloat16", 2, 8, 1932, 1.0),
        (LARGE_V3, "bfloat16", 2, 8, 3947, 1.0),
    ],
)
def test_the_estimate_is_near_measured_peaks(
    shape: tuple[int, int, int], dtype: str, batch_size: int, max_new_tokens: int, measured_mb: int, ratio: float
) -> None:
    """Peaks of processes without Ray that decoded in full windows, from float16 weights (docs/performance.md).

    `ratio` is the estimate by the peak. Their prompts were short: the estimate has room for prompts of half the
    positions, which counts with 16 chunks.
    """
    estimated = estimate_memory_mb(
        config(*shape) | {"torch_dtype": "float16"},
        dtype=dtype,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        part_audio_s=300.0,
    )
    assert estimated - RAY_MB - STORE_MB == pytest.approx(ratio * measured_mb, rel=0.1)
