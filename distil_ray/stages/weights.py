"""The storage behind weights that lie in a bucket, in the words of `whisper/weights.py`, which knows no storage."""

from pathlib import Path

from distil_ray.storage import Storage, normalize


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
