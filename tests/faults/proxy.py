"""An HTTP proxy on loopback that stands before an S3 server and misbehaves as stores and networks do.

What goes wrong with a request is decided by its place in a seeded sequence. Nothing here knows what the bodies mean,
but for listings, of which it can show old ones.
"""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "proxy-connection", "te", "upgrade"}


@dataclass(frozen=True, slots=True)
class Request:
    """What a fault may look at."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def is_listing(self) -> bool:
        return self.method == "GET" and "list-type" in parse_qs(urlsplit(self.path).query)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


Fault = Callable[["Exchange"], None]


class Exchange:
    """One request on its way, its body not yet read: a fault calls some of these, and nothing else happens."""

    def __init__(self, handler: BaseHTTPRequestHandler, request: Request, upstream: tuple[str, int]) -> None:
        self._handler, self.request, self._upstream = handler, request, upstream
        self._body_size = int(handler.headers.get("Content-Length") or 0)

    def read(self) -> bytes:
        """Takes the request's body off the wire."""
        return self._handler.rfile.read(self._body_size)

    def read_half(self) -> None:
        """Takes the first half of the request's body off the wire."""
        self._handler.rfile.read(self._body_size // 2)

    def forward(self) -> Answer:
        """Asks the real server."""
        body = self.read()
        connection = http.client.HTTPConnection(*self._upstream, timeout=60)
        try:
            connection.request(self.request.method, self.request.path, body, self.request.headers)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def reply(self, answer: Answer, num_bytes: int | None = None) -> None:
        """Sends an answer; only the first `num_bytes` of its body if given, whatever the headers promise."""
        handler = self._handler
        handler.close_connection = True  # the request's body may lie unread on it
        handler.send_response(answer.status)
        is_head = self.request.method == "HEAD"
        for name, value in answer.headers:
            if name.lower() not in HOP_BY_HOP and (is_head or name.lower() != "content-length"):
                handler.send_header(name, value)
        if not is_head:
            handler.send_header("Content-Length", str(len(answer.body)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        if not is_head:
            handler.wfile.write(answer.body[:num_bytes])
        handler.wfile.flush()

    def reset(self) -> None:
        """Ends the connection by RST, as a crashed server or a firewall does."""
        connection = self._handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._handler.close_connection = True
        connection.shutdown(socket.SHUT_RD)
        connection.close()


def slow_down(exchange: Exchange) -> None:
    """503 SlowDown, as S3 answers to too many requests. An unread body might reset the connection before it is read."""
    exchange.read()
    exchange.reply(Answer(503, [("Content-Type", "application/xml")], SLOW_DOWN))


def reset_before(exchange: Exchange) -> None:
    """The connection breaks before the server has heard of the request."""
    exchange.reset()


def lost_answer(exchange: Exchange) -> None:
    """The server does what it was asked for, but the connection breaks before it says so."""
    exchange.forward()
    exchange.reset()


def silent(seconds: float) -> Fault:
    """The server hears the request and does not answer in time."""

    def fault(exchange: Exchange) -> None:
        time.sleep(seconds)
        exchange.reset()

    return fault


def truncated(exchange: Exchange) -> None:
    """Half of the body that was promised, then the end of the connection."""
    answer = exchange.forward()
    exchange.reply(answer, len(answer.body) // 2)


def refused_half_way(exchange: Exchange) -> None:
    """The server breaks off while the request's body is still being sent."""
    exchange.read_half()
    exchange.reset()


def every_fault(silence_s: float) -> dict[str, Fault]:
    """All of them by their names, in the order above; the server is silent for `silence_s`."""
    return {
        "slow-down": slow_down,
        "reset": reset_before,
        "lost-answer": lost_answer,
        "half-a-put": refused_half_way,
        "truncated": truncated,
        "silent": silent(silence_s),
    }


class FaultyProxy:
    """Forwards to `upstream`; every request may meet one of `faults`, with the probability `rate`.

    A request that failed is let through `patience` tries later at the latest, as a store that recovers does.
    """

    def __init__(self, upstream: str, seed: int = 0) -> None:
        parts = urlsplit(upstream)
        self._upstream = (str(parts.hostname), int(parts.port or 80))
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._failures: Counter[tuple[str, str]] = Counter()
        self._old_listings: dict[str, Answer] = {}
        self.faults: tuple[Fault, ...] = ()
        self.rate, self.patience = 0.0, 2
        self.applies: Callable[[Request], bool] = lambda request: True
        self.stale_listings = 0.0  # probability that a listing answers as it did the first time it was asked for
        self.done: Counter[str] = Counter()

    def choose(self, request: Request) -> Fault | None:
        """What goes wrong with this request, if anything."""
        key = (request.method, request.path)
        with self._lock:
            if not self.faults or not self.applies(request) or self._failures[key] >= self.patience:
                self._failures[key] = 0
                return None
            if self._random.random() >= self.rate:
                return None
            self._failures[key] += 1
            fault = self._random.choice(self.faults)
            self.done[fault.__qualname__.split(".")[0]] += 1
            return fault

    def handle(self, exchange: Exchange) -> None:
        fault = self.choose(exchange.request)
        if fault:
            fault(exchange)
        else:
            exchange.reply(self._remembered(exchange))

    def _remembered(self, exchange: Exchange) -> Answer:
        """The server's answer; for a listing perhaps an old one."""
        if not exchange.request.is_listing or not self.stale_listings:
            return exchange.forward()
        path = exchange.request.path
        with self._lock:
            old = self._old_listings.get(path)
            is_stale = old is not None and self._random.random() < self.stale_listings
            self.done["stale_listing"] += is_stale
        if is_stale and old is not None:
            return old
        answer = exchange.forward()
        with self._lock:
            self._old_listings.setdefault(path, answer)
        return answer

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Listens on a free port of loopback; gives its URL."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                if self.headers.get("Expect", "").lower() == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP | {"expect"}}
                request = Request(self.command, self.path, headers)
                try:
                    proxy.handle(Exchange(self, request, proxy._upstream))
                except OSError:
                    self.close_connection = True  # the client has gone

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names

            def handle_expect_100(self) -> bool:
                return True  # answered above, once the fault may also be to break off half way

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
