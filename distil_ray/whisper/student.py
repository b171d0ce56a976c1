"""Student checkpoints: a Whisper checkpoint with fewer decoder layers, as the Distil-Whisper recipe begins.

The student keeps the teacher's encoder, embeddings and positions, and evenly spaced decoder layers, including the first
and the last. Config and generation config are adapted: alignment heads of kept layers get the new layer numbers, the
others are removed, and so is an empty list (word timestamps would read layers that do not exist). Tensors are copied
one by one and keep their dtype.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from distil_ray.whisper.companion_files import add_companion_files
from distil_ray.whisper.formats.model_files import write_json
from distil_ray.whisper.formats.tensors import full_name
from distil_ray.whisper.model_folders import SHARD_INDEX, WEIGHTS, list_safetensors

RANDOM_STD = 0.02  # standard deviation of randomly initialized weights, as in the training of Whisper

_DECODER_LAYER = re.compile(r"(model\.decoder\.layers\.)(\d+)(\..+)")


def evenly_spaced_layers(layers: int, kept: int) -> list[int]:
    """Returns the numbers of `kept` out of `layers` layers, evenly spaced, including the first and the last.

    Raises:
        ValueError: `kept` is less than 2 or more than `layers`.
    """
    if not 2 <= kept <= layers:
        raise ValueError(f"{kept} decoder layers cannot be kept out of {layers}; must be 2 to {layers}")
    return [round(index * (layers - 1) / (kept - 1)) for index in range(kept)]


def create_student(
    teacher: Path, folder: Path, kept: int, seed: int | None = None, trained: Mapping[str, Tensor] | None = None
) -> list[int]:
    """Writes a student of a local model folder, with all files that transformers and Distil-Whisper's trainer read.

    Args:
        teacher: The local model folder of the teacher.
        folder: An existing, empty folder.
        kept: Number of decoder layers.
        seed: Initializes the decoder layers randomly; None keeps the teacher's weights.
        trained: Tensors that replace the teacher's, by their names in the student.

    Returns:
        The numbers of the teacher's layers that were kept.

    Raises:
        ValueError: The teacher does not have that many layers.
        WeightsError: It has no safetensors.
    """
    config = json.loads((teacher / "config.json").read_text(encoding="utf-8"))
    layers = evenly_spaced_layers(config["decoder_layers"], kept)
    new_numbers = {old: new for new, old in enumerate(layers)}
    tensors = dict(_renumbered(teacher, new_numbers))
    if seed is not None:
        _randomize(tensors, seed)
    for name, tensor in (trained or {}).items():
        tensors[name] = tensor.to(tensors[name].dtype).contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes 0600
    for path in sorted(teacher.iterdir()):
        if path.suffix in (".json", ".txt") and path.name != SHARD_INDEX:
            shutil.copyfile(path, folder / path.name)
    write_json(folder / "config.json", config | {"decoder_layers": kept})
    if (generation := teacher / "generation_config.json").exists():
        settings = json.loads(generation.read_text(encoding="utf-8"))
        write_json(folder / generation.name, renumber_alignment_heads(settings, new_numbers))
    add_companion_files(folder)
    return layers


def renumber_alignment_heads(generation: dict[str, Any], new_numbers: dict[int, int]) -> dict[str, Any]:
    """Returns a generation config with the alignment heads of a student.

    Args:
        generation: The teacher's generation config.
        new_numbers: Layer numbers in the student, by those in the teacher, of the layers that were kept.
    """
    heads = generation.get("alignment_heads") or []
    found = [[new_numbers[layer], head] for layer, head in heads if layer in new_numbers]
    rest = {key: value for key, value in generation.items() if key != "alignment_heads"}
    return rest | ({"alignment_heads": found} if found else {})


def _renumbered(teacher: Path, new_numbers: dict[int, int]) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors that a student keeps, with their names in the student."""
    for path in list_safetensors(teacher):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                part = _DECODER_LAYER.fullmatch(full_name(name))
                if part is None:
                    yield full_name(name), tensors.get_tensor(name)
                elif int(part[2]) in new_numbers:
                    yield f"{part[1]}{new_numbers[int(part[2])]}{part[3]}", tensors.get_tensor(name)


def _randomize(tensors: dict[str, Tensor], seed: int) -> None:
    """Initializes the decoder layers randomly: normal weights, zero biases; layer norms are kept."""
    generator = torch.Generator().manual_seed(seed)
    for name in sorted(tensors):
        if _DECODER_LAYER.fullmatch(name) and "layer_norm" not in name:
            tensor = tensors[name]
            noise = torch.randn(tensor.shape, generator=generator) * RANDOM_STD
            tensors[name] = (noise if name.endswith(".weight") else torch.zeros(tensor.shape)).to(tensor.dtype)
