"""What the headers of audio files say of their rate and channels, which an output does not keep."""

from functools import lru_cache

from distil_ray.audio.probe import AudioInfo, probe_audio
from distil_ray.export.transcripts import NotExportableError
from distil_ray.readers.range_reader import open_for_seeking
from distil_ray.storage.storage import Storage, StorageError

REMEMBERED = 4096  # files whose facts are kept for the segments that follow


class Headers:
    """Looks at each file once. May be asked from several threads."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.of = lru_cache(REMEMBERED)(self._look)

    def _look(self, uri: str) -> AudioInfo:
        """Rate, channels and length. Raises `NotExportableError` for audio that is not there any more."""
        try:
            entry = self._storage.stat(uri)
            if entry is None:
                raise NotExportableError("its audio is not there any more")
            with open_for_seeking(entry, self._storage) as file:
                facts = probe_audio(file)
        except StorageError as error:
            raise NotExportableError(f"its audio cannot be read any more ({error.kind})") from error
        if facts is None:
            raise NotExportableError("its audio has no header that tells the sampling rate")
        return facts
