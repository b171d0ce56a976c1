"""The encoder for windows of any length up to 30 s, and the encoded silence behind short windows.

The weights are Hugging Face's. Its own forward refuses anything but 3000 frames, which nothing in its layers needs. A
shorter window gets the first position embeddings, as the long one would for the same frames. Query, key and value are
one product whose parts go to attention as views; residuals and the activation work in place. The numbers are the same,
bit for bit, in float32 on a CPU, and a window takes 10 % less time. Attention other than SDPA runs through Hugging
Face's own layers. A layer may be compiled (compiled_layer.py).

Whisper was trained on windows of 30 s that end in silence. Without that silence it does not recognize where speech
ends: it repeats itself or starts again. But silence is the same every time, so it is encoded once: keys and values of
every encoder layer, and the output of the last. A short window attends to them beside its own positions, and so does
the decoder. They differ from the silence behind real speech in one respect: they never attended to that speech.

Neighboring positions of silence are alike, too: one in eight is kept and counts as eight, by adding the logarithm of
that number to its attention weight before the softmax.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distil_ray.recognition.native.compiled_layer import CompiledLayer
from distil_ray.recognition.native.encoder_attention import WindowAttention, choose_window_attention
from distil_ray.recognition.native.float8 import Float8Layers, quantize
from distil_ray.recognition.native.linear import (
    Linear,
    Projection,
    fuse_linears,
    prepare_for_windows,
    row_blocks,
    runs_in_amx,
)
from distil_ray.whisper.features import FRAMES_PER_POSITION
from distil_ray.whisper.processor import Int8Products

SILENCE_SUBSAMPLING = 8  # one in so many positions of silence (20 ms each) is kept
# Log-mel value of silence, scaled as in features.py. Recordings have -1.1 to -0.5; their median was no better.
SILENCE_LOG_MEL = -0.6


@dataclass(frozen=True, slots=True)
class SilenceContext:
    """The silence behind one window.

    Attributes:
        keys: Of each encoder layer, shape (1, heads, kept, head).
        values: The same shape.
        hidden: Output of the encoder, shape (1, kept, d_model).
        mask: Added to the attention weights of the window and of the silence behind it, before the softmax; shape
            (1, 1, 1, positions of both).
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    hidden: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class EncodedSilence:
    """A full window of silence: every `SILENCE_SUBSAMPLING`-th of its `positions`. Tensors as in `SilenceContext`."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    hidden: Tensor
    positions: int

    def context_after(self, length: int) -> SilenceContext | None:
        """Returns the silence behind a window of `length` positions, or None if there is no room for any."""
        kept = num_silence_positions(length, self.positions)
        if kept == 0:
            return None
        first = self.hidden.shape[1] - kept
        mask = self.hidden.new_zeros(1, 1, 1, length + kept)
        mask[..., length:] = silence_log_weight(length, kept, self.positions)
        return SilenceContext(
            tuple(keys[:, :, first:] for keys in self.keys),
            tuple(values[:, :, first:] for values in self.values),
            self.hidden[:, first:],
            mask,
        )


def subsample_silence(states: Tensor, window_positions: int, speech_positions: int) -> tuple[Tensor, int]:
    """Subsamples the silence in a window behind its first `speech_positions`, like the silence behind the window.

    This is what an assistant attends to. `states` has the shape (rows, positions, d_model): `window_positions`
    positions of the window, then those of silence. Of the positions between the two numbers one in
    `SILENCE_SUBSAMPLING` is kept.

    Returns:
        The states, and the number of positions before the silence.
    """
    if speech_positions >= window_positions:
        return states, window_positions
    return torch.cat(
        [
            states[:, :speech_positions],
            states[:, speech_positions:window_positions:SILENCE_SUBSAMPLING],
            states[:, window_positions:],
        ],
        dim=1,
    ), speech_positions


def num_silence_positions(length: int, positions: int) -> int:
    """Returns how many positions of silence are kept of those from `length` to `positions`."""
    return -(-positions // SILENCE_SUBSAMPLING) - -(-length // SILENCE_SUBSAMPLING)


def silence_log_weight(length: int, kept: int, positions: int) -> float:
    """Returns what is added to the attention to each of `kept` positions so that they count as all from `length` on."""
    return math.log((positions - length) / kept)


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """The weights of one encoder layer."""

    self_norm: nn.LayerNorm
    self_qkv: Projection  # (3 d, d): query, key, value
    attend: WindowAttention
    self_out: Projection
    mlp_norm: nn.LayerNorm
    fc1: Projection
    fc2: Projection


class Encoder:
    """Log-mel features in, hidden states out.

    Attributes:
        compiled: The compiled layer, if windows are to run through it (`compile_layers`).
    """

    def __init__(self, module: Any, int8: Int8Products | None = None, float8: Float8Layers | None = None) -> None:
        """Takes the weights of `module`, a `WhisperForConditionalGeneration` or a `StoredModel`.

        With `int8` (linear.py) or `float8`, which takes them, the linear layers compute in 8 bits; both need SDPA.
        """
        encoder = module.model.encoder
        # Only parts of the module are kept: weights that are rearranged must not stay in memory twice.
        self._positions: Tensor = encoder.embed_positions.weight
        self._num_bins: int = encoder.conv1.weight.shape[1]
        self._runs_in_blocks = module.config._attn_implementation == "sdpa" and runs_in_amx(self._positions)
        self._convolutions = tuple((each.weight, each.bias) for each in (encoder.conv1, encoder.conv2))
        if self._runs_in_blocks:
            self._products = tuple(_as_product(*each) for each in self._convolutions)
            self._convolutions = ()
        self._norm: nn.LayerNorm = encoder.layer_norm
        self._heads: int = module.config.encoder_attention_heads
        self._silence: EncodedSilence | None = None
        is_own = module.config._attn_implementation == "sdpa"
        self._run_layer: Callable[..., Tensor] = _run_layer if is_own else _run_hugging_face_layer
        if self._runs_in_blocks:
            self._run_layer = _run_layer_in_blocks
        self._layers: list[Any] = [_prepare_layer(layer, int8, float8) if is_own else layer for layer in encoder.layers]
        self.compiled: CompiledLayer | None = None

    @property
    def has_silence(self) -> bool:
        """Silence follows every short window."""
        return self._silence is not None

    @property
    def silence(self) -> Tensor:
        """The output for a full window of silence, subsampled, shape (positions, d_model). Needs `has_silence`."""
        assert self._silence is not None, "add_silence_context was called"
        return self._silence.hidden[0]

    @torch.inference_mode()
    def add_silence_context(self) -> None:
        """Makes silence follow every window shorter than 30 s from now on. Needs SDPA."""
        positions = len(self._positions)
        kept_kv: list[tuple[Tensor, Tensor]] = []
        hidden = self._embed(self._silent_features(positions))
        for layer in self._layers:
            hidden = self._run_layer(layer, self._heads, hidden, kept_kv=kept_kv)
        keys, values = zip(*kept_kv, strict=True)
        self._silence = EncodedSilence(keys, values, self._norm(hidden)[:, ::SILENCE_SUBSAMPLING].clone(), positions)

    @torch.inference_mode()
    def compile_layers(self, backend: str | Callable[..., Any] = "inductor") -> CompiledLayer:
        """Returns the compiled layer: for full windows, and for short ones of any length if they have silence behind.

        It is in use once it is assigned to `compiled`. Needs SDPA.

        Args:
            backend: Of `torch.compile`.

        Raises:
            RuntimeError: torch is too old, this machine lacks a compiler, or torch cannot compile the layer.
        """
        compiled, positions = CompiledLayer(_run_layer, backend), len(self._positions)
        for length in (positions, positions // 3) if self._silence is not None else (positions,):
            hidden = self._embed(self._silent_features(length, rows=2))
            compiled.compile(self._layers[0], self._heads, hidden, *self._silence_of_layer(0, self._context(length)))
        return compiled

    def _silent_features(self, positions: int, rows: int = 1) -> Tensor:
        shape = (rows, self._num_bins, positions * FRAMES_PER_POSITION)
        return torch.full(shape, SILENCE_LOG_MEL, device=self._positions.device)

    def _context(self, length: int) -> SilenceContext | None:
        """Returns the silence behind a window of `length` positions, if there is any."""
        return None if self._silence is None else self._silence.context_after(length)

    @staticmethod
    def _silence_of_layer(index: int, context: SilenceContext | None) -> tuple[Tensor, ...]:
        return () if context is None else (context.keys[index], context.values[index], context.mask)

    def output_positions(self, num_frames: int) -> int:
        """Returns the positions that a window of `num_frames` frames gives, silence behind it included."""
        length = num_frames // FRAMES_PER_POSITION
        return length if self._silence is None else length + num_silence_positions(length, self._silence.positions)

    @torch.inference_mode()
    def __call__(self, features: Tensor) -> Tensor:
        """Returns hidden states, shape (rows, positions, d_model).

        `features` are float32, shape (rows, mel bins, frames), with an even number of frames, at most 3000. The window
        has half as many positions; those of silence, if any, follow.
        """
        if self._runs_in_blocks and len(features) > 1:
            return torch.cat([self(window[None]) for window in features])
        hidden = self._embed(features)
        context = self._context(hidden.shape[1])
        run = self.compiled or self._run_layer
        for index, layer in enumerate(self._layers):
            hidden = run(layer, self._heads, hidden, *self._silence_of_layer(index, context))
        hidden = self._norm(hidden)
        return hidden if context is None else torch.cat([hidden, context.hidden.expand(len(hidden), -1, -1)], dim=1)

    def _embed(self, features: Tensor) -> Tensor:
        """Returns the input of the first layer."""
        if self._runs_in_blocks:
            return self._embed_in_blocks(features)
        first, second = self._convolutions
        hidden = functional.gelu(functional.conv1d(features.to(self._positions.dtype), *first, padding=1))
        hidden = functional.gelu(functional.conv1d(hidden, *second, stride=FRAMES_PER_POSITION, padding=1))
        hidden = hidden.transpose(1, 2).contiguous()
        hidden += self._positions[: features.shape[2] // FRAMES_PER_POSITION]
        return hidden

    def _embed_in_blocks(self, features: Tensor) -> Tensor:
        """Returns what `_embed` does, for a single window, by products over three neighboring frames."""
        first, second = self._products
        num_frames, size = features.shape[2], self._positions.shape[1]
        frames = self._positions.new_zeros(num_frames + 2, self._num_bins)  # with a frame of zeros at each end
        frames[1:-1] = features[0].T
        states = self._positions.new_zeros(num_frames + 2, size)
        for part in row_blocks(num_frames):
            states[part.start + 1 : part.stop + 1] = torch.ops.aten.gelu_(first(_neighbors(frames, part, stride=1)))
        hidden = self._positions.new_empty(1, num_frames // FRAMES_PER_POSITION, size)
        for part in row_blocks(hidden.shape[1]):
            product = torch.ops.aten.gelu_(second(_neighbors(states, part, stride=FRAMES_PER_POSITION)))
            torch.add(product, self._positions[part], out=hidden[0, part])
        return hidden


def _as_product(weight: Tensor, bias: Tensor) -> Projection:
    """Returns a convolution over three frames, weight of shape (out, in, 3), as a layer of these frames."""
    return prepare_for_windows(Linear(weight.permute(0, 2, 1).flatten(1), bias))


def _neighbors(frames: Tensor, part: slice, stride: int) -> Tensor:
    """Returns three consecutive rows of `frames`, shape (rows, size), side by side, for each position of `part`.

    The shape is (positions, 3 x size). The first position has the first three rows, each further one begins `stride`
    rows later.
    """
    size = frames.shape[1]
    return frames.as_strided((part.stop - part.start, 3 * size), (stride * size, 1), part.start * stride * size)


def _run_hugging_face_layer(layer: Any, num_heads: int, hidden: Tensor) -> Tensor:
    return layer(hidden, attention_mask=None)  # type: ignore[no-any-return]


def _run_layer(
    layer: EncoderLayer,
    num_heads: int,
    hidden: Tensor,
    silent_keys: Tensor | None = None,
    silent_values: Tensor | None = None,
    mask: Tensor | None = None,
    kept_kv: list[tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """Returns the output of one layer, computed in place.

    Args:
        layer: The weights.
        num_heads: Attention heads.
        hidden: Shape (rows, positions, d_model); overwritten.
        silent_keys: Keys of the silence to attend to beside the window, shape (1, heads, kept, head).
        silent_values: Its values, the same shape.
        mask: Of window and silence (`SilenceContext.mask`).
        kept_kv: Takes the subsampled keys and values, for `EncodedSilence`.
    """
    rows, length, size = hidden.shape
    qkv = layer.self_qkv(layer.self_norm(hidden)).view(rows, length, 3, num_heads, size // num_heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    if kept_kv is not None:
        kept_kv.append((key[:, :, ::SILENCE_SUBSAMPLING].clone(), value[:, :, ::SILENCE_SUBSAMPLING].clone()))
    if silent_keys is not None and silent_values is not None:
        key = torch.cat([key, silent_keys.expand(rows, -1, -1, -1)], dim=2)
        value = torch.cat([value, silent_values.expand(rows, -1, -1, -1)], dim=2)
    mixed = layer.attend(query, key, value, mask)
    hidden += layer.self_out(mixed.transpose(1, 2).reshape(rows, length, size))
    hidden += layer.fc2(torch.ops.aten.gelu_(layer.fc1(layer.mlp_norm(hidden))))
    if hidden.dtype == torch.float16:  # against overflow, as in Hugging Face's layer
        limit = torch.finfo(torch.float16).max - 1000
        hidden.clamp_(-limit, limit)
    return hidden


def _run_layer_in_blocks(
    layer: EncoderLayer,
    num_heads: int,
    hidden: Tensor,
    silent_keys: Tensor | None = None,
    silent_values: Tensor | None = None,
    mask: Tensor | None = None,
    kept_kv: list[tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """Returns what `_run_layer` does, for a single window; everything but the attention a block of positions at a time.

    Where products take little time, passes over activations that are not in the cache take as much.
    """
    _, length, size = hidden.shape
    head_size = size // num_heads
    kept = 0 if silent_keys is None else silent_keys.shape[2]
    query = hidden.new_empty(num_heads, length, head_size)
    key, value = hidden.new_empty(2, num_heads, length + kept, head_size)
    blocks = row_blocks(length)
    for part in blocks:
        qkv = layer.self_qkv(layer.self_norm(hidden[0, part])).view(-1, 3, num_heads, head_size)
        query[:, part], key[:, part], value[:, part] = qkv.permute(1, 2, 0, 3)
    if kept_kv is not None:
        kept_kv.append((key[None, :, ::SILENCE_SUBSAMPLING].clone(), value[None, :, ::SILENCE_SUBSAMPLING].clone()))
    if silent_keys is not None and silent_values is not None:
        key[:, length:], value[:, length:] = silent_keys[0], silent_values[0]
    mixed = layer.attend(query[None], key[None], value[None], mask)
    mixed = mixed[0].transpose(0, 1).reshape(length, size)
    for part in blocks:
        rows = hidden[0, part]
        rows += layer.self_out(mixed[part])
        rows += layer.fc2(torch.ops.aten.gelu_(layer.fc1(layer.mlp_norm(rows))))
    return hidden


def _prepare_layer(layer: Any, int8: Int8Products | None, float8: Float8Layers | None) -> EncoderLayer:
    """Arranges the weights of a Hugging Face encoder layer."""

    def product(*parts: tuple[nn.Linear, float]) -> Projection:
        return quantize(fuse_linears(*parts), int8, float8)

    attention = layer.self_attn
    return EncoderLayer(
        self_norm=layer.self_attn_layer_norm,
        self_qkv=product((attention.q_proj, attention.scaling), (attention.k_proj, 1.0), (attention.v_proj, 1.0)),
        attend=choose_window_attention(attention.out_proj.weight, int8),
        self_out=product((attention.out_proj, 1.0)),
        mlp_norm=layer.final_layer_norm,
        fc1=product((layer.fc1, 1.0)),
        fc2=product((layer.fc2, 1.0)),
    )
