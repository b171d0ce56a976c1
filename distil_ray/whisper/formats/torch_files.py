"""Files of `torch.save`, read without executing anything, and Hugging Face's pytorch_model.bin.

`torch.load` runs with ``weights_only=True``, which refuses a pickle that names anything to call. Tensors are mapped
into memory and read when they are needed, except those of files from before torch 1.6, which are no zip archives.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from distil_ray.whisper.formats.tensors import (
    FLOAT16,
    FLOAT32,
    Array,
    Checkpoint,
    Json,
    Sizes,
    Tensor,
    drop_projection,
    full_name,
)
from distil_ray.whisper.weights_cache import WeightsError

if TYPE_CHECKING:
    import torch

WEIGHTS, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"  # of protocols from 2 on


def is_torch_file(head: bytes) -> bool:
    """Returns True if a file that begins with these bytes may be one of `torch.save`."""
    return head.startswith((ZIP_MAGIC, PICKLE_MAGIC))


def load_torch_file(path: Path) -> Any:
    """Returns the content of a file of `torch.save`, with its tensors on the CPU.

    Raises:
        WeightsError: It is damaged, or it holds more than tensors and plain containers.
    """
    import torch

    with open(path, "rb") as file:
        is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        if is_zip:
            _check_records(path, content)
        return content
    except Exception as error:  # a damaged pickle raises anything
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        reason = reason.split(". ")[0]  # what follows is advice
        if isinstance(error, UnpicklingError):  # torch recommends to load it without the check
            reason = "its pickle was refused"
        raise WeightsError(
            f"{path.name}: cannot be loaded ({reason[:300]}). It is damaged, or it holds more than tensors and plain"
            " containers; nothing of it was executed"
        ) from error


def _check_records(path: Path, content: Any) -> None:
    """Raises ValueError if the tensors state more bytes than the archive holds for them, which torch does not check."""
    with zipfile.ZipFile(path) as archive:
        records = [entry for entry in archive.infolist() if "/data/" in entry.filename]
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in records):
        raise ValueError("its tensors are compressed")
    sizes = {storage.data_ptr(): storage.nbytes() for storage in _storages(content)}
    held, stated = sum(entry.file_size for entry in records), sum(sizes.values())
    if stated > held:
        raise ValueError(f"its tensors have {stated} bytes, of which the file holds {held}")


def _storages(content: Any) -> Iterator["torch.UntypedStorage"]:
    import torch

    if isinstance(content, dict):
        for value in content.values():
            yield from _storages(value)
    elif isinstance(content, torch.Tensor) and content.layout == torch.strided:
        yield content.untyped_storage()


def torch_tensors(source: str, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Returns the tensors of a state dict. bfloat16 becomes float32, exactly.

    Raises:
        WeightsError: Something in it is no tensor of floating-point numbers.
    """
    import torch

    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(f"{source}: the state dict holds {name!r}, which is no tensor")
        if value.layout != torch.strided or value.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            kind = str(value.dtype).removeprefix("torch.")
            raise WeightsError(f"{source}: {name} is {kind}; must be float32, float16 or bfloat16")
        found[name] = lazy_tensor(value)
    return found


def lazy_tensor(value: "torch.Tensor") -> Tensor:
    """Returns a tensor of one of torch; bfloat16 becomes float32."""
    import torch

    def load() -> Array:
        numbers = value.float() if value.dtype == torch.bfloat16 else value
        array: Array = numbers.detach().contiguous().numpy()  # a parameter has gradients
        return array

    return Tensor(tuple(value.shape), FLOAT16 if value.dtype == torch.float16 else FLOAT32, load)


def read_pytorch(folder: Path, config: Json) -> Checkpoint:
    """Reads the weights of a Hugging Face folder with pytorch_model.bin or its shards.

    Args:
        folder: The folder.
        config: Its config.json.

    Raises:
        WeightsError: A file is missing or damaged, or holds more than tensors and plain containers.
    """
    tensors: dict[str, Tensor] = {}
    for name in weight_files(folder):
        state = load_torch_file(folder / name)
        if not isinstance(state, dict):
            raise WeightsError(f"{name}: must be a state dict; found {type(state).__name__}")
        tensors |= torch_tensors(name, state)
    tensors = {full_name(name): tensor for name, tensor in tensors.items()}
    return Checkpoint(WEIGHTS, Sizes.from_config(config), drop_projection(WEIGHTS, tensors))


def weight_files(folder: Path) -> list[str]:
    """Returns the names of pytorch_model.bin, or of its shards.

    Raises:
        WeightsError: The index lists a shard that is missing, or that lies outside of the folder.
    """
    if (folder / WEIGHTS).exists():
        return [WEIGHTS]
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        shards = sorted({str(shard) for shard in index["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{INDEX}: cannot be read ({type(error).__name__})") from error
    for shard in shards:
        if "/" in shard or not (folder / shard).is_file():
            raise WeightsError(f"{INDEX} lists {shard}, which is missing")
    return shards
