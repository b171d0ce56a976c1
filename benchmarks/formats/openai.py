"""Writes a checkpoint for openai-whisper: a torch file of sizes and tensors, under OpenAI's names, in float32."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.formats.hugging_face import Checkpoint

# Hugging Face's name -> OpenAI's; the order matters, since some are parts of others.
_RENAMED = (
    ("model.", ""),
    (".layers.", ".blocks."),
    (".fc1.", ".mlp.0."),
    (".fc2.", ".mlp.2."),
    (".final_layer_norm.", ".mlp_ln."),
    (".self_attn_layer_norm.", ".attn_ln."),
    (".encoder_attn_layer_norm.", ".cross_attn_ln."),
    (".self_attn.", ".attn."),
    (".encoder_attn.", ".cross_attn."),
    (".q_proj.", ".query."),
    (".k_proj.", ".key."),
    (".v_proj.", ".value."),
    (".out_proj.", ".out."),
    ("encoder.layer_norm.", "encoder.ln_post."),
    ("decoder.layer_norm.", "decoder.ln."),
    ("embed_positions.weight", "positional_embedding"),
    ("embed_tokens.", "token_embedding."),
)


def rename(name: str) -> str:
    """Returns the OpenAI name: model.decoder.layers.0.self_attn.q_proj.weight -> decoder.blocks.0.attn.query.weight."""
    for theirs, openai in _RENAMED:
        name = name.replace(theirs, openai)
    return name


def dimensions(config: dict[str, Any]) -> dict[str, int]:
    """Returns OpenAI's model dimensions, in the order that ggml's header uses too."""
    return {
        "n_vocab": config["vocab_size"],
        "n_audio_ctx": config["max_source_positions"],
        "n_audio_state": config["d_model"],
        "n_audio_head": config["encoder_attention_heads"],
        "n_audio_layer": config["encoder_layers"],
        "n_text_ctx": config["max_target_positions"],
        "n_text_state": config["d_model"],
        "n_text_head": config["decoder_attention_heads"],
        "n_text_layer": config["decoder_layers"],
        "n_mels": config["num_mel_bins"],
    }


def write(checkpoint: Checkpoint, path: Path) -> None:
    import torch

    state = {rename(name): torch.from_numpy(array.astype(np.float32)) for name, array in checkpoint.weights().items()}
    torch.save({"dims": dimensions(checkpoint.config), "model_state_dict": state}, path)
