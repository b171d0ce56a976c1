"""Repositories of the Hugging Face hub: commits of branches and tags, and the files of a commit.

A commit is looked up on the hub, else in the local cache. Files are cached under HF_HOME unless a folder is given.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distil_ray.whisper.model_folders import CONFIG_FILES
from distil_ray.whisper.weights_cache import WeightsError, cache_root

_COMMIT = re.compile(r"[0-9a-f]{40}")
_OTHER_WAYS = (
    "Without a network, set model.name to a local folder, an s3://… folder, packaged:whisper-base, or a hub id whose"
    " files are cached under HF_HOME"
)


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


def is_commit(revision: str | None) -> bool:
    """Returns True for the hash of a commit, which names the same files forever."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


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
