"""Audio clips of recordings and chunks that may be wrong, embedded in the page as Opus data URIs.

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
MAX_FETCH_BYTES = 64 << 20  # remote files that are larger are not fetched for a clip
MAX_ATTEMPTS, TIMEOUT_S = 2, 15.0  # of a request; less than for transcription, because clips are optional
MEGABYTE = 1_000_000
BYTES_PER_SECOND = 2600.0  # of a data URI: 16 kbit/s as base64; some clips need more

NOT_REQUESTED = "disabled by report.audio_mb=0"
NOTHING_RECOGNIZED = "this run had nothing to transcribe"
OVER_BUDGET = "left out, because the clips of this page have reached report.audio_mb"
TIMED_OUT = "left out, because fetching audio took longer than report.audio_timeout_s"


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
    """Audio as a data URI in `source`, or the `reason` why there is none.

    `name` identifies the clip in the page, which contains each clip once and may have several buttons that play it.
    """

    name: str
    source: str | None
    reason: str | None
    start_s: float
    end_s: float


class _ByteBudget:
    """Counts the bytes of audio that may still be added to the page."""

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes
        self._bytes_per_second = BYTES_PER_SECOND

    def can_fit(self, request: ClipRequest) -> bool:
        """Returns True if the clip probably fits, estimated from its length before it is fetched."""
        start_s, end_s = _span(request)
        return (end_s - start_s) * self._bytes_per_second <= self._left

    def take(self, request: ClipRequest, source: str) -> bool:
        """Subtracts a clip. Returns False if it does not fit, and then raises the estimate for later clips."""
        if len(source) > self._left:
            start_s, end_s = _span(request)
            self._bytes_per_second = max(self._bytes_per_second, len(source) / max(end_s - start_s, 1 / SAMPLE_RATE))
            return False
        self._left -= len(source)
        return True


def make_clips(requests: Sequence[ClipRequest], config: Config) -> dict[tuple[str, int, int], Clip]:
    """Returns a clip for every request, by its key. The budget is spent in the order of the requests."""
    if not config.report.audio_mb:
        return make_empty_clips(requests, NOT_REQUESTED)
    distinct = list({request.key: request for request in requests}.values())
    budget = _ByteBudget(int(config.report.audio_mb * MEGABYTE))
    clips: dict[tuple[str, int, int], Clip] = {}
    for number, (request, audio) in enumerate(_iter_encoded_clips(distinct, budget, config)):
        if isinstance(audio, str):
            clips[request.key] = _empty_clip(request, audio)
            continue
        source = f"data:audio/ogg;base64,{base64.b64encode(audio).decode()}"
        fits = budget.take(request, source)
        clips[request.key] = (
            Clip(f"clip-{number}", source, None, *_span(request)) if fits else _empty_clip(request, OVER_BUDGET)
        )
    return clips


def make_empty_clips(requests: Sequence[ClipRequest], reason: str) -> dict[tuple[str, int, int], Clip]:
    """Returns a clip without audio for every request."""
    return {request.key: _empty_clip(request, reason) for request in requests}


def _iter_encoded_clips(
    requests: Sequence[ClipRequest], budget: _ByteBudget, config: Config
) -> Iterator[tuple[ClipRequest, bytes | str]]:
    """Yields each request with its Opus bytes, or with the reason why there are none."""
    deadline = time.monotonic() + config.report.audio_timeout_s
    limits = {"max_attempts": MAX_ATTEMPTS, "timeout_s": TIMEOUT_S}
    storage, resources = Storage(config.storage.model_copy(update=limits)), config.resources
    with closing(
        SubprocessDecoder(resources.decoder_memory_mb, min(resources.decoder_timeout_s, TIMEOUT_S))
    ) as decoder:
        for request in requests:
            if not budget.can_fit(request):
                yield request, OVER_BUDGET
            elif time.monotonic() > deadline:
                yield request, TIMED_OUT
            else:
                yield request, _encode_clip(request, storage, decoder, config)


def _encode_clip(request: ClipRequest, storage: Storage, decoder: SubprocessDecoder, config: Config) -> bytes | str:
    recording = request.recording
    try:
        (reason,) = iter_audio_problems([recording], storage)
        if reason is not None:
            return reason
        if is_remote(recording.uri) and (_num_bytes(recording) or 0) > MAX_FETCH_BYTES:
            return "the file is too large to be fetched for a clip"
        with tempfile.TemporaryDirectory(prefix="distil-ray-") as folder:
            (fetched,) = prefetch_files([recording], {}, Path(folder), storage, threads=1)
            if isinstance(fetched, StorageError):
                return describe_read_error(fetched)
            return _decode(request, fetched, decoder, config)
    except Exception as error:  # a clip must not fail the page
        return f"the audio is not available ({type(error).__name__})"


def _num_bytes(recording: Recording) -> int | None:
    """Returns the size of what is fetched: a member of an uncompressed archive, or else the whole file."""
    location = recording.location
    return recording.source_size if location is None or location.byte_start is None else location.num_bytes


def _decode(request: ClipRequest, fetched: Path, decoder: SubprocessDecoder, config: Config) -> bytes | str:
    base = audio_segment_for(request.recording, config.input.channels)
    cut = replace(base, start=base.start + request.start, length=max(1, min(request.length, MAX_CLIP_SAMPLES)))
    decoded = decoder.decode(str(fetched), display_name(request.recording), cut)
    pieces: list[PCM16] = [item for item in decoded if isinstance(item, np.ndarray)]
    if not pieces:
        return "the audio can no longer be decoded"
    return encode_opus(np.concatenate(pieces))


def _span(request: ClipRequest) -> tuple[float, float]:
    return request.start / SAMPLE_RATE, (request.start + min(request.length, MAX_CLIP_SAMPLES)) / SAMPLE_RATE


def _empty_clip(request: ClipRequest, reason: str) -> Clip:
    return Clip("", None, reason, *_span(request))
