"""A small server on loopback that answers Hugging Face's real client as the hub does: one repository, one commit."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class FakeHub:
    """A repository, and what was asked of it.

    Attributes:
        files: Content by path in the repository; a test may change it, and a commit does.
        requests: Paths of the requests, without the query.
        read_sizes: Sizes of the answers to requests for files.
        tokens: Values of the header Authorization that came with uploads.
    """

    repository: str
    kind: Literal["models", "datasets"]
    files: dict[str, bytes]
    url: str = ""
    requests: list[str] = field(default_factory=list)
    read_sizes: list[int] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    @property
    def downloaded(self) -> set[str]:
        """Names of the files that were asked for."""
        return {path.rsplit("/", 1)[1] for path in self.requests if "/resolve/" in path}

    def get(self, url: str, byte_range: str | None) -> Answer:
        parts = urlsplit(url)
        path = unquote(parts.path)
        self.requests.append(path)
        api = f"/api/{self.kind}/{self.repository}"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
            return _json({"id": self.repository, "sha": COMMIT, "siblings": siblings})
        if path.startswith(f"{api}/revision/"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        for revision in ("main", COMMIT):
            if path.startswith(f"{api}/tree/{revision}"):
                is_recursive = parse_qs(parts.query).get("recursive", ["False"])[0].lower() in ("true", "1")
                return _json(self._tree(path.removeprefix(f"{api}/tree/{revision}").strip("/"), is_recursive))
            name = path.removeprefix(f"{self._root}/resolve/{revision}/")
            if name in self.files:
                return self._file(name, byte_range)
        return 404, {"X-Error-Code": "EntryNotFound" if path.startswith(self._root) else "RepoNotFound"}, b"{}"

    def post(self, url: str, body: bytes) -> Answer:
        path, api = urlsplit(url).path, f"/api/{self.kind}/{self.repository}"
        page = f"https://huggingface.co/{self.kind}/{self.repository}"
        if path == f"{api}/preupload/main":
            files = [{**one, "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]
            return _json({"files": files})
        if path == f"{api}/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del self.files[line["value"]["path"]]
            return _json({"commitUrl": f"{page}/commit/{COMMIT}", "commitOid": COMMIT})
        return _json({"url": page, "errors": [], "warnings": []})

    @property
    def _root(self) -> str:
        return f"/{self.repository}" if self.kind == "models" else f"/{self.kind}/{self.repository}"

    def _file(self, name: str, byte_range: str | None) -> Answer:
        data, status = self.files[name], 200
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha1(data).hexdigest()}"'}
        if byte_range:
            first, _, last = byte_range.removeprefix("bytes=").partition("-")
            data, status = data[int(first) : int(last) + 1 if last else None], 206
        self.read_sizes.append(len(data))
        return status, headers, data

    def _tree(self, folder: str, is_recursive: bool) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        prefix = f"{folder}/" if folder else ""
        for name, data in self.files.items():
            if name.startswith(prefix):
                head, slash, _ = name.removeprefix(prefix).partition("/")
                path = name if is_recursive else prefix + head
                is_file = is_recursive or not slash
                about = {"type": "file", "size": len(data)} if is_file else {"type": "directory", "size": 0}
                found[path] = {"path": path, "oid": sha1(data).hexdigest(), **about}
        return list(found.values())


def _json(content: Any) -> Answer:
    return 200, {}, json.dumps(content).encode()


@contextmanager
def serve_hub(repository: str, kind: Literal["models", "datasets"], files: dict[str, bytes]) -> Iterator[FakeHub]:
    """Serves a repository on loopback; `FakeHub.url` is what HF_ENDPOINT has to be."""
    hub = FakeHub(repository, kind, files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(*hub.get(self.path, self.headers.get("Range")))

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("Authorization", ""))
            self._answer(*hub.post(self.path, self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
