"""Weights in other formats: where they lie, what identifies them, and their conversion, once per node.

A `ForeignWeights` is a file of openai-whisper or whisper.cpp, or a folder of CTranslate2 or with pytorch_model.bin: on
the local disk, in a bucket or in a repository of the hub. `convert_once` makes a Hugging Face folder of it in the
cache, under the lock that the other processes of the node wait for. A conversion that fails leaves nothing behind.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from distil_ray.whisper.formats.detection import convert_to_hugging_face
from distil_ray.whisper.formats.hugging_face import COMPANIONS
from distil_ray.whisper.hub import HubRevision, hub_snapshot, is_commit, resolve_hub
from distil_ray.whisper.model_folders import (
    FolderReader,
    RemoteFile,
    WeightsFormat,
    copy_remote,
    files_of,
    matches,
    remote_digest,
)
from distil_ray.whisper.published_vocabulary import fetch_vocabulary
from distil_ray.whisper.weights_cache import WeightsError, build_once

VERSION = 1  # of the conversion; a change makes the node convert again
FILE_SUFFIXES = (".bin", ".pt", ".pth")
_HUB_FILE = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+):([^/].*)")


@dataclass(frozen=True, slots=True)
class ForeignWeights:
    """Weights in another format.

    Attributes:
        name: ``model.name``.
        identity: Changes when the weights or the files beside them change.
        revision: Commit on the hub; None elsewhere.
        fetch: Returns the local file or folder; what has to be copied is copied to the folder that it is called with.
    """

    name: str
    identity: str
    revision: str | None
    fetch: Callable[[Path], Path]


def convert_once(weights: ForeignWeights, root: Path) -> Path:
    """Returns the Hugging Face folder of the weights; converts them if the cache does not hold it.

    Args:
        weights: The weights.
        root: The cache folder.

    Raises:
        WeightsError: They are damaged, or not those of a Whisper model.
    """
    return build_once(converted_folder(weights, root), partial(_convert, weights, root))


def converted_folder(weights: ForeignWeights, root: Path) -> Path:
    """Returns the folder of the converted weights in the cache, which exists after `convert_once`."""
    label = re.sub(r"[^\w.-]", "_", weights.name.rstrip("/").rsplit("/", 1)[-1])
    key = hashlib.sha256(f"{VERSION}\n{weights.identity}".encode()).hexdigest()[:16]
    return root / "converted" / f"{label}-{key}"


def _convert(weights: ForeignWeights, root: Path, folder: Path) -> None:
    downloads = folder / ".source"
    downloads.mkdir()
    try:
        convert_to_hugging_face(weights.fetch(downloads), folder, partial(fetch_vocabulary, root, weights.name))
    except WeightsError as error:
        message = str(error)
        raise WeightsError(message if "model.name=" in message else f"model.name={weights.name}: {message}") from error
    shutil.rmtree(downloads)


def local_weights(name: str, path: Path, root: Path, kind: WeightsFormat | None = None) -> ForeignWeights:
    """Returns weights on the local disk, identified by their content.

    Args:
        name: ``model.name``.
        path: A file, or a folder of the format `kind`.
        root: The cache folder, in which the digest is kept.
        kind: The format of a folder.
    """
    if kind is None:
        files = [path, *(path.parent / file for file in COMPANIONS)]
    else:
        files = [file for file in sorted(path.iterdir()) if matches(file.name, files_of(kind))]
    digest = files_digest([file for file in files if file.is_file()], path, root)
    return ForeignWeights(name, f"sha256:{digest}", None, lambda _: path)


def remote_folder(name: str, kind: WeightsFormat, files: Iterable[RemoteFile], reader: FolderReader) -> ForeignWeights:
    """Returns weights in a remote folder.

    Args:
        name: ``model.name``.
        kind: The format of the folder.
        files: The files of the checkpoint.
        reader: Reads remote folders.
    """
    files = tuple(files)

    def fetch(folder: Path) -> Path:
        copy_remote(name, [file for file, _, _ in files], reader, folder)
        return folder

    return ForeignWeights(name, f"remote:{kind}:{remote_digest(files)}", None, fetch)


def remote_file(name: str, reader: FolderReader) -> ForeignWeights | None:
    """Returns weights in a remote file, with the companions beside it; None if the name is not that of a file."""
    if not name.endswith(FILE_SUFFIXES) or (found := reader.stat_file(name)) is None:
        return None
    parent = name.rsplit("/", 1)[0]
    beside = (reader.stat_file(f"{parent}/{companion}") for companion in COMPANIONS)
    files = (found, *(entry for entry in beside if entry is not None))

    def fetch(folder: Path) -> Path:
        copy_remote(parent, [file for file, _, _ in files], reader, folder)
        return folder / found[0]

    return ForeignWeights(name, f"remote:file:{remote_digest(files)}", None, fetch)


def hub_file(name: str, revision: str | None, cache_dir: str | Path | None) -> ForeignWeights | None:
    """Returns weights in a file of a hub repository, ``owner/name:file``; None if the name is not of that form.

    Makes no request for a pinned commit.

    Raises:
        WeightsError: There is no such repository, revision or file.
    """
    parts = _HUB_FILE.fullmatch(name)
    if parts is None or Path(name).exists():
        return None
    repository, file = parts[1], parts[2]
    offline, commit = False, revision or ""
    if not is_commit(revision):
        found = resolve_hub(repository, revision, cache_dir)
        offline, commit = found.is_from_cache, found.commit
        if not offline and file not in [known for known, _ in found.files]:
            raise WeightsError(f"model.name={name}: {repository} has no file {file} at {revision or 'main'}")
    beside = [f"{file.rpartition('/')[0]}/{companion}".lstrip("/") for companion in COMPANIONS]

    def fetch(_: Path) -> Path:
        path = hub_snapshot(repository, commit, cache_dir, [file, *beside], offline=offline) / file
        if not path.is_file():
            raise WeightsError(f"model.name={name}: {repository} has no file {file} at {commit}")
        return path

    return ForeignWeights(name, f"{name}@{commit}", commit, fetch)


def hub_folder(name: str, found: HubRevision, kind: WeightsFormat, cache_dir: str | Path | None) -> ForeignWeights:
    """Returns the weights of a commit of a hub repository, in the format `kind`."""

    def fetch(_: Path) -> Path:
        return hub_snapshot(name, found.commit, cache_dir, files_of(kind), offline=found.is_from_cache)

    return ForeignWeights(name, f"{name}@{found.commit}", found.commit, fetch)


def files_digest(files: Iterable[Path], of: Path, root: Path) -> str:
    """Returns the hex sha256 over files by their names and contents.

    The digest is cached by the sizes and modification times of the files, because hashing 3 GB takes seconds and every
    run needs it. A file that changes gets another size or modification time.

    Args:
        files: The files.
        of: The file or folder that they belong to.
        root: The cache folder.
    """
    files = list(files)
    state = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    key = hashlib.sha256(str(of.resolve()).encode()).hexdigest()[:16]
    cached = root / "digests" / f"{key}.json"
    try:
        content = json.loads(cached.read_text(encoding="utf-8"))
        if content["files"] == state:
            return str(content["sha256"])
    except (OSError, ValueError, KeyError):
        pass  # not cached yet, or unreadable: hash now
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    _write_cached(cached, {"folder": str(of), "files": state, "sha256": digest.hexdigest()})
    return digest.hexdigest()


def _write_cached(path: Path, content: dict[str, object]) -> None:
    with suppress(OSError):  # without a writable cache, hashing takes time again
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(path)
