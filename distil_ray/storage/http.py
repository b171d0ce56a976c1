"""HTTP sessions for fsspec: retries of requests, detection of servers without range requests, translation of errors.

fsspec's HTTP file system reads through such a session (`storage.py`). As with other stores, a request has failed after
``storage.max_attempts`` tries. A body that ends early is not a failed request: `Storage.fetch` repeats the download.
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import aiohttp
import fsspec

WAIT_S = 0.2  # before the second try; twice as long before each further one
MAX_WAIT_S = 20.0
RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})  # a further try may succeed

Handler = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]


class NoRangesError(Exception):
    """The server ignores range requests and sends whole files."""

    def __init__(self) -> None:
        super().__init__("the server does not support range requests; copy the file to a store that does")


def make_session_factory(max_attempts: int, timeout_s: float) -> Callable[..., Awaitable[aiohttp.ClientSession]]:
    """Returns the function with which fsspec creates its session.

    Args:
        max_attempts: Tries of a request.
        timeout_s: Seconds without a connection or a byte; not a limit for a whole file.
    """

    async def again(request: aiohttp.ClientRequest, handler: Handler) -> aiohttp.ClientResponse:
        for attempt in range(1, max_attempts + 1):
            is_last = attempt == max_attempts
            try:
                response = await handler(request)
            except (aiohttp.ClientConnectionError, TimeoutError):
                if is_last:
                    raise
            else:
                if is_last or response.status not in RETRYABLE_STATUSES:
                    return _with_range(request, response)
                response.close()
            await asyncio.sleep(retry_delay_s(attempt))
        raise AssertionError("at least one attempt is made")

    async def make(**options: Any) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        return aiohttp.ClientSession(timeout=timeout, middlewares=(again,), trust_env=True, **options)

    return make


def _with_range(request: aiohttp.ClientRequest, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    """Returns the response. Raises `NoRangesError`, before the body is read, if a range request got a whole file."""
    if "Range" in request.headers and response.status == HTTPStatus.OK:
        response.close()
        raise NoRangesError
    return response


def has_ranges(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    """Returns whether the server supports range requests for this file."""
    try:
        return len(fs.cat_file(path, start=0, end=1)) == 1
    except NoRangesError:
        return False


def retry_delay_s(attempt: int) -> float:
    """Returns the seconds to wait after this many tries."""
    return float(min(WAIT_S * 2 ** (attempt - 1), MAX_WAIT_S))


def translate_http_error(error: Exception) -> Exception:
    """Returns the error of a request as `FileNotFoundError`, `PermissionError`, or unchanged.

    fsspec reports every failure to get a file's metadata as "not found"; its cause holds the server's answer.
    """
    answer = error
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, (aiohttp.ClientError, TimeoutError)):
        answer = error.__cause__
    status = answer.status if isinstance(answer, aiohttp.ClientResponseError) else None
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return FileNotFoundError(str(answer))
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return PermissionError(str(answer))
    return answer
