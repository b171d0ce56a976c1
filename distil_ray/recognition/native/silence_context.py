"""What the encoder makes of silence, so that a short window is heard as the beginning of a long one.

Whisper was trained on windows of 30 s, whose rest is silence. Without that rest it does not know where speech ends: it
repeats itself, or begins anew. But silence sounds alike every time, so it is encoded once: keys and values of every
encoder layer, and what comes out of the last. A short window attends to them beside its own, and so does the decoder.
They differ from those of a real rest in one thing, that they never heard the speech before them.

Neighbors in silence are alike too: one position in eight is kept and counts as eight, by the logarithm of their
number added to its weight before the softmax. It knows no speech, and no checkpoint but by the numbers given to it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

STEP = 8  # positions of silence (20 ms each) that one which is kept stands for
# Log-mel value of padding, as features.py scales it. Recordings have -1.1 to -0.5; their median did no better.
LEVEL = -0.6


@dataclass(frozen=True, slots=True)
class Rest:
    """The silence behind a window.

    ``keys`` and ``values``: one of each encoder layer, shape (1, heads, kept, head); ``hidden``: the encoder's output,
    shape (1, kept, d_model); ``log_weight`` is added to attention to each of them.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    hidden: Tensor
    log_weight: float

    def joined(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A window's keys and values, shape (rows, heads, positions, head), with those of silence, and a mask.

        The mask, of shape (1, 1, 1, positions), holds what is added before the softmax.
        """
        rows, _, length, _ = keys.shape
        silent_keys, silent_values = self.keys[layer], self.values[layer]
        mask = keys.new_zeros(1, 1, 1, length + silent_keys.shape[2])
        mask[..., length:] = self.log_weight
        return (
            torch.cat([keys, silent_keys.expand(rows, -1, -1, -1)], dim=2),
            torch.cat([values, silent_values.expand(rows, -1, -1, -1)], dim=2),
            mask,
        )


@dataclass(frozen=True, slots=True)
class Silence:
    """A full window of silence, every `STEP`-th of its `positions`; tensors as in `Rest`."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    hidden: Tensor
    positions: int

    def after(self, length: int) -> Rest | None:
        """The silence behind a window of `length` positions; None where there is no room for any."""
        kept = num_kept(length, self.positions)
        if kept == 0:
            return None
        first = self.hidden.shape[1] - kept
        return Rest(
            tuple(keys[:, :, first:] for keys in self.keys),
            tuple(values[:, :, first:] for values in self.values),
            self.hidden[:, first:],
            log_weight(length, kept, self.positions),
        )


def thinned(states: Tensor, own: int, spoken: int) -> tuple[Tensor, int]:
    """What an assistant hears: the silence in a window behind its first `spoken` positions like that behind the window.

    `states`, shape (rows, positions, d_model): `own` positions of the window, then those of silence. Of positions
    `spoken` to `own` one in `STEP` stays; gives the states and how many of them are the window's own.
    """
    if spoken >= own:
        return states, own
    return torch.cat([states[:, :spoken], states[:, spoken:own:STEP], states[:, own:]], dim=1), spoken


def num_kept(length: int, positions: int) -> int:
    """Positions of silence that are kept of those from `length` to `positions`."""
    return -(-positions // STEP) - -(-length // STEP)


def log_weight(length: int, kept: int, positions: int) -> float:
    """What the attention to each of `kept` positions is raised by, to count as all from `length` to `positions`."""
    return math.log((positions - length) / kept)
