"""Whether the file of a recording still is what was transcribed: for whoever reads its audio once more."""

from collections.abc import Iterator, Sequence

from distil_ray.readers.location import is_unchanged
from distil_ray.readers.parallel_map import map_ahead, threads_for
from distil_ray.storage.storage import Storage, StorageError
from distil_ray.types import Recording


def reasons_against(recordings: Sequence[Recording], storage: Storage) -> Iterator[str | None]:
    """For each recording, in order, why its audio cannot be used any more; None where it can."""

    def look(recording: Recording) -> str | None:
        try:
            entry = storage.stat(recording.uri)
        except StorageError as error:
            return gone(error)
        if entry is None:
            return "its audio is not there any more"
        return None if is_unchanged(recording, entry) else "its audio has changed since it was transcribed"

    return map_ahead(look, recordings, threads_for(recordings[0].uri) if recordings else 1)


def gone(error: StorageError) -> str:
    return f"its audio cannot be read any more ({error.kind})"
