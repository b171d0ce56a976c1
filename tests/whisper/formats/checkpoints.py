"""Tiny checkpoints with random weights, and comparisons of them."""

from dataclasses import replace

import numpy as np

from distil_ray.whisper.formats.tensors import Checkpoint, Sizes, Tensor, expected_shapes

SMALL = Sizes(
    vocab_size=300,
    num_mel_bins=80,
    d_model=32,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=128,
    decoder_ffn_dim=128,
    max_source_positions=20,
    max_target_positions=16,
)


def random_checkpoint(sizes: Sizes = SMALL, dtype: str = "float32", vocabulary: tuple[bytes, ...] = ()) -> Checkpoint:
    """Returns a checkpoint of these sizes with normal weights."""
    generator = np.random.default_rng(0)
    tensors = {
        name: Tensor.of(generator.normal(size=shape).astype(dtype)) for name, shape in expected_shapes(sizes).items()
    }
    return Checkpoint("random", sizes, tensors, vocabulary=vocabulary)


def assert_same_tensors(found: Checkpoint, expected: Checkpoint) -> None:
    """Every tensor has the same shape, dtype and bits."""
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        array = found.tensors[name].load()
        assert (found.tensors[name].dtype, array.dtype.name) == (tensor.dtype, tensor.dtype), name
        assert found.tensors[name].shape == array.shape == tensor.shape, name
        assert array.tobytes() == tensor.load().tobytes(), name


def with_sizes(**changes: int) -> Sizes:
    return replace(SMALL, **changes)
