"""Damage done to files at random, and the same damage for the same seed: what disks, networks and attackers do."""

from collections.abc import Callable, Sequence

import numpy as np

HEADER_BYTES = 512  # where containers keep their sizes, rates and counts
LARGEST_PIECE = 4096  # bytes inserted, removed or repeated at once

# What breaks size fields: zero, one, the largest of 8, 16, 31 and 32 bits, and their neighbors.
VALUES = [0, 1, 0x7F, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF]

Mutation = Callable[[bytearray, np.random.Generator, Sequence[bytes]], None]


def mutate(data: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """One to four kinds of damage, one after the other; `others` are whole files that pieces are taken from."""
    damaged = bytearray(data)
    for number in rng.integers(len(MUTATIONS), size=rng.integers(1, 5)):
        MUTATIONS[number](damaged, rng, others)
    return bytes(damaged)


def _flip_bits(data: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    for _bit in range(int(2 ** rng.integers(0, 8))):
        if data:
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))


def _truncate(data: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    del data[int(rng.integers(len(data) + 1)) :]


def _overwrite_header_field(data: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    size = int(rng.choice([1, 2, 4, 8]))
    value = VALUES[int(rng.integers(len(VALUES)))] & ((1 << 8 * size) - 1)
    place = int(rng.integers(max(min(len(data), HEADER_BYTES) - size, 0) + 1))
    data[place : place + size] = value.to_bytes(size, "big" if rng.integers(2) else "little")


def _insert_noise(data: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    place = int(rng.integers(len(data) + 1))
    data[place:place] = rng.bytes(int(rng.integers(1, LARGEST_PIECE)))


def _insert_zeros(data: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    place = int(rng.integers(len(data) + 1))
    data[place:place] = bytes(int(rng.integers(1, LARGEST_PIECE)))


def _remove(data: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    place = int(rng.integers(len(data) + 1))
    del data[place : place + int(rng.integers(1, LARGEST_PIECE))]


def _repeat(data: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    place = int(rng.integers(len(data) + 1))
    piece = data[place : place + int(rng.integers(1, LARGEST_PIECE))]
    data[place:place] = piece * int(rng.integers(1, 4))


def _splice(data: bytearray, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    other = others[int(rng.integers(len(others)))]
    place = int(rng.integers(len(data) + 1))
    data[place:] = other[int(rng.integers(len(other))) :]


MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits,
    _truncate,
    _overwrite_header_field,
    _insert_noise,
    _insert_zeros,
    _remove,
    _repeat,
    _splice,
)
