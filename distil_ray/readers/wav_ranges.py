"""Segments of a WAV in a remote store: its header and their own bytes are fetched, not the file.

Samples that are not compressed lie where their time says, so what is wanted of a file can be asked for by ranges. They
are put where they belong into a local file of the whole one's size, whose other bytes are holes that take no room: it
is decoded like any other, and the decoder (audio/segments.py) seeks to what is there. Other formats have no such places, or
only libraries know them; of those the whole file is fetched, once for all segments of a block.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from distil_ray.audio.headers import WavLayout, read_wav_layout
from distil_ray.storage.storage import Storage, is_remote
from distil_ray.types import Recording

HEAD_BYTES = 1 << 16
MAX_FRACTION = 0.5  # of the file: who wants more of it gets all
MARGIN_BEFORE_S, MARGIN_AFTER_S = 1.5, 0.5  # what a decoder hears around a segment that it resamples, and more

Range = tuple[int, int]  # first byte, one past the last


def fetch_wav_ranges(unit: Sequence[Recording], target: Path, storage: Storage) -> bool:
    """Fetches what the segments of one file need to `target`; False if that is not how to read them, and nothing is
    there. Raises `StorageError` and OSError."""
    uri, size = unit[0].uri, unit[0].source_size
    spans = list(_spans(unit))
    if not is_remote(uri) or size is None or size <= 2 * HEAD_BYTES or len(spans) < len(unit):
        return False
    head = storage.read_range(uri, 0, HEAD_BYTES)
    layout = read_wav_layout(head)
    if layout is None:
        return False
    ranges = list(_joined(sorted(_bytes_of(span, layout, size) for span in spans)))
    if sum(end - start for start, end in ranges) > MAX_FRACTION * size:
        return False
    with open(target, "wb") as file:
        file.truncate(size)
        file.write(head)
        for start, end in ranges:
            file.seek(start)
            storage.copy_range(uri, start, end - start, file)
    return True


def _spans(unit: Sequence[Recording]) -> Iterator[tuple[float, float]]:
    """First and last second of those that are segments of a file, with an end."""
    for recording in unit:
        place = recording.location
        if place is not None and place.member is None and place.byte_start is None and place.length_s is not None:
            start_s = place.start_s or 0.0
            yield start_s, start_s + place.length_s


def _bytes_of(span: tuple[float, float], layout: WavLayout, size: int) -> Range:
    first = int((span[0] - MARGIN_BEFORE_S) * layout.rate) * layout.frame_bytes
    last = int((span[1] + MARGIN_AFTER_S) * layout.rate) * layout.frame_bytes
    start = min(layout.first_byte + max(0, first), size)
    return start, max(start, min(layout.first_byte + last, size))


def _joined(ranges: Sequence[Range]) -> Iterator[Range]:
    """The same bytes in ranges that do not touch, in order."""
    start, end = ranges[0]
    for next_start, next_end in ranges[1:]:
        if next_start > end:
            yield start, end
            start = next_start
        end = max(end, next_end)
    yield start, end
