"""Parts of one file, written to local files as they are met, and given out in the order in which they are asked for.

What is met before its turn waits on the disk; what is asked for several times (segments of one member) is there for
each. A part that is never met ends the giving out.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from distil_ray.storage.storage import StorageError, is_remote

Write = Callable[[Path], StorageError | None]  # writes a part to a file, or says why it cannot be had


def iter_in_order(
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


Item = TypeVar("Item")
Answer = TypeVar("Answer")

REMOTE_THREADS = 16  # requests under way to a remote store


def num_request_threads(uri: str) -> int:
    """Requests to have under way where `uri` lies: one on a local disk, where a look is cheaper than a thread."""
    return REMOTE_THREADS if is_remote(uri) else 1


def ordered_parallel_map(function: Callable[[Item], Answer], items: Iterable[Item], threads: int) -> Iterator[Answer]:
    """`map` with `threads` calls under way; the answers come in the order of the items.

    At most twice as many items as threads are held. One thread means plain `map`, in the caller's thread. What
    `function` raises is raised in the place of its answer.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    pending: deque[Future[Answer]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
