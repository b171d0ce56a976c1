"""Many small requests to a remote store at once, their answers in order, and never many at a time in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from distil_ray.storage.storage import is_remote

Item = TypeVar("Item")
Answer = TypeVar("Answer")

REMOTE_THREADS = 16  # requests under way to a remote store


def threads_for(uri: str) -> int:
    """Requests to have under way where `uri` lies: one on a local disk, where a look is cheaper than a thread."""
    return REMOTE_THREADS if is_remote(uri) else 1


def map_ahead(function: Callable[[Item], Answer], items: Iterable[Item], threads: int) -> Iterator[Answer]:
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
