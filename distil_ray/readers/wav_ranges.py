"""Fetches only the byte ranges of a remote WAV that its wanted segments need.

In a WAV of uncompressed samples, a time is a byte offset. The ranges are written at their offsets into a local file of
the same size; the rest of that file are holes, which take no disk space. The file is then decoded like any other: the
decoder seeks to the segments (`audio.segments`). In other formats only a decoder knows the offsets, so that the whole
file is fetched, once for all segments of a task.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from distil_ray.audio.headers import WavLayout, read_wav_layout
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import is_remote
from distil_ray.types import Recording

HEAD_BYTES = 1 << 16
MAX_FRACTION = 0.5  # of the file; beyond it the whole file is fetched
MARGIN_BEFORE_S, MARGIN_AFTER_S = 1.5, 0.5  # more than the context that a decoder needs to resample a segment

Range = tuple[int, int]  # first byte, one past the last


def fetch_wav_ranges(unit: Sequence[Recording], target: Path, storage: Storage) -> bool:
    """Fetches the header of a remote WAV and the bytes of its segments.

    Args:
        unit: Segments of one file.
        target: The local file to write.
        storage: Where the WAV lies.

    Returns:
        Whether `target` was written. It is not if the whole file has to be fetched instead.

    Raises:
        StorageError: The file cannot be read.
        OSError: `target` cannot be written.
    """
    uri, size = unit[0].uri, unit[0].source_size
    spans = list(_segment_spans(unit))
    if not is_remote(uri) or size is None or size <= 2 * HEAD_BYTES or len(spans) < len(unit):
        return False
    head = storage.read_range(uri, 0, HEAD_BYTES)
    layout = read_wav_layout(head)
    if layout is None:
        return False
    ranges = list(_merge_ranges(sorted(_byte_range(span, layout, size) for span in spans)))
    if sum(end - start for start, end in ranges) > MAX_FRACTION * size:
        return False
    with open(target, "wb") as file:
        file.truncate(size)
        file.write(head)
        for start, end in ranges:
            file.seek(start)
            storage.copy_range(uri, start, end - start, file)
    return True


def _segment_spans(unit: Sequence[Recording]) -> Iterator[tuple[float, float]]:
    """Yields begin and end in seconds of each recording that is a segment of a whole file, with a known end."""
    for recording in unit:
        place = recording.location
        if place is not None and place.member is None and place.byte_start is None and place.length_s is not None:
            start_s = place.start_s or 0.0
            yield start_s, start_s + place.length_s


def _byte_range(span: tuple[float, float], layout: WavLayout, size: int) -> Range:
    """Returns the bytes of a span of seconds, with margins, in a file of `size` bytes."""
    first = int((span[0] - MARGIN_BEFORE_S) * layout.rate) * layout.frame_bytes
    last = int((span[1] + MARGIN_AFTER_S) * layout.rate) * layout.frame_bytes
    start = min(layout.first_byte + max(0, first), size)
    return start, max(start, min(layout.first_byte + last, size))


def _merge_ranges(ranges: Sequence[Range]) -> Iterator[Range]:
    """Merges sorted ranges that touch or overlap."""
    start, end = ranges[0]
    for next_start, next_end in ranges[1:]:
        if next_start > end:
            yield start, end
            start = next_start
        end = max(end, next_end)
    yield start, end
