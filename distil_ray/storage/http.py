"""http(s) as a store to read from: requests that are tried again, servers without ranges told from others.

fsspec's file system for http does the reading (storage.py); here is the session that it does it with. As with the other
stores a request counts as failed after ``storage.max_attempts`` tries. A body that breaks off is not a failed request:
whoever asked for a whole file asks again (`Storage.fetch`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import aiohttp

WAIT_S = 0.2  # before the second try; twice as long before each further one
MAX_WAIT_S = 20.0
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers that another try may not meet

Handler = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]


class NoRangesError(Exception):
    """The server sends whole files only."""

    def __init__(self) -> None:
        super().__init__("the server sends whole files only, no ranges of them: copy the file to where they can be had")


def make_session_factory(max_attempts: int, timeout_s: float) -> Callable[..., Awaitable[aiohttp.ClientSession]]:
    """What fsspec makes its session with. `timeout_s`: without a connection or a byte, not for a whole file."""

    async def again(request: aiohttp.ClientRequest, handler: Handler) -> aiohttp.ClientResponse:
        for attempt in range(1, max_attempts + 1):
            is_last = attempt == max_attempts
            try:
                response = await handler(request)
            except (aiohttp.ClientConnectionError, TimeoutError):
                if is_last:
                    raise
            else:
                if is_last or response.status not in PASSING:
                    return _with_range(request, response)
                response.close()
            await asyncio.sleep(retry_delay_s(attempt))
        raise AssertionError("at least one attempt is made")

    async def make(**options: Any) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        return aiohttp.ClientSession(timeout=timeout, middlewares=(again,), trust_env=True, **options)

    return make


def _with_range(request: aiohttp.ClientRequest, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    """The response. Raises `NoRangesError`, before the body is read, for a whole file where a range was asked for."""
    if "Range" in request.headers and response.status == HTTPStatus.OK:
        response.close()
        raise NoRangesError
    return response


def retry_delay_s(attempt: int) -> float:
    """Seconds to wait after this many tries."""
    return float(min(WAIT_S * 2 ** (attempt - 1), MAX_WAIT_S))


def translate_http_error(error: Exception) -> Exception:
    """What an error of a request means, as stores say it: `FileNotFoundError`, `PermissionError`, or itself.

    fsspec calls everything that stops a look at a file "not found"; the server's own answer is the cause behind that.
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
