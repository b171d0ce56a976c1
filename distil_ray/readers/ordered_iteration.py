"""Parts of one file, written to local files as they are met, and given out in the order in which they are asked for.

What is met before its turn waits on the disk; what is asked for several times (segments of one member) is there for
each. A part that is never met ends the giving out.
"""

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path

from distil_ray.storage.storage import StorageError

Write = Callable[[Path], StorageError | None]  # writes a part to a file, or says why it cannot be had


def hand_out(
    wanted: Sequence[Hashable], met: Iterator[tuple[Hashable, Write]], target: Path
) -> Iterator[Path | StorageError]:
    """A file, the taker's to remove, or the reason, for each of `wanted`; ends early where a part is not met.

    Of parts with the same name the first counts. Files are put beside `target`, under its name with a suffix.
    """
    uses = Counter(wanted)
    ready: dict[Hashable, Path | StorageError] = {}
    for number, name in enumerate(wanted):
        while name not in ready and (part := next(met, None)) is not None:
            found, write = part
            if found in uses and found not in ready:
                path = target.with_name(f"{target.name}-part{len(ready)}")
                ready[found] = write(path) or path
        if name not in ready:
            return
        kept = ready[name]
        if isinstance(kept, StorageError):
            yield kept
            continue
        given = target.with_name(f"{target.name}-{number}")
        os.link(kept, given)
        uses[name] -= 1
        if not uses[name]:
            kept.unlink()
        yield given
