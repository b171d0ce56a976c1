"""Number types of ggml's tensors: float32, float16, and blocks of 4, 5 and 8 bits.

A block holds 32 numbers of a row: a scale, in the types ``_1`` also a minimum, both float16, then the integers. Of
4-bit integers byte i holds number i in its low half and number i + 16 in its high half; types of 5 bits hold the fifth
bits before them. `encode` computes in float32 and rounds as ggml's reference does, so that the blocks are the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 32  # numbers that share a scale
HALF = BLOCK // 2

Blocks = NDArray[np.uint8]  # (num_blocks, bytes of a block)
Numbers = NDArray[np.float32]  # (num_blocks, BLOCK)


@dataclass(frozen=True, slots=True)
class BlockType:
    """A quantized type.

    Attributes:
        code: ggml's number of the tensor type.
        file_type: ggml's number for a file whose matrices have it.
        num_bytes: Size of a block.
        encode: Returns the blocks of numbers.
        decode: Returns the numbers of blocks, in float32, which is exact.
    """

    code: int
    file_type: int
    num_bytes: int
    encode: Callable[[Numbers], Blocks]
    decode: Callable[[Blocks], Numbers]


def quantize(array: NDArray[np.floating], kind: BlockType) -> Blocks:
    """Returns the blocks of a matrix whose rows have a multiple of `BLOCK` numbers."""
    return kind.encode(np.ascontiguousarray(array, np.float32).reshape(-1, BLOCK))


def dequantize(data: NDArray[np.uint8], shape: tuple[int, ...], kind: BlockType) -> Numbers:
    """Returns the numbers of a matrix, float32.

    Args:
        data: All bytes of the tensor.
        shape: Shape of the result.
        kind: Its type.
    """
    return kind.decode(data.reshape(-1, kind.num_bytes)).reshape(shape)


def _inverse(scale: Numbers) -> Numbers:
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)


def _float16_bytes(*columns: Numbers) -> Blocks:
    return np.concatenate(columns, axis=1).astype(np.float16).view(np.uint8)


def _scales(blocks: Blocks, count: int) -> list[Numbers]:
    """Returns the float16 numbers at the beginning of each block, each with the shape (num_blocks, 1)."""
    numbers = np.ascontiguousarray(blocks[:, : 2 * count]).view(np.float16).astype(np.float32)
    return [numbers[:, [index]] for index in range(count)]


def _encode_q8_0(numbers: Numbers) -> Blocks:
    scale = np.abs(numbers).max(axis=1, keepdims=True) / np.float32(127)
    steps = numbers * _inverse(scale)
    rounded = np.copysign(np.floor(np.abs(steps) + np.float32(0.5)), steps).astype(np.int8)  # halves away from zero
    return np.concatenate([_float16_bytes(scale), rounded.view(np.uint8)], axis=1)


def _decode_q8_0(blocks: Blocks) -> Numbers:
    (scale,) = _scales(blocks, 1)
    return np.ascontiguousarray(blocks[:, 2:]).view(np.int8) * scale


def _encode_symmetric(numbers: Numbers, bits: int) -> Blocks:
    """Encodes with a scale alone: the number of largest magnitude becomes the lowest integer."""
    half = 1 << (bits - 1)
    largest = np.take_along_axis(numbers, np.abs(numbers).argmax(axis=1)[:, None], axis=1)
    scale = largest / np.float32(-half)
    steps = numbers * _inverse(scale) + np.float32(half + 0.5)
    return _pack(_float16_bytes(scale), np.minimum(2 * half - 1, steps.astype(np.int8)).astype(np.uint8), bits)


def _encode_affine(numbers: Numbers, bits: int) -> Blocks:
    """Encodes with a scale and a minimum."""
    most = (1 << bits) - 1
    low = numbers.min(axis=1, keepdims=True)
    scale = (numbers.max(axis=1, keepdims=True) - low) / np.float32(most)
    steps = ((numbers - low) * _inverse(scale) + np.float32(0.5)).astype(np.uint8)
    return _pack(_float16_bytes(scale, low), np.minimum(most, steps), bits)


def _pack(head: Blocks, steps: Blocks, bits: int) -> Blocks:
    nibbles = (steps[:, :HALF] & 15) | ((steps[:, HALF:] & 15) << 4)
    fifth = [np.packbits(steps >> 4, axis=1, bitorder="little")] if bits == 5 else []
    return np.concatenate([head, *fifth, nibbles], axis=1)


def _unpack(blocks: Blocks, start: int, bits: int) -> Blocks:
    """Returns the integers of blocks whose scales take `start` bytes."""
    nibbles = blocks[:, -HALF:]
    steps = np.concatenate([nibbles & 15, nibbles >> 4], axis=1)
    if bits == 5:
        steps |= np.unpackbits(blocks[:, start : start + 4], axis=1, bitorder="little") << 4
    return steps


def _decode_symmetric(blocks: Blocks, bits: int) -> Numbers:
    (scale,) = _scales(blocks, 1)
    return (_unpack(blocks, 2, bits).astype(np.int8) - np.int8(1 << (bits - 1))) * scale


def _decode_affine(blocks: Blocks, bits: int) -> Numbers:
    scale, low = _scales(blocks, 2)
    return _unpack(blocks, 4, bits) * scale + low


QUANTIZED: Mapping[str, BlockType] = {
    "q4_0": BlockType(2, 2, 18, lambda x: _encode_symmetric(x, 4), lambda b: _decode_symmetric(b, 4)),
    "q4_1": BlockType(3, 3, 20, lambda x: _encode_affine(x, 4), lambda b: _decode_affine(b, 4)),
    "q5_0": BlockType(6, 8, 22, lambda x: _encode_symmetric(x, 5), lambda b: _decode_symmetric(b, 5)),
    "q5_1": BlockType(7, 9, 24, lambda x: _encode_affine(x, 5), lambda b: _decode_affine(b, 5)),
    "q8_0": BlockType(8, 7, 34, _encode_q8_0, _decode_q8_0),
}
