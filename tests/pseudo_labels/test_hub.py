"""The data set on the hub: the real client against a small server on loopback that takes what the hub would take."""

import base64
import json
from collections.abc import Iterator
from functools import partial
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import huggingface_hub.constants
import pytest

from distil_ray.errors import ExitCode, RunError
from tests.pseudo_labels.conftest import Set

pytestmark = pytest.mark.usefixtures("inline")

NAME = "owner/labels"
API = f"/api/datasets/{NAME}"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(BaseHTTPRequestHandler):
    """One repository; `files` are what has been committed to it."""

    def __init__(self, files: dict[str, bytes], tokens: set[str], *args: Any) -> None:
        self.files, self.tokens = files, tokens
        super().__init__(*args)

    def do_GET(self) -> None:
        if self.path.startswith(f"{API}/tree/main"):
            found = [
                {"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest()}
                for name, data in self.files.items()
            ]
            self._answer(found)
        else:
            self._answer({"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]})

    def do_POST(self) -> None:
        self.tokens.add(self.headers.get("Authorization", ""))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        if path == f"{API}/preupload/main":
            files = [{**one, "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]
            self._answer({"files": files})
        elif path == f"{API}/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del self.files[line["value"]["path"]]
            self._answer({"commitUrl": f"https://huggingface.co/datasets/{NAME}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._answer({"url": f"https://huggingface.co/datasets/{NAME}", "errors": [], "warnings": []})

    def _answer(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, bytes], set[str]]]:
    """(files that were committed, tokens that came with requests)."""
    files: dict[str, bytes] = {}
    tokens: set[str] = set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Hub, files, tokens))
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield files, tokens
    server.shutdown()
    server.server_close()


def test_the_hub_gets_the_card_and_the_shards_and_loses_those_that_left(
    labels: Set, hub: tuple[dict[str, bytes], set[str]]
) -> None:
    files, tokens = hub
    labels.transcribe(*range(6))
    labels.build(f"labels.push_to_hub={NAME}")
    assert {name: data for name, data in files.items() if name != "README.md"} == _shards(labels)
    assert b"task_categories" in files["README.md"]
    assert tokens == {"Bearer hf_test"}

    labels.transcribe(*range(4))  # two leave the output: what held them is smaller now
    code, printed = labels.build(f"labels.push_to_hub={NAME}")

    assert code == ExitCode.DONE and "pushed" in printed
    assert {name: data for name, data in files.items() if name != "README.md"} == _shards(labels)


def _shards(labels: Set) -> dict[str, bytes]:
    return {f"data/{name}": data for name, data in labels.files("data").items()}


def test_without_a_network_the_data_set_is_whole_and_the_message_says_what_to_do(
    labels: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels.transcribe(*range(3))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens

    with pytest.raises(RunError, match=rf"labels.push_to_hub={NAME}: the hub could not be reached.*the same command"):
        labels.build(f"labels.push_to_hub={NAME}")

    assert len(labels.utterances()) == 3
