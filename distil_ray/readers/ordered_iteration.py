"""Parallel requests with results in order, and parts of a file in the order in which they are asked for.

Both hold a bounded number of items: `ordered_parallel_map` twice as many as it has threads; `iter_in_order` keeps early
parts on the local disk.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import is_remote

Write = Callable[[Path], StorageError | None]  # writes a part to a file, or says why it cannot be had


def iter_in_order(
    wanted: Sequence[Hashable], met: Iterator[tuple[Hashable, Write]], target: Path
) -> Iterator[Path | StorageError]:
    """Yields a file, or the error, for each of `wanted`, in that order. Ends early if a part is never found.

    A part that is found too early waits on the disk. A part that is wanted several times (segments of one member) is
    yielded each time. Of several parts with the same name the first counts.

    Args:
        wanted: Names of parts, in the order of the results.
        met: (name, writer) of the parts in the order in which they are found.
        target: Path beside which the files are written, under its name with a suffix. The caller removes them.
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
    """Returns how many requests to run at once.

    It is `REMOTE_THREADS` for a remote URI, and 1 on a local disk, where a request is cheaper than a thread.
    """
    return REMOTE_THREADS if is_remote(uri) else 1


def ordered_parallel_map(
    function: Callable[[Item], Answer],
    items: Iterable[Item],
    threads: int,
    waits: Callable[[Item], bool] | None = None,
) -> Iterator[Answer]:
    """Maps `function` over `items` in threads, and yields the results in the order of the items.

    At most twice as many items as threads are held. With one thread it is the plain `map`, in the caller's thread. An
    exception of `function` is raised in the place of its result.

    Args:
        function: The function.
        items: Its arguments.
        threads: Number of threads.
        waits: Returns whether `function` sends a request for an item. The other items are mapped in the caller's
            thread, which takes a microsecond instead of fifty. None: it does for all.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    pending: deque[Future[Answer]] = deque()
    try:
        for item in items:
            if waits is None or waits(item):
                pending.append(pool.submit(function, item))
            elif not pending:
                yield function(item)
                continue
            else:
                pending.append(_completed(function, item))
            if len(pending) >= 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _completed(function: Callable[[Item], Answer], item: Item) -> Future[Answer]:
    """Returns the result of `function` as a future."""
    future: Future[Answer] = Future()
    try:
        future.set_result(function(item))
    except Exception as error:
        future.set_exception(error)
    return future
