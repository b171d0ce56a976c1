"""A proxy that counts the requests to an S3 server by kind and by what they are for."""

import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from benchmarks.scale.proxy import Exchange, Request, S3Proxy

_KEY_OF_DELETE = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)  # the first of a request that deletes many


class Kind(StrEnum):
    """Kinds of requests, as stores count and charge them. A part of a multipart upload is a PUT."""

    LIST = "LIST"
    HEAD = "HEAD"
    GET = "GET"
    RANGED_GET = "ranged GET"
    PUT = "PUT"
    CONDITIONAL_PUT = "conditional PUT"
    DELETE = "DELETE"


def kind_of(request: Request) -> Kind:
    """Returns the kind of a request."""
    if request.is_listing:
        return Kind.LIST
    if request.method == "GET":
        return Kind.RANGED_GET if request.header("Range") else Kind.GET
    if request.method == "HEAD":
        return Kind.HEAD
    if request.method == "DELETE" or "delete" in request.query:
        return Kind.DELETE
    is_conditional = request.header("If-None-Match") or request.header("If-Match")
    return Kind.CONDITIONAL_PUT if is_conditional else Kind.PUT


def key_of(request: Request, body: bytes) -> str:
    """Returns ``bucket/key``: of a listing the prefix, of a request that deletes many the first key."""
    path = unquote(urlsplit(request.path).path).strip("/")
    if request.is_listing:
        return f"{path}/{request.query.get('prefix', [''])[0]}"
    if request.method == "POST" and "delete" in request.query and (found := _KEY_OF_DELETE.search(body)):
        return f"{path}/{found[1].decode()}"
    return path


@dataclass(slots=True)
class Traffic:
    """Requests by kind, and bytes of bodies from and to the store."""

    requests: Counter[Kind] = field(default_factory=Counter)
    bytes_read: int = 0
    bytes_written: int = 0


class CountingProxy(S3Proxy):
    """Counts requests by a name made of the key.

    Args:
        upstream: URL of the S3 server.
        name: Function of the request and of ``bucket/key`` (`key_of`).
        latency_s: Added to each response.
    """

    def __init__(
        self, upstream: str, name: Callable[[Request, str], str] = lambda request, key: "", latency_s: float = 0.0
    ) -> None:
        super().__init__(upstream)
        self._name, self._latency_s = name, latency_s
        self._lock = threading.Lock()
        self.traffic: defaultdict[str, Traffic] = defaultdict(Traffic)

    def handle(self, exchange: Exchange) -> None:
        body = exchange.read()
        answer = exchange.forward()
        request = exchange.request
        with self._lock:
            counted = self.traffic[self._name(request, key_of(request, body))]
            counted.requests[kind_of(request)] += 1
            counted.bytes_written += len(body)
            counted.bytes_read += len(answer.body)
        if self._latency_s:
            time.sleep(self._latency_s)
        exchange.reply(answer)

    def take_requests(self) -> Counter[Kind]:
        """Returns the requests of all names since the last call, and forgets them."""
        with self._lock:
            counted = sum((each.requests for each in self.traffic.values()), Counter[Kind]())
            self.traffic.clear()
        return counted
