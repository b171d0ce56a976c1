"""A checkpoint for tests of the decoding loop that need no real weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import WhisperConfig, WhisperForConditionalGeneration

from tests.whisper.small import small_config, write_small_folder

SIZES: dict[str, Any] = {
    "d_model": 64,
    "encoder_attention_heads": 1,
    "decoder_attention_heads": 1,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 256,
    "decoder_start_token_id": 257,
}


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of random weights, large enough for attention to change the tokens."""
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**small_config(**SIZES)))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1 and "embed" not in name:
                weights.mul_(8)
    folder = write_small_folder(tmp_path_factory.mktemp("checkpoint") / "small", **SIZES)
    save_file(model.state_dict() | {"proj_out.weight": model.proj_out.weight.clone()}, folder / "model.safetensors")
    return folder
