"""The audio of a recording as one file: the bytes of its own, or FLAC of its part of a file's sound.

A segment or a channel has no bytes of its own. It is decoded once more as it was for recognizing it, 16 kHz mono, by
the decoder's process (audio/subprocess_decoder.py), so that text and sound belong together.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from distil_ray.audio.encode import open_flac_writer
from distil_ray.audio.pcm import DecodeResult
from distil_ray.audio.probe import AudioInfo, probe_audio
from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.export.transcripts import NotExportableError
from distil_ray.readers.audio_formats import audio_extension
from distil_ray.readers.channels import audio_segment_for
from distil_ray.readers.location import display_name
from distil_ray.readers.range_reader import open_for_seeking
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.types import Recording


@dataclass(frozen=True, slots=True)
class Sound:
    """A file on the local disk; `extension` is the one that fits its bytes, without a dot."""

    path: Path
    extension: str


def sound_of(recording: Recording, channels: str, fetched: Path, decoder: SubprocessDecoder, target: Path) -> Sound:
    """The recording's audio; `fetched` is the file that holds it, `target` where a part of it may be put.

    `channels`: the `input.channels` of the run that transcribed it.

    Raises `NotExportableError` for a part that cannot be decoded.
    """
    cut = audio_segment_for(recording, channels)
    if (cut.start, cut.length) == (0, None) and (cut.channel is None or _is_mono(fetched, decoder)):
        return Sound(fetched, audio_extension(recording, fetched))
    with open_flac_writer(target) as write:
        for item in decoder.decode(str(fetched), display_name(recording), cut):
            if not isinstance(item, DecodeResult):
                write(item)
            elif not item.num_samples:
                raise NotExportableError(f"its part of a file cannot be decoded any more ({item.error_kind})")
    return Sound(target, "flac")


def _is_mono(fetched: Path, decoder: SubprocessDecoder) -> bool:
    facts = decoder.probe(str(fetched))
    return facts is not None and facts.num_channels == 1


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
