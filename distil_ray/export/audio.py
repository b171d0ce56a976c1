"""Audio of a recording as one file, and headers of audio files.

A recording that is a whole file keeps its bytes. A segment or a channel has no bytes of its own: it is decoded again as
it was for recognition, 16 kHz mono, in the decoder subprocess, and encoded as FLAC, so that text and audio match. So is
every recording of a redacted export, in which masked words are silent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from distil_ray.audio.encode import open_flac_writer
from distil_ray.audio.pcm import PCM16, DecodeResult
from distil_ray.audio.probe import AudioInfo, probe_audio
from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.export.transcripts import NotExportableError
from distil_ray.readers.audio_formats import audio_extension
from distil_ray.readers.channels import audio_segment_for
from distil_ray.readers.location import display_name
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.types import SAMPLE_RATE, Recording


@dataclass(frozen=True, slots=True)
class AudioFile:
    """An audio file on the local disk; `extension` matches its content and has no dot."""

    path: Path
    extension: str


def prepare_audio(
    recording: Recording,
    channels: str,
    fetched: Path,
    decoder: SubprocessDecoder,
    target: Path,
    silences: Sequence[tuple[float, float]] | None = None,
) -> AudioFile:
    """Returns a file with the audio of a recording.

    Args:
        recording: The recording.
        channels: The `input.channels` of the run that transcribed it.
        fetched: Local file that contains the audio.
        decoder: Decodes a segment or a channel.
        target: Path for the FLAC file of a segment or a channel.
        silences: Seconds to replace by silence, from the start of the recording, in order; None: keep the audio.

    Raises:
        NotExportableError: The audio cannot be decoded.
    """
    cut = audio_segment_for(recording, channels)
    is_whole = (cut.start, cut.length) == (0, None) and silences is None
    if is_whole and (cut.channel is None or _is_mono(fetched, decoder)):
        return AudioFile(fetched, audio_extension(recording, fetched))
    position = 0
    with open_flac_writer(target) as write:
        for item in decoder.decode(str(fetched), display_name(recording), cut):
            if not isinstance(item, DecodeResult):
                write(silence_spans(item, position, silences) if silences else item)
                position += len(item)
            elif not item.num_samples:
                raise NotExportableError(f"its audio can no longer be decoded ({item.error_kind})")
    return AudioFile(target, "flac")


def silence_spans(pcm: PCM16, start: int, silences: Sequence[tuple[float, float]]) -> PCM16:
    """Returns the samples with zeros in some spans.

    Args:
        pcm: Samples of a recording, shape (num_samples,).
        start: Position of the first of them in the recording.
        silences: (start, end) of the spans in seconds of the recording.
    """
    silenced = pcm.copy()
    for start_s, end_s in silences:
        first, last = (max(round(time_s * SAMPLE_RATE) - start, 0) for time_s in (start_s, end_s))
        silenced[first:last] = 0
    return silenced


def _is_mono(fetched: Path, decoder: SubprocessDecoder) -> bool:
    facts = decoder.probe(str(fetched))
    return facts is not None and facts.num_channels == 1


CACHED_FILES = 4096  # files whose header is kept for the segments that follow


class AudioHeaders:
    """Reads the header of each audio file once. Thread-safe."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.read = lru_cache(CACHED_FILES)(self._read)

    def _read(self, uri: str) -> AudioInfo:
        """Returns sampling rate, channels and duration. Raises `NotExportableError` if the audio no longer exists."""
        try:
            entry = self._storage.stat(uri)
            if entry is None:
                raise NotExportableError("its audio no longer exists")
            with self._storage.open_for_seeking(entry) as file:
                facts = probe_audio(file)
        except StorageError as error:
            raise NotExportableError(f"its audio can no longer be read ({error.kind})") from error
        if facts is None:
            raise NotExportableError("its audio has no header with a sampling rate")
        return facts
