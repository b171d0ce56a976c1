"""What a chunk costs at the least: operations of its encoder, bytes that its tokens read; and so its shortest time.

Counted from the shapes, a multiplication and an addition as two operations. The encoder and what is made of its states
for the decoder are limited by the matrix rate; a decoder's steps by memory, from which each reads all weights once and
every row's keys and values. What is left out (norms, activations, rules, log-mel) makes the limit lower than it is.
"""

from dataclasses import dataclass

from benchmarks.gpu.shapes import ModelShape

PROMPT = 4  # ids before a text


@dataclass(frozen=True, slots=True)
class Work:
    """Of a number of chunks: ``operations`` of encoder and prompts, ``step_bytes`` read by the decoder's steps."""

    operations: float
    step_bytes: float

    def shortest_s(self, operations_per_s: float, bytes_per_s: float) -> float:
        """Seconds that a device of these two rates needs at least."""
        return self.operations / operations_per_s + self.step_bytes / bytes_per_s


@dataclass(frozen=True, slots=True)
class Workload:
    """``chunks`` with windows of ``positions`` (20 ms) and ``silent`` ones behind them, of ``tokens`` each.

    ``rows`` are decoded together, in numbers of ``number_bytes``.
    """

    chunks: int
    positions: int
    silent: int
    tokens: int
    rows: int
    number_bytes: int


def minimum_work(shape: ModelShape, load: Workload) -> Work:
    """The least work for a load."""
    heard = load.positions + load.silent
    operations = encoder_operations(shape, load.positions, load.silent)
    operations += load.positions * 4 * shape.d_model**2 * shape.decoder_layers  # keys and values of cross-attention
    operations += PROMPT * decoder_operations(shape, heard, PROMPT)
    passes = load.tokens * -(-load.chunks // load.rows)
    own = 2 * shape.d_model * shape.decoder_layers  # numbers of keys and values at one position
    read = float(passes * decoder_weights(shape))
    read += load.chunks * load.tokens * own * (heard + PROMPT + load.tokens / 2)
    return Work(load.chunks * operations, read * load.number_bytes)


def encoder_operations(shape: ModelShape, positions: int, silent: int = 0) -> float:
    """Of one window: two convolutions, and in each layer twelve squares of the width and attention."""
    width = shape.d_model
    convolutions = 2 * 3 * width * (2 * positions * shape.num_mel_bins + positions * width)
    layer = positions * 2 * 12 * width**2 + 4 * positions * (positions + silent) * width
    return convolutions + shape.encoder_layers * layer


def decoder_operations(shape: ModelShape, heard: int, text: int) -> float:
    """Of one token, the vocabulary left out."""
    width = shape.d_model
    return shape.decoder_layers * (2 * 14 * width**2 + 4 * (heard + text) * width)


def decoder_weights(shape: ModelShape) -> int:
    """Numbers that a step reads: fourteen squares of the width a layer, and the vocabulary."""
    return 14 * shape.d_model**2 * shape.decoder_layers + shape.vocab_size * shape.d_model
