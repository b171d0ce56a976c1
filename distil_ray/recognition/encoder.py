"""The encoder, for windows of any length up to 30 s: Hugging Face's modules, walked through by hand.

Hugging Face's own forward refuses anything but 3000 frames; nothing in its layers needs them. A shorter window takes
the first position embeddings, as the long one would for the same frames. Number type and attention are the module's.
"""

import torch
from torch import Tensor
from torch.nn import functional
from transformers import WhisperForConditionalGeneration

from distil_ray.whisper.features import FRAMES_PER_POSITION


class Encoder:
    """What the checkpoint hears: features in, hidden states out."""

    def __init__(self, module: WhisperForConditionalGeneration) -> None:
        self._encoder = module.model.encoder
        self._dtype = self._encoder.conv1.weight.dtype

    @torch.inference_mode()
    def __call__(self, features: Tensor) -> Tensor:
        """Hidden states, shape (rows, frames / 2, d_model), of float32 features, shape (rows, mel bins, frames).

        `frames` is even and at most 3000.
        """
        encoder = self._encoder
        hidden = functional.gelu(encoder.conv1(features.to(self._dtype)))
        hidden = functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[: features.shape[2] // FRAMES_PER_POSITION]
        for layer in encoder.layers:
            hidden = layer(hidden, None)
        return encoder.layer_norm(hidden)  # type: ignore[no-any-return]
