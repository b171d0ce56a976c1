"""The storage behind weights that lie in a bucket, in the words of `whisper/weights.py`, which knows no storage."""

from pathlib import Path

from distil_ray.output.run_context import Run
from distil_ray.storage.storage import Storage, normalize
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.weights_cache import WeightsError


class RemoteFolders:
    """Lists a remote folder and copies its files: whisper.weights.FolderReader over the run's storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def list_folder(self, uri: str) -> list[tuple[str, int | None, str | None]]:
        """(name below the folder, bytes, version) of every file."""
        folder = normalize(uri)
        return [
            (entry.uri.removeprefix(f"{folder}/"), entry.size, entry.version)
            for entry in self._storage.list_files(folder)
        ]

    def copy_file(self, uri: str, path: Path) -> None:
        self._storage.fetch(uri, path)


def fetch_assistant(run: Run) -> Path | None:
    """The local folder of what drafts for the run's checkpoint; None where nothing does.

    On the hub it is what its main branch means by now: no text depends on it, and nothing needs to be pinned.
    """
    model = run.config.model
    if model.assistant is None or run.config.decoding.speculative == "off":
        return None
    try:
        return fetch_weights(model.assistant, None, model.cache_dir, RemoteFolders(run.storage))
    except WeightsError as error:
        raise WeightsError(str(error).replace("model.name=", "model.assistant=")) from error
