"""Model folders by the names of their files: what a checkpoint consists of, and in which format its weights are.

Remote folders are read with the `FolderReader` of the caller, so that this package does not depend on storage.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from distil_ray.whisper.weights_cache import WeightsError

# Small files of a checkpoint: all that a driver needs for prompts, decoding rules and text.
CONFIG_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "normalizer.json",
)
# Whole or sharded. The *.fp32* variants in some repositories do not match.
WEIGHTS = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
WEIGHT_FILES = (WEIGHTS, SHARD_INDEX, "model-?????-of-?????.safetensors")
PYTORCH_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-?????-of-?????.bin")
CTRANSLATE2_FILES = ("model.bin", "vocabulary.json", "vocabulary.txt")
TOKENIZER = "tokenizer.json"
REQUIRED_FILES = ("config.json", TOKENIZER)


RemoteFile = tuple[str, int | None, str | None]  # name below the folder, size in bytes, version such as an etag


class WeightsFormat(StrEnum):
    """Format of the weights in a folder."""

    SAFETENSORS = "safetensors"
    PYTORCH = "pytorch"
    CTRANSLATE2 = "ctranslate2"


class FolderReader(Protocol):
    """Reads remote folders; the caller implements it with the storage of the run."""

    def list_folder(self, uri: str) -> Iterable[RemoteFile]:
        """Yields each file of a folder; nothing if there is none."""
        ...

    def stat_file(self, uri: str) -> RemoteFile | None:
        """Returns a file, with its name in its folder; None if there is no such file."""
        ...

    def copy_file(self, uri: str, path: Path) -> None:
        """Copies one remote file to a local path."""
        ...


def is_remote(name: str) -> bool:
    """Returns True for a ``scheme://`` name."""
    return "://" in name


def require_reader(name: str, reader: FolderReader | None) -> FolderReader:
    """Returns `reader`. Raises `WeightsError` if it is None."""
    if reader is None:
        raise WeightsError(f"model.name={name}: remote weights cannot be read here; no storage was given")
    return reader


_FILES = {
    WeightsFormat.SAFETENSORS: WEIGHT_FILES,
    WeightsFormat.PYTORCH: PYTORCH_FILES,
    WeightsFormat.CTRANSLATE2: CTRANSLATE2_FILES,
}


def weights_format(name: str, files: Sequence[str]) -> WeightsFormat:
    """Returns the format of the weights in a folder, by the names of its files. safetensors are preferred.

    Args:
        name: ``model.name``, for messages.
        files: Names of the files in the folder.

    Raises:
        WeightsError: The folder holds no weights, or lacks the small files that must be beside them.
    """
    has_weights = any(is_weight_file(file) for file in files)
    if not has_weights and CTRANSLATE2_FILES[0] in files:
        return WeightsFormat.CTRANSLATE2
    missing = [file for file in REQUIRED_FILES if file not in files]
    if missing == [TOKENIZER]:
        raise WeightsError(
            f"model.name={name}: has no {TOKENIZER}, which transformers 5 writes:"
            " AutoTokenizer.from_pretrained(SOURCE).save_pretrained(FOLDER). FOLDER is a copy of the checkpoint; SOURCE"
            " is the same if it has a vocab.json, otherwise the checkpoint that it was fine-tuned from"
        )
    if missing:
        raise WeightsError(
            f"model.name={name}: has no {' and no '.join(missing)}; it must be a folder of Hugging Face or CTranslate2,"
            " or a file of openai-whisper or whisper.cpp"
        )
    if has_weights:
        return WeightsFormat.SAFETENSORS
    if any(matches(file, PYTORCH_FILES) for file in files):
        return WeightsFormat.PYTORCH
    raise WeightsError(f"model.name={name}: has no weights (model.safetensors, pytorch_model.bin, or model.bin)")


def is_weight_file(file: str) -> bool:
    """Returns True for the name of a safetensors file or of their index."""
    return matches(file, WEIGHT_FILES)


def matches(file: str, patterns: Iterable[str]) -> bool:
    """Returns True for a name that matches one of the patterns."""
    return any(fnmatch(file, pattern) for pattern in patterns)


def files_of(kind: WeightsFormat) -> tuple[str, ...]:
    """Returns the patterns of the files of a checkpoint in a folder."""
    return (*CONFIG_FILES, *_FILES[kind])


def remote_files(name: str, reader: FolderReader) -> tuple[WeightsFormat, tuple[RemoteFile, ...]]:
    """Returns the format of the weights in a remote folder, and the sorted files of the checkpoint.

    Raises:
        WeightsError: The folder does not exist, or it holds no checkpoint.
    """
    found = [entry for entry in reader.list_folder(name) if "/" not in entry[0]]
    if not found:
        raise WeightsError(f"model.name={name}: there is no such file, and the folder does not exist or is empty")
    kind = weights_format(name, [file for file, _, _ in found])
    return kind, tuple(sorted(entry for entry in found if matches(entry[0], files_of(kind))))


def remote_digest(files: Iterable[RemoteFile]) -> str:
    """Returns the hex sha256 over names, sizes and versions, which changes when any file changes."""
    lines = "".join(f"{file}\t{size}\t{version}\n" for file, size, version in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def copy_remote(name: str, files: Iterable[str], reader: FolderReader, folder: Path) -> None:
    """Copies `files` of the remote folder `name` to a local folder."""
    for file in files:
        reader.copy_file(f"{name.rstrip('/')}/{file}", folder / file)


def list_safetensors(folder: Path) -> list[Path]:
    """Returns the files of a local folder's weights as transformers chooses them: the whole one, else those that the
    index lists. Other safetensors files, such as those of a second model that was trained along, do not belong to it.

    Raises:
        WeightsError: There is neither.
    """
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    try:
        index = json.loads((folder / SHARD_INDEX).read_text(encoding="utf-8"))
        return [folder / name for name in sorted({Path(name).name for name in index["weight_map"].values()})]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{folder}: has no {WEIGHTS} and no usable {SHARD_INDEX} ({error!r})") from error


def missing_shards(folder: Path) -> list[str]:
    """Returns the shards that the index of a folder lists and the folder lacks."""
    index = folder / SHARD_INDEX
    if not index.exists():
        return []
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return sorted(shard for shard in shards if not (folder / shard).exists())
