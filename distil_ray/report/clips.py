"""Audio clips of doubtful passages, embedded in the page as Opus data URIs.

The audio is fetched again from its source, within a budget of bytes and seconds. A clip never fails a report: if the
source is missing, changed or too large, or the budget is spent, the page shows the reason instead of the audio.
"""

import base64
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distil_ray.audio.encode import encode_opus
from distil_ray.audio.pcm import PCM16
from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.config import Config
from distil_ray.readers.channels import audio_segment_for
from distil_ray.readers.fetch import prefetch_files
from distil_ray.readers.location import describe_read_error, display_name, iter_audio_problems
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import is_remote
from distil_ray.types import SAMPLE_RATE, Recording

MAX_CLIP_SAMPLES = 30 * SAMPLE_RATE  # samples
MAX_FETCH_BYTES = 64 << 20  # of a remote file that is fetched for a clip
ATTEMPTS, TIMEOUT_S = 2, 15.0  # of a request: nobody waits long for a clip
MEGABYTE = 1_000_000
BYTES_A_SECOND = 2600.0  # of a data URI: 16 kbit/s as base64; some clips need more

NOT_ASKED = "no sound in this page: report.audio_mb=0"
IDLE = "no sound in the page of a run that had nothing to recognize"
BUDGET = "left out: the page has its share of sound (report.audio_mb)"
LATE = "left out: fetching sound took its time (report.audio_timeout_s)"


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """A part of a recording to embed; `start` and `length` are samples of the recording at 16 kHz."""

    recording: Recording
    start: int
    length: int

    @property
    def key(self) -> tuple[str, int, int]:
        return self.recording.recording_id, self.start, self.length


@dataclass(frozen=True, slots=True)
class Clip:
    """Audio as a data URI, or the reason why there is none (`word`).

    `name` is the same wherever the clip stands: a page holds each sound once, however many buttons play it.
    """

    name: str
    source: str | None
    word: str | None
    start_s: float
    end_s: float


class _ByteBudget:
    """The bytes of audio that the page may still take."""

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes
        self._bytes_a_second = BYTES_A_SECOND

    def may_hold(self, wish: ClipRequest) -> bool:
        """Returns True if the clip probably fits, by its length, so that nothing is fetched in vain."""
        start_s, end_s = _span(wish)
        return (end_s - start_s) * self._bytes_a_second <= self._left

    def take(self, wish: ClipRequest, source: str) -> bool:
        """Takes the bytes of a clip; returns False if it does not fit, and then raises the estimate for later clips."""
        if len(source) > self._left:
            start_s, end_s = _span(wish)
            self._bytes_a_second = max(self._bytes_a_second, len(source) / max(end_s - start_s, 1 / SAMPLE_RATE))
            return False
        self._left -= len(source)
        return True


def make_clips(wishes: Sequence[ClipRequest], config: Config) -> dict[tuple[str, int, int], Clip]:
    """A clip for every wish, by its key; the first wishes are served first."""
    if not config.report.audio_mb:
        return make_empty_clips(wishes, NOT_ASKED)
    distinct = list({wish.key: wish for wish in wishes}.values())
    room = _ByteBudget(int(config.report.audio_mb * MEGABYTE))
    clips: dict[tuple[str, int, int], Clip] = {}
    for number, (wish, sound) in enumerate(_iter_encoded_clips(distinct, room, config)):
        if isinstance(sound, str):
            clips[wish.key] = _empty_clip(wish, sound)
            continue
        source = f"data:audio/ogg;base64,{base64.b64encode(sound).decode()}"
        fits = room.take(wish, source)
        clips[wish.key] = Clip(f"sound-{number}", source, None, *_span(wish)) if fits else _empty_clip(wish, BUDGET)
    return clips


def make_empty_clips(wishes: Sequence[ClipRequest], word: str) -> dict[tuple[str, int, int], Clip]:
    """Returns a clip without audio for every request, with `word` as the reason."""
    return {wish.key: _empty_clip(wish, word) for wish in wishes}


def _iter_encoded_clips(
    wishes: Sequence[ClipRequest], room: _ByteBudget, config: Config
) -> Iterator[tuple[ClipRequest, bytes | str]]:
    """Yields each request with its Opus bytes, or with the reason why there are none."""
    deadline = time.monotonic() + config.report.audio_timeout_s
    hasty = config.storage.model_copy(update={"max_attempts": ATTEMPTS, "timeout_s": TIMEOUT_S})
    storage, resources = Storage(hasty), config.resources
    with closing(
        SubprocessDecoder(resources.decoder_memory_mb, min(resources.decoder_timeout_s, TIMEOUT_S))
    ) as decoder:
        for wish in wishes:
            if not room.may_hold(wish):
                yield wish, BUDGET
            elif time.monotonic() > deadline:
                yield wish, LATE
            else:
                yield wish, _encode_clip(wish, storage, decoder, config)


def _encode_clip(wish: ClipRequest, storage: Storage, decoder: SubprocessDecoder, config: Config) -> bytes | str:
    recording = wish.recording
    try:
        (reason,) = iter_audio_problems([recording], storage)
        if reason is not None:
            return reason
        if is_remote(recording.uri) and (_num_bytes(recording) or 0) > MAX_FETCH_BYTES:
            return "its file is too large to be fetched for a clip"
        with tempfile.TemporaryDirectory(prefix="distil-ray-") as folder:
            (fetched,) = prefetch_files([recording], {}, Path(folder), storage, threads=1)
            if isinstance(fetched, StorageError):
                return describe_read_error(fetched)
            return _decode(wish, fetched, decoder, config)
    except Exception as error:  # whatever a clip meets, the page is worth more
        return f"its audio cannot be had ({type(error).__name__})"


def _num_bytes(recording: Recording) -> int | None:
    """Of what is fetched: the member of an archive that is not compressed, else the whole file."""
    location = recording.location
    return recording.source_size if location is None or location.byte_start is None else location.num_bytes


def _decode(wish: ClipRequest, fetched: Path, decoder: SubprocessDecoder, config: Config) -> bytes | str:
    base = audio_segment_for(wish.recording, config.input.channels)
    cut = replace(base, start=base.start + wish.start, length=max(1, min(wish.length, MAX_CLIP_SAMPLES)))
    decoded = decoder.decode(str(fetched), display_name(wish.recording), cut)
    pieces: list[PCM16] = [item for item in decoded if isinstance(item, np.ndarray)]
    if not pieces:
        return "its audio cannot be decoded any more"
    return encode_opus(np.concatenate(pieces))


def _span(wish: ClipRequest) -> tuple[float, float]:
    return wish.start / SAMPLE_RATE, (wish.start + min(wish.length, MAX_CLIP_SAMPLES)) / SAMPLE_RATE


def _empty_clip(wish: ClipRequest, word: str) -> Clip:
    return Clip("", None, word, *_span(wish))
