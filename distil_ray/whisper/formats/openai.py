"""openai-whisper's checkpoints: a file of `torch.save` with the model's dimensions and tensors under OpenAI's names.

``whisper-base.pt``, and the ``original-model.bin`` of Distil-Whisper. The file is read with ``weights_only=True``:
torch then accepts tensors and plain containers and refuses a pickle that names anything to call. It holds neither
tokenizer nor decoding rules.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distil_ray.whisper.formats.tensors import FLOAT32, Checkpoint, Sizes, Tensor, expected_shapes
from distil_ray.whisper.formats.torch_files import load_torch_file, torch_tensors
from distil_ray.whisper.weights_cache import WeightsError

DIMS, STATE = "dims", "model_state_dict"  # keys of the file

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


def from_openai_names(source: str, sizes: Sizes, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors under Hugging Face's names. A name that the sizes do not require stays as it is.

    Raises:
        WeightsError: There are fewer tensors than layers.
    """
    if sizes.encoder_layers + sizes.decoder_layers > len(tensors):
        raise WeightsError(f"{source}: {len(tensors)} tensors are too few for the layers of its sizes")
    names = {rename(name): name for name in expected_shapes(sizes)}
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint of openai-whisper.

    Raises:
        WeightsError: It is none, it is damaged, or its pickle holds more than tensors and plain containers.
    """
    content = load_torch_file(path)
    source = path.name
    if not isinstance(content, dict) or not {DIMS, STATE} <= content.keys():
        raise WeightsError(f"{source}: is no checkpoint of openai-whisper: it has no {DIMS} and {STATE}")
    if not isinstance(content[DIMS], dict) or not isinstance(content[STATE], dict):
        raise WeightsError(f"{source}: {DIMS} and {STATE} must be dictionaries")
    sizes = Sizes.from_dimensions(source, content[DIMS])
    return Checkpoint(source, sizes, from_openai_names(source, sizes, torch_tensors(source, content[STATE])))


def write(checkpoint: Checkpoint, path: Path, dtype: str = FLOAT32) -> None:
    """Writes a checkpoint for openai-whisper.

    Args:
        checkpoint: The checkpoint.
        path: The file.
        dtype: float32 or float16.
    """
    import torch

    state: dict[str, Any] = {}
    for name, tensor in checkpoint.tensors.items():
        # A copy, as torch cannot take arrays that are mapped read-only.
        state[rename(name)] = torch.from_numpy(tensor.load().astype(dtype))
    torch.save({DIMS: checkpoint.sizes.dimensions, STATE: state}, path)
