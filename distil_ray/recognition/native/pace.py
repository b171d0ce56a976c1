"""How a device likes its work: what is encoded together, how often the host looks, in which shapes passes come.

A CPU is asked for exactly what is needed, as every row costs. A GPU works while the host does something else, so that
it gets its work in large pieces, ahead of time, and in a few shapes that can be recorded (graphs.py): a pass over some
rows more than are held takes no longer. Numbers only; which of them are measured says docs/gpu.md.
"""

from dataclasses import dataclass

import torch

TEXT_STEP = 64  # positions of text, and
WINDOW_STEP = 256  # encoder positions, in whose multiples recorded passes come where they are not read by length
LEAST_ROWS = 8


@dataclass(frozen=True, slots=True)
class Shape:
    """All that a pass over the rows takes from the host; a recorded one is good for another of the same shape.

    ``text`` and ``window`` bound what any row holds, the positions to come included; ``is_ragged``: some window is
    shorter than 30 s; ``prompt``: ids in every prompt; ``is_sampled``: a temperature chooses some of the tokens.
    """

    rows: int
    text: int
    window: int
    is_ragged: bool
    prompt: int
    is_sampled: bool

    def padded(self, most: "Shape", reads_by_length: bool) -> "Shape":
        """The smallest of the few shapes that this one fits into; none is larger than `most`.

        `reads_by_length`: attention reads each row's own positions, whatever the shape says.
        """
        return Shape(
            rows=min(_whole_rows(self.rows), most.rows),
            text=most.text if reads_by_length else min(_whole(self.text, TEXT_STEP), most.text),
            window=most.window if reads_by_length else min(_whole(self.window, WINDOW_STEP), most.window),
            is_ragged=True,  # the cache has more positions than a full window
            prompt=self.prompt,
            is_sampled=self.is_sampled,
        )


@dataclass(frozen=True, slots=True)
class Pace:
    """``encode_positions`` of windows of one length are encoded together, one window at least; ``passes_unseen`` go by
    between two looks of the host, and as many may be wasted on a row that has ended; ``is_ahead``: the device works on
    while the host prepares what comes next.
    """

    encode_positions: int
    passes_unseen: int
    is_ahead: bool


CPU = Pace(encode_positions=1, passes_unseen=1, is_ahead=False)  # more windows only spill out of the caches
GPU = Pace(encode_positions=51_200, passes_unseen=8, is_ahead=True)  # 34 full windows, 64 of 16 s


def pace_of(device: torch.device) -> Pace:
    return CPU if device.type == "cpu" else GPU


def _whole(number: int, step: int) -> int:
    return -(-number // step) * step


def _whole_rows(rows: int) -> int:
    """A power of two or one and a half of one: at most a third of the rows are padding."""
    power = max(LEAST_ROWS, 1 << (rows - 1).bit_length())
    return power * 3 // 4 if rows <= power * 3 // 4 and power > LEAST_ROWS else power
