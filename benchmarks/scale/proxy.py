"""An HTTP proxy on loopback before an S3 server: counts requests, adds latency, or whatever a subclass does.

`S3Proxy` forwards each request. A subclass overrides `handle` and may answer differently (tests/faults/proxy.py) or
count (`counting.py`). Bodies are not interpreted here.
"""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "proxy-connection", "te", "upgrade"}
UPSTREAM_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Request:
    """A request without its body. `path` includes the query."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    @property
    def is_listing(self) -> bool:
        return self.method == "GET" and "list-type" in self.query

    def header(self, name: str) -> str | None:
        """Returns the value of a header, whose name is not case-sensitive; None if it was not sent."""
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response of the server."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Exchange:
    """A request whose body is not yet read, and the connection on which it is answered."""

    def __init__(self, handler: BaseHTTPRequestHandler, request: Request, upstream: tuple[str, int]) -> None:
        self.handler, self.request, self._upstream = handler, request, upstream
        self.body_size = int(handler.headers.get("Content-Length") or 0)
        self._body: bytes | None = None

    def read(self) -> bytes:
        """Returns the body of the request, read from the connection the first time."""
        if self._body is None:
            self._body = self.handler.rfile.read(self.body_size)
        return self._body

    def forward(self) -> Answer:
        """Sends the request to the server and returns its response."""
        body = self.read()
        connection = http.client.HTTPConnection(*self._upstream, timeout=UPSTREAM_TIMEOUT_S)
        try:
            connection.request(self.request.method, self.request.path, body, self.request.headers)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def reply(self, answer: Answer, num_bytes: int | None = None) -> None:
        """Sends a response; only the first `num_bytes` of its body if given, whatever the headers promise."""
        handler = self.handler
        # An unread body would be taken for the next request.
        is_over = self._body is None or num_bytes is not None
        handler.send_response(answer.status)
        is_head = self.request.method == "HEAD"
        for name, value in answer.headers:
            if name.lower() not in HOP_BY_HOP and (is_head or name.lower() != "content-length"):
                handler.send_header(name, value)
        if not is_head:
            handler.send_header("Content-Length", str(len(answer.body)))
        if is_over:
            handler.close_connection = True
            handler.send_header("Connection", "close")
        handler.end_headers()
        if not is_head:
            handler.wfile.write(answer.body[:num_bytes])
        handler.wfile.flush()


class S3Proxy:
    """Forwards every request to `upstream`, the URL of an S3 server."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (str(parts.hostname), int(parts.port or 80))

    def handle(self, exchange: Exchange) -> None:
        """Answers a request. Called in a thread per connection."""
        exchange.reply(exchange.forward())

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Listens on a free port of 127.0.0.1; yields its URL."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else a response waits up to 40 ms for the client's acknowledgment

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
                return True  # answered above, because a subclass may break off before

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
