"""The encoder, for windows of any length up to 30 s: Hugging Face's weights, without its copies.

Hugging Face's own forward refuses anything but 3000 frames; nothing in its layers needs them. A shorter window takes
the first position embeddings, as the long one would for the same frames, and may be followed by silence that was
encoded once for all (silence.py). Query, key and value are one product whose
parts go to attention as views; residuals and the activation work in place. The numbers are the same, bit for bit, in
float32 on a CPU, and a window takes 10 % less. Other attention than SDPA runs through Hugging Face's own layers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import WhisperForConditionalGeneration

from distil_ray.recognition.native.linear import Int8Linear, Projection, fuse_linears
from distil_ray.whisper.features import FRAMES_PER_POSITION

SILENCE_SUBSAMPLING = 8  # positions of silence (20 ms each) that one which is kept stands for
# Log-mel value of padding, as features.py scales it. Recordings have -1.1 to -0.5; their median did no better.
SILENCE_LOG_MEL = -0.6


@dataclass(frozen=True, slots=True)
class SilenceContext:
    """The silence behind a window.

    ``keys`` and ``values``: one of each encoder layer, shape (1, heads, kept, head); ``hidden``: the encoder's output,
    shape (1, kept, d_model); ``log_weight`` is added to attention to each of them.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    hidden: Tensor
    log_weight: float

    def append_to(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
class EncodedSilence:
    """A full window of silence, every `STEP`-th of its `positions`; tensors as in `Rest`."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    hidden: Tensor
    positions: int

    def context_after(self, length: int) -> SilenceContext | None:
        """The silence behind a window of `length` positions; None where there is no room for any."""
        kept = num_silence_positions(length, self.positions)
        if kept == 0:
            return None
        first = self.hidden.shape[1] - kept
        return SilenceContext(
            tuple(keys[:, :, first:] for keys in self.keys),
            tuple(values[:, :, first:] for values in self.values),
            self.hidden[:, first:],
            silence_log_weight(length, kept, self.positions),
        )


def subsample_silence(states: Tensor, own: int, spoken: int) -> tuple[Tensor, int]:
    """What an assistant hears: the silence in a window behind its first `spoken` positions like that behind the window.

    `states`, shape (rows, positions, d_model): `own` positions of the window, then those of silence. Of positions
    `spoken` to `own` one in `STEP` stays; gives the states and how many of them are the window's own.
    """
    if spoken >= own:
        return states, own
    return torch.cat([states[:, :spoken], states[:, spoken:own:SILENCE_SUBSAMPLING], states[:, own:]], dim=1), spoken


def num_silence_positions(length: int, positions: int) -> int:
    """Positions of silence that are kept of those from `length` to `positions`."""
    return -(-positions // SILENCE_SUBSAMPLING) - -(-length // SILENCE_SUBSAMPLING)


def silence_log_weight(length: int, kept: int, positions: int) -> float:
    """What the attention to each of `kept` positions is raised by, to count as all from `length` to `positions`."""
    return math.log((positions - length) / kept)


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """One encoder layer's weights."""

    self_norm: nn.LayerNorm
    self_qkv: Projection  # (3 d, d): query, key, value
    self_out: Projection
    mlp_norm: nn.LayerNorm
    fc1: Projection
    fc2: Projection


class Encoder:
    """What the checkpoint hears: features in, hidden states out."""

    def __init__(self, module: WhisperForConditionalGeneration, is_int8: bool = False) -> None:
        """`is_int8`: linear layers in 8-bit products (int8.py); needs SDPA."""
        encoder = module.model.encoder
        # Parts, not the whole: what is arranged anew shall not stay in memory twice.
        self._convolutions: tuple[nn.Conv1d, nn.Conv1d] = (encoder.conv1, encoder.conv2)
        self._positions: Tensor = encoder.embed_positions.weight
        self._norm: nn.LayerNorm = encoder.layer_norm
        heads: int = module.config.encoder_attention_heads
        self._silence: EncodedSilence | None = None
        self._layers: list[Callable[..., Tensor]]
        if module.config._attn_implementation == "sdpa":
            self._layers = [partial(_run_layer, _prepare_layer(layer, is_int8), heads) for layer in encoder.layers]
        else:
            self._layers = [partial(layer, attention_mask=None) for layer in encoder.layers]

    @torch.inference_mode()
    def add_silence_context(self) -> None:
        """From here on windows shorter than 30 s are followed by silence; needs SDPA."""
        positions = len(self._positions)
        bins = self._convolutions[0].in_channels
        silence = torch.full((1, bins, positions * FRAMES_PER_POSITION), SILENCE_LOG_MEL, device=self._positions.device)
        seen: list[tuple[Tensor, Tensor]] = []
        hidden = self._embed(silence)
        for layer in self._layers:
            hidden = layer(hidden, seen=seen)
        keys, values = zip(*seen, strict=True)
        self._silence = EncodedSilence(keys, values, self._norm(hidden)[:, ::SILENCE_SUBSAMPLING].clone(), positions)

    def output_positions(self, num_frames: int) -> int:
        """Positions that come out for a window of `num_frames`, those of silence behind it included."""
        length = num_frames // FRAMES_PER_POSITION
        return length if self._silence is None else length + num_silence_positions(length, self._silence.positions)

    @torch.inference_mode()
    def __call__(self, features: Tensor) -> Tensor:
        """Hidden states, shape (rows, positions, d_model), of float32 features, shape (rows, mel bins, frames).

        `frames` is even and at most 3000. Positions are half as many; behind them come those of silence, if any.
        """
        hidden = self._embed(features)
        context = None if self._silence is None else self._silence.context_after(hidden.shape[1])
        if context is None:
            for layer in self._layers:
                hidden = layer(hidden)
            return self._norm(hidden)  # type: ignore[no-any-return]
        for index, layer in enumerate(self._layers):
            hidden = layer(hidden, (index, context))
        return torch.cat([self._norm(hidden), context.hidden.expand(len(hidden), -1, -1)], dim=1)

    def _embed(self, features: Tensor) -> Tensor:
        """What the first layer gets."""
        first, second = self._convolutions
        hidden = functional.gelu(first(features.to(self._positions.dtype)))
        hidden = functional.gelu(second(hidden)).transpose(1, 2).contiguous()
        hidden += self._positions[: features.shape[2] // FRAMES_PER_POSITION]
        return hidden


def _run_layer(
    layer: EncoderLayer,
    num_heads: int,
    hidden: Tensor,
    silence: tuple[int, SilenceContext] | None = None,
    seen: list[tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """One layer, in place; `silence`: the layer's number and what to attend to beside the window.

    `seen` takes the keys and values that `Silence` keeps.
    """
    rows, length, size = hidden.shape
    qkv = layer.self_qkv(layer.self_norm(hidden)).view(rows, length, 3, num_heads, size // num_heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    if seen is not None:
        seen.append((key[:, :, ::SILENCE_SUBSAMPLING].clone(), value[:, :, ::SILENCE_SUBSAMPLING].clone()))
    mask = None
    if silence is not None:
        number, context = silence
        key, value, mask = context.append_to(number, key, value)
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
    hidden += layer.self_out(mixed.transpose(1, 2).reshape(rows, length, size))
    hidden += layer.fc2(torch.ops.aten.gelu_(layer.fc1(layer.mlp_norm(hidden))))
    if hidden.dtype == torch.float16:  # as Hugging Face's layer does, against overflow
        limit = torch.finfo(torch.float16).max - 1000
        hidden.clamp_(-limit, limit)
    return hidden


def _prepare_layer(layer: Any, is_int8: bool) -> EncoderLayer:
    def product(*parts: tuple[nn.Linear, float]) -> Projection:
        return Int8Linear(fuse_linears(*parts)) if is_int8 else fuse_linears(*parts)

    attention = layer.self_attn
    return EncoderLayer(
        self_norm=layer.self_attn_layer_norm,
        self_qkv=product((attention.q_proj, attention.scaling), (attention.k_proj, 1.0), (attention.v_proj, 1.0)),
        self_out=product((attention.out_proj, 1.0)),
        mlp_norm=layer.final_layer_norm,
        fc1=product((layer.fc1, 1.0)),
        fc2=product((layer.fc2, 1.0)),
    )
