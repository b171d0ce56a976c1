"""An S3 server that keeps one bucket in memory and answers after a given latency.

moto takes 14 s to list 20,000 objects; this one lists a thousand in a few milliseconds, and equal contents are kept
once. It has the requests that a ledger needs: LIST, HEAD, GET of a range, PUT (also only if absent), DELETE.
"""

import hashlib
import re
import threading
import time
from bisect import bisect_right
from collections import Counter
from email.utils import formatdate
from functools import lru_cache
from html import escape
from urllib.parse import unquote, urlsplit

from benchmarks.scale.counting import Kind, kind_of
from benchmarks.scale.proxy import Answer, Exchange, Request, S3Proxy

BUCKET = "bucket"
PAGE = 1000  # keys of a listing
NO_KEY = b"<Error><Code>NoSuchKey</Code></Error>"
_QUOTE = '"'
EXISTS = b"<Error><Code>PreconditionFailed</Code><Condition>If-None-Match</Condition></Error>"


class MemoryStore(S3Proxy):
    """Objects by key.

    Args:
        latency_s: Seconds before each response; may be changed later.
    """

    def __init__(self, latency_s: float) -> None:
        super().__init__("http://127.0.0.1")
        self.latency_s = latency_s
        self._lock = threading.Lock()
        self._sorted: list[str] | None = None
        self._modified: dict[str, float] = {}
        self._etags: dict[int, str] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: Counter[Kind] = Counter()
        self.bytes_read = 0  # bodies of responses

    def put(self, key: str, data: bytes) -> None:
        """Stores an object."""
        with self._lock:
            self.objects[key] = data
            self._modified[key] = time.time()
            self._sorted = None

    def handle(self, exchange: Exchange) -> None:
        body = exchange.read()
        answer = self._answer(exchange.request, body)
        with self._lock:
            self.requests[kind_of(exchange.request)] += 1
            self.bytes_read += len(answer.body)
        time.sleep(self.latency_s)
        exchange.reply(answer)

    def _answer(self, request: Request, body: bytes) -> Answer:
        key = unquote(urlsplit(request.path).path).strip("/").partition("/")[2]
        if request.is_listing:
            return self._list(request)
        if request.method == "PUT":
            if request.header("If-None-Match") and key in self.objects:
                return Answer(412, [], EXISTS)
            self.put(key, body)
            return Answer(200, [("ETag", self._etag(body))], b"")
        if request.method in ("DELETE", "POST"):
            gone = re.findall(rb"<Key>(.*?)</Key>", body) if request.method == "POST" else [key.encode()]
            with self._lock:
                for one in gone:
                    self.objects.pop(one.decode(), None)
                self._sorted = None
            return Answer(200, [], b"<DeleteResult/>")
        data = self.objects.get(key)
        return Answer(404, [], NO_KEY) if data is None else self._get(request, data, self._modified.get(key, 0.0))

    def _get(self, request: Request, data: bytes, modified: float) -> Answer:
        headers = [("ETag", self._etag(data)), ("Last-Modified", formatdate(modified, usegmt=True))]
        if request.method == "HEAD":
            return Answer(200, [*headers, ("Content-Length", str(len(data)))], b"")
        if (wanted := request.header("Range")) is None:
            return Answer(200, headers, data)
        begin, _, end = wanted.removeprefix("bytes=").partition("-")
        found = data[int(begin) : int(end or len(data)) + 1]
        place = f"bytes {begin}-{int(begin) + len(found) - 1}/{len(data)}"
        return Answer(206, [*headers, ("Content-Range", place)], found)

    def _list(self, request: Request) -> Answer:
        prefix = request.query.get("prefix", [""])[0]
        start = max(prefix, request.query.get("start-after", [""])[0])
        after = request.query.get("continuation-token", [start])[0]
        with self._lock:
            if self._sorted is None:
                self._sorted = sorted(self.objects)
            keys = self._sorted
        begin = bisect_right(keys, after)
        if delimiter := request.query.get("delimiter", [""])[0]:
            return _list_folders(keys, begin, prefix, delimiter)
        page = [key for key in keys[begin : begin + PAGE] if key.startswith(prefix)]
        more = begin + PAGE < len(keys) and keys[begin + PAGE].startswith(prefix)
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{_day(self._modified.get(key, 0.0))}</LastModified>"
            f"<ETag>{self._etag(data).replace(_QUOTE, '&quot;')}</ETag><Size>{len(data)}</Size></Contents>"
            for key, data in zip(page, map(self.objects.__getitem__, page), strict=True)
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        head = f"<IsTruncated>{str(more).lower()}</IsTruncated><KeyCount>{len(page)}</KeyCount>{token}"
        text = f"<?xml version='1.0'?><ListBucketResult><Name>{BUCKET}</Name>{head}{rows}</ListBucketResult>"
        return Answer(200, [("Content-Type", "application/xml")], text.encode())

    def _etag(self, data: bytes) -> str:
        if id(data) not in self._etags:
            self._etags[id(data)] = f'"{hashlib.md5(data).hexdigest()}"'
        return self._etags[id(data)]


@lru_cache(1024)
def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


def _list_folders(keys: list[str], begin: int, prefix: str, delimiter: str) -> Answer:
    """Returns a page of what is left of keys at the delimiter; of files without one, only that they are there."""
    folders: list[str] = []
    while begin < len(keys) and keys[begin].startswith(prefix) and len(folders) < PAGE:
        name, found, _ = keys[begin].removeprefix(prefix).partition(delimiter)
        if found:
            folders.append(f"{prefix}{name}{delimiter}")
            begin = bisect_right(keys, f"{folders[-1]}\U0010ffff")
        else:
            begin += 1
    more = begin < len(keys) and keys[begin].startswith(prefix)
    token = f"<NextContinuationToken>{escape(keys[begin - 1])}</NextContinuationToken>" if more else ""
    rows = "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
    head = f"<IsTruncated>{str(more).lower()}</IsTruncated><KeyCount>{len(folders)}</KeyCount>{token}"
    text = f"<?xml version='1.0'?><ListBucketResult><Name>{BUCKET}</Name>{head}{rows}</ListBucketResult>"
    return Answer(200, [("Content-Type", "application/xml")], text.encode())
