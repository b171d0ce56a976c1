"""Upload of a data set to the Hugging Face hub with huggingface_hub: the card and the shards, file by file.

A shard that the hub has with the same name and size is not uploaded again; one that lost examples is smaller. Shards
that were removed from the data set are removed from the hub. Rejected utterances are not uploaded. Other files of the
repository stay; data files that are no shards would become examples of the splits, so that they are an error.
"""

import re
import tempfile
from pathlib import Path

from rich.console import Console

from distil_ray.cli.console import log_field
from distil_ray.config import LabelsConfig
from distil_ray.errors import RunError, SettingsError
from distil_ray.output.ledger import is_data_file
from distil_ray.pseudo_labels.dataset_schema import CARD, DATA, TRAIN, VALIDATION
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import is_remote, join

REMEDY = "HF_TOKEN must be a token with write access; HF_ENDPOINT sets another hub"
SHARD = re.compile(rf"{DATA}/(?:{TRAIN}|{VALIDATION})-[0-9a-f]{{24}}\.parquet")  # as `packing.plan_shards` names them


def upload_to_hub(dataset_uri: str, config: LabelsConfig, storage: Storage, console: Console) -> None:
    """Uploads the data set to `labels.push_to_hub`.

    Raises:
        SettingsError: The repository has data files of something else.
        RunError: The upload fails. The data set itself is complete, and the next build retries the upload.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.hf_api import RepoFile

    name = config.push_to_hub
    assert name is not None
    api = HfApi()
    try:
        api.create_repo(name, repo_type="dataset", private=config.push_private, exist_ok=True)
        tree = api.list_repo_tree(name, repo_type="dataset", recursive=True)
        there: set[tuple[str, int | None]] = {
            (one.path, one.size)
            for one in tree
            if isinstance(one, RepoFile) and one.path.startswith(f"{DATA}/") and is_data_file(one.path)
        }
        if others := sorted(path for path in _paths(there) if not SHARD.fullmatch(path)):
            raise SettingsError(
                f"labels.push_to_hub={name}: it has {len(others):,} data files of something else, such as {others[0]}."
                " Nothing was uploaded. Name another data set: it is created if it does not exist"
            )
        files = storage.list_files(join(dataset_uri, DATA))
        here = {(f"{DATA}/{one.uri.rsplit('/', 1)[-1]}", one.size) for one in files if is_data_file(one.uri)}
        for path, _ in sorted(here - there):
            with tempfile.TemporaryDirectory(prefix="distil-ray-push-") as folder:
                api.upload_file(
                    path_or_fileobj=str(_local(join(dataset_uri, path), Path(folder), storage)),
                    path_in_repo=path,
                    repo_id=name,
                    repo_type="dataset",
                    commit_message=f"Add {path}",
                )
        last: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(CARD, storage.read(join(dataset_uri, CARD))),
            *(CommitOperationDelete(path) for path in sorted(_paths(there) - _paths(here))),
        ]
        api.create_commit(name, last, commit_message="Update the card", repo_type="dataset")
    except SettingsError:
        raise
    except Exception as error:  # the type depends on the HTTP client
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise RunError(
            f"labels.push_to_hub={name}: the hub could not be reached or refused the upload ({reason}). {REMEDY}."
            f" The data set is complete in {dataset_uri}; the same command uploads it again"
        ) from error
    log_field("pushed", f"{len(here - there):,} new shards to {name}", console)


def _paths(files: set[tuple[str, int | None]]) -> set[str]:
    return {path for path, _ in files}


def _local(uri: str, folder: Path, storage: Storage) -> Path:
    """Returns a local path of the shard: huggingface_hub uploads local files in pieces."""
    if not is_remote(uri):
        return Path(uri)
    storage.fetch(uri, folder / "shard.parquet")
    return folder / "shard.parquet"
