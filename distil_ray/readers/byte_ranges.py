"""Groups of byte ranges of one file that are read with one request, such as neighboring members of a plain tar.

Object stores charge for requests, and each one waits for the network. What lies between two wanted ranges is read too
if it is short. A group is copied to the local disk as a whole; its ranges are then cut out of the copy.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from distil_ray.storage.range_reader import MAX_GAP_BYTES, ByteRange

MAX_GROUP_BYTES = 64 << 20  # on the local disk, beside the files that are cut out: an hour of FLAC is some 60 MB
COPY_BYTES = 1 << 20


def group_ranges(ranges: Sequence[ByteRange], max_gap_bytes: int | None = None) -> Iterator[tuple[int, ByteRange]]:
    """Divides ranges of a file, in their order, into groups that are read at once.

    Args:
        ranges: The ranges, in any order; several may be equal or overlap.
        max_gap_bytes: Most bytes between two ranges of a group; default `MAX_GAP_BYTES`.

    Yields:
        For each group the number of its ranges, and the range that covers them: at most `MAX_GROUP_BYTES`, unless it is
        a single range.
    """
    gap = MAX_GAP_BYTES if max_gap_bytes is None else max_gap_bytes
    count, (begin, end) = 0, (0, 0)
    for start, stop in ranges:
        covered = min(begin, start), max(end, stop)
        is_near = start <= end + gap and stop >= begin - gap
        if count and is_near and covered[1] - covered[0] <= MAX_GROUP_BYTES:
            count, (begin, end) = count + 1, covered
            continue
        if count:
            yield count, (begin, end)
        count, (begin, end) = 1, (start, stop)
    if count:
        yield count, (begin, end)


def cut_range(source: Path, start: int, size: int, target: Path) -> None:
    """Copies `size` bytes from byte `start` of a local file to another. Raises `OSError` if there are fewer."""
    with open(source, "rb") as file, open(target, "wb") as sink:
        file.seek(start)
        left = size
        while left and (piece := file.read(min(left, COPY_BYTES))):
            sink.write(piece)
            left -= len(piece)
    if left:
        raise OSError(f"{source}: ends {left} bytes too early")
