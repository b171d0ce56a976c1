"""The least work of a chunk, and so its shortest time: operations of the encoder, bytes read per token.

Counted from the shapes; a multiplication and an addition are two operations. The encoder and the cross-attention keys
and values are limited by the matrix rate. Decoder steps are limited by memory: each reads all weights once, and the
keys and values of every row. Norms, activations, logits rules and log-mel are left out, so the real limit is a little
lower.
"""

from dataclasses import dataclass

from benchmarks.gpu.shapes import ModelShape

PROMPT = 4  # ids before a text


@dataclass(frozen=True, slots=True)
class Work:
    """Work of a number of chunks.

    Attributes:
        operations: Operations of encoder and prompts.
        step_bytes: Bytes read by the decoder steps.
    """

    operations: float
    step_bytes: float

    def shortest_s(self, operations_per_s: float, bytes_per_s: float) -> float:
        """Returns the least seconds on a device of these two rates."""
        return self.operations / operations_per_s + self.step_bytes / bytes_per_s


@dataclass(frozen=True, slots=True)
class Workload:
    """Chunks to transcribe.

    Attributes:
        chunks: Number of chunks.
        positions: Encoder positions (20 ms) of a window.
        silent: Positions of silence context after each window.
        tokens: Tokens per chunk.
        rows: Chunks decoded together.
        number_bytes: Bytes per number.
    """

    chunks: int
    positions: int
    silent: int
    tokens: int
    rows: int
    number_bytes: int


def minimum_work(shape: ModelShape, load: Workload) -> Work:
    """Returns the least work of a workload."""
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
    """Returns the operations of one window: two convolutions, and in each layer 12 d_model² and attention."""
    width = shape.d_model
    convolutions = 2 * 3 * width * (2 * positions * shape.num_mel_bins + positions * width)
    layer = positions * 2 * 12 * width**2 + 4 * positions * (positions + silent) * width
    return convolutions + shape.encoder_layers * layer


def decoder_operations(shape: ModelShape, heard: int, text: int) -> float:
    """Returns the operations of one token, without the vocabulary."""
    width = shape.d_model
    return shape.decoder_layers * (2 * 14 * width**2 + 4 * (heard + text) * width)


def decoder_weights(shape: ModelShape) -> int:
    """Returns the numbers that a step reads: 14 d_model² per layer, and the vocabulary."""
    return 14 * shape.d_model**2 * shape.decoder_layers + shape.vocab_size * shape.d_model
