"""Training examples on disk, and batches of examples with similar lengths, for corpora larger than memory.

A shard is a file with the examples of one table of audio, as plain arrays. Shards are read in a new random order in
each epoch. `POOL_AUDIO_S` seconds of audio are in memory at once; their examples are sorted by length and cut into
batches of about equal audio, which are shuffled. Batches therefore contain little padding and differ from epoch to
epoch.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distil_ray.assistant_training.teacher import Example

POOL_AUDIO_S = 1200.0  # seconds of audio in memory: 0.25 to 0.5 GB for large checkpoints
_ARRAY_FIELDS = ("states", "top_ids", "top_probs", "prompt", "tokens")
_SCALAR_FIELDS = ("window_positions", "silence_bias")
COMPLETE = "complete"  # marker file in a folder of shards


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded examples.

    Attributes:
        ids: Prompts and tokens, int64, shape (rows, P).
        states: Encoder states, float16, shape (rows, T, d_model).
        mask: Added to the cross-attention scores, float32, shape (rows, T).
        loss_indices: Positions that the loss is computed at, int64 indices into the flattened (rows * P).
        target: The next id at each of these positions, int64, shape (num_positions,).
        top_ids: The teacher's most probable ids at each of them, int64, shape (num_positions, k).
        top_probs: Their probabilities, float32, shape (num_positions, k).
        audio_s: Seconds of audio.
    """

    ids: Tensor
    states: Tensor
    mask: Tensor
    loss_indices: Tensor
    target: Tensor
    top_ids: Tensor
    top_probs: Tensor
    audio_s: float

    def to(self, device: torch.device, dtype: torch.dtype) -> "Batch":
        moved = {name: getattr(self, name).to(device) for name in self.__slots__ if name != "audio_s"}
        return replace(self, **moved | {"states": moved["states"].to(dtype)})


def collate(examples: Sequence[Example], eot: int) -> Batch:
    """Returns a batch of these examples, padded with `eot`."""
    rows, longest = len(examples), max(len(one.states) for one in examples)
    texts = [(*one.prompt, *one.tokens) for one in examples]
    width = max(map(len, texts))
    ids = np.full((rows, width), eot, np.int64)
    states = np.zeros((rows, longest, examples[0].states.shape[1]), np.float16)
    mask = np.full((rows, longest), -np.inf, np.float32)
    for row, (one, text) in enumerate(zip(examples, texts, strict=True)):
        ids[row, : len(text)] = text
        states[row, : len(one.states)] = one.states
        mask[row, : one.window_positions] = 0.0
        mask[row, one.window_positions : len(one.states)] = one.silence_bias
    indices = [
        row * width + np.arange(len(one.prompt) - 1, len(text))
        for row, (one, text) in enumerate(zip(examples, texts, strict=True))
    ]
    return Batch(
        ids=torch.from_numpy(ids),
        states=torch.from_numpy(states),
        mask=torch.from_numpy(mask),
        loss_indices=torch.from_numpy(np.concatenate(indices)),
        target=torch.from_numpy(np.concatenate([(*one.tokens, eot) for one in examples]).astype(np.int64)),
        top_ids=torch.from_numpy(np.concatenate([one.top_ids for one in examples]).astype(np.int64)),
        top_probs=torch.from_numpy(np.concatenate([one.top_probs for one in examples]).astype(np.float32)),
        audio_s=sum(one.audio_s for one in examples),
    )


def write_shard(examples: Sequence[Example], path: Path) -> None:
    """Writes a file of examples; it appears when it is complete."""
    arrays: dict[str, Any] = {name: [getattr(one, name) for one in examples] for name in _SCALAR_FIELDS}
    for name in _ARRAY_FIELDS:
        arrays[name] = np.concatenate([getattr(one, name) for one in examples])
        arrays[f"num_{name}"] = [len(getattr(one, name)) for one in examples]
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.replace(path)


def read_shard(path: Path) -> list[Example]:
    """Returns the examples that `write_shard` wrote."""
    with np.load(path) as arrays:
        columns = {name: arrays[name].tolist() for name in _SCALAR_FIELDS}
        for name in _ARRAY_FIELDS:
            bounds = pairwise(accumulate(arrays[f"num_{name}"].tolist(), initial=0))
            flat = arrays[name]
            columns[name] = [flat[begin:end] for begin, end in bounds]
    for name in ("prompt", "tokens"):
        columns[name] = [tuple(ids.tolist()) for ids in columns[name]]
    return [Example(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]


class Shards:
    """A folder of shards on the disk of this node. It is complete when the examples of the whole corpus are in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def is_complete(self) -> bool:
        return (self.folder / COMPLETE).exists()

    def fill(self, portions: Iterator[list[Example]]) -> None:
        """Writes a shard for each portion, after deleting the files of an earlier attempt."""
        for old in self.folder.iterdir():
            old.unlink()
        for number, examples in enumerate(portions):
            if examples:
                write_shard(examples, self.folder / f"{number:06d}.npz")
        (self.folder / COMPLETE).touch()

    def read(self, generator: np.random.Generator | None = None) -> Iterator[list[Example]]:
        """Yields the examples of each shard, in random order if there is a generator."""
        paths = sorted(self.folder.glob("*.npz"))
        order = range(len(paths)) if generator is None else generator.permutation(len(paths))
        return (read_shard(paths[number]) for number in order)

    def delete(self) -> None:
        """Removes the folder, and its parent if no other process has a folder there."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # not empty
            self.folder.parent.rmdir()


def iter_batches_forever(
    portions: Callable[[np.random.Generator], Iterator[list[Example]]], batch_s: float, seed: Sequence[int], eot: int
) -> Iterator[Batch]:
    """Yields batches of about `batch_s` seconds of audio, epoch after epoch.

    Args:
        portions: Returns the examples of one epoch, in portions.
        batch_s: Seconds of audio in a batch; a longer example is a batch of its own.
        seed: Numbers that determine all random orders.
        eot: Id of the end token, for padding.
    """
    generator = np.random.default_rng(seed)
    while True:
        pool: list[Example] = []
        for portion in portions(generator):
            pool += portion
            if sum(one.audio_s for one in pool) >= POOL_AUDIO_S:
                yield from _iter_pool_batches(pool, batch_s, generator, eot)
                pool = []
        if pool:
            yield from _iter_pool_batches(pool, batch_s, generator, eot)


def _iter_pool_batches(
    pool: list[Example], batch_s: float, generator: np.random.Generator, eot: int
) -> Iterator[Batch]:
    pool = [pool[number] for number in generator.permutation(len(pool))]
    pool.sort(key=lambda one: one.window_positions)
    batches: list[list[Example]] = [[]]
    filled_s = 0.0
    for one in pool:
        if batches[-1] and filled_s + one.audio_s > batch_s:
            batches.append([])
            filled_s = 0.0
        batches[-1].append(one)
        filled_s += one.audio_s
    for number in generator.permutation(len(batches)):
        yield collate(batches[number], eot)
