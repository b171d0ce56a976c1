"""A student of a Whisper checkpoint, as the Distil-Whisper recipe begins: fewer decoder layers, trained or not yet.

Encoder, embeddings and positions are the teacher's; of its decoder layers some are kept, evenly spaced, the first and
the last among them. What config and generation config say of layers is brought in step: alignment heads of the layers
that are kept get their new numbers, the others are dropped, and where none is left the list goes (as word times would
be asked of layers that do not exist). Tensors are taken one by one and keep their number type.
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
from distil_ray.whisper.conversion import write_json
from distil_ray.whisper.download import SHARD_INDEX, is_weight_file
from distil_ray.whisper.weights_cache import WeightsError

WEIGHTS = "model.safetensors"
RANDOM_SCALE = 0.02  # standard deviation of a layer that begins anew, as Whisper's own training began

_DECODER_LAYER = re.compile(r"(model\.decoder\.layers\.)(\d+)(\..+)")


def evenly_spaced_layers(layers: int, kept: int) -> list[int]:
    """The numbers of `kept` of so many layers, the first and the last among them.

    Raises ValueError for fewer than 2, and for more than there are.
    """
    if not 2 <= kept <= layers:
        raise ValueError(f"{kept} decoder layers cannot be kept of {layers}; must be 2 to {layers}")
    return [round(place * (layers - 1) / (kept - 1)) for place in range(kept)]


def create_student(
    teacher: Path, folder: Path, kept: int, seed: int | None = None, trained: Mapping[str, Tensor] | None = None
) -> list[int]:
    """Writes the student of a local model folder into `folder`, which exists; the numbers of the layers that it kept.

    With a `seed` the decoder layers are random instead: a student that knows nothing, for trying out how little of it
    a speculative decoder needs. `trained`: tensors by their names in the student that take the place of the teacher's.
    The folder has all files that transformers and distil-whisper's trainer read, also those that the teacher's lacks.
    Raises ValueError for a number of layers that the teacher does not have.
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
    """A generation config whose alignment heads name a student's layers: `new_numbers` of those that it kept."""
    heads = generation.get("alignment_heads") or []
    found = [[new_numbers[layer], head] for layer, head in heads if layer in new_numbers]
    rest = {key: value for key, value in generation.items() if key != "alignment_heads"}
    return rest | ({"alignment_heads": found} if found else {})


def _renumbered(teacher: Path, new_numbers: dict[int, int]) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a student takes over, under their names there."""
    files = [path for path in sorted(teacher.iterdir()) if is_weight_file(path.name) and path.suffix == ".safetensors"]
    if not files:
        raise WeightsError(f"{teacher}: no safetensors there")
    for path in files:
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                part = _DECODER_LAYER.fullmatch(name)
                if part is None:
                    yield name, tensors.get_tensor(name)
                elif int(part[2]) in new_numbers:
                    yield f"{part[1]}{new_numbers[int(part[2])]}{part[3]}", tensors.get_tensor(name)


def _randomize(tensors: dict[str, Tensor], seed: int) -> None:
    """Decoder layers as before any training: small normal weights, no biases; norms stay."""
    generator = torch.Generator().manual_seed(seed)
    for name in sorted(tensors):
        if _DECODER_LAYER.fullmatch(name) and "layer_norm" not in name:
            tensor = tensors[name]
            noise = torch.randn(tensor.shape, generator=generator) * RANDOM_SCALE
            tensors[name] = (noise if name.endswith(".weight") else torch.zeros(tensor.shape)).to(tensor.dtype)
