"""A proxy before an S3 server that misbehaves as stores and networks do.

What goes wrong with a request is decided by its place in a seeded sequence. Nothing here knows what the bodies mean,
but for listings, of which it can show old ones.
"""

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable

from benchmarks.scale.proxy import Answer, Exchange, Request, S3Proxy

SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)

Fault = Callable[[Exchange], None]


def reset(exchange: Exchange) -> None:
    """Ends the connection by RST, as a crashed server or a firewall does."""
    connection = exchange.handler.connection
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.handler.close_connection = True
    connection.shutdown(socket.SHUT_RD)
    connection.close()


def slow_down(exchange: Exchange) -> None:
    """503 SlowDown, as S3 answers to too many requests. An unread body might reset the connection before it is read."""
    exchange.read()
    exchange.reply(Answer(503, [("Content-Type", "application/xml")], SLOW_DOWN))


def reset_before(exchange: Exchange) -> None:
    """The connection breaks before the server has heard of the request."""
    reset(exchange)


def lost_answer(exchange: Exchange) -> None:
    """The server does what it was asked for, but the connection breaks before it says so."""
    exchange.forward()
    reset(exchange)


def silent(seconds: float) -> Fault:
    """The server hears the request and does not answer in time."""

    def fault(exchange: Exchange) -> None:
        time.sleep(seconds)
        reset(exchange)

    return fault


def truncated(exchange: Exchange) -> None:
    """Half of the body that was promised, then the end of the connection."""
    answer = exchange.forward()
    exchange.reply(answer, len(answer.body) // 2)


def refused_half_way(exchange: Exchange) -> None:
    """The server breaks off while the request's body is still being sent."""
    exchange.handler.rfile.read(exchange.body_size // 2)
    reset(exchange)


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


class FaultyProxy(S3Proxy):
    """Forwards to `upstream`; every request may meet one of `faults`, with the probability `rate`.

    A request that failed is let through `patience` tries later at the latest, as a store that recovers does.
    """

    def __init__(self, upstream: str, seed: int = 0) -> None:
        super().__init__(upstream)
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
