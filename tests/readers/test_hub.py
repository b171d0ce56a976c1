"""Data sets on Hugging Face's hub, by hf:// URLs: the real client against a small server on loopback."""

import json
from collections.abc import Iterator
from functools import partial
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import HfFileSystem

from distil_ray.errors import ExitCode
from distil_ray.storage import storage
from tests.readers.conftest import CLIPS, listed
from tests.readers.shards import audio_cells, parquet_bytes, run_job, tar

COMMIT = "0123456789abcdef0123456789abcdef01234567"
API = "/api/datasets/owner/speech"


class _Hub(BaseHTTPRequestHandler):
    """One data set with one commit."""

    def __init__(self, files: dict[str, bytes], read: list[int], *args: Any) -> None:
        self.files, self.read = files, read
        super().__init__(*args)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = path.removeprefix("/datasets/owner/speech/resolve/main/")
        if path in (API, f"{API}/revision/main"):
            self._answer(200, json.dumps({"id": "owner/speech", "sha": COMMIT}).encode())
        elif path.startswith(f"{API}/tree/main"):
            self._answer(200, json.dumps(self._tree(path.removeprefix(f"{API}/tree/main").strip("/"))).encode())
        elif name in self.files:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            body = self.files[name][first : last + 1]
            self.read.append(len(body))
            self._answer(206, body)
        else:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def _tree(self, folder: str) -> list[dict[str, Any]]:
        below = {name: data for name, data in self.files.items() if name.startswith(f"{folder}/" if folder else "")}
        found: dict[str, dict[str, Any]] = {}
        for name, data in below.items():
            rest = name.removeprefix(f"{folder}/")
            top = name.removesuffix(rest) + rest.partition("/")[0]
            is_file = top == name
            about = {"type": "file", "size": len(data)} if is_file else {"type": "directory", "size": 0}
            found[top] = {"path": top, "oid": sha1(data).hexdigest(), **about}
        return list(found.values())

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def files() -> dict[str, bytes]:
    """The data set's files, to be filled."""
    return {}


@pytest.fixture
def read(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A hub with these files; gives the sizes of what has been read of them."""
    sizes: list[int] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Hub, files, sizes))
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)  # what HF_ENDPOINT says in a new process
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield sizes
    HfFileSystem.clear_instance_cache()
    storage._filesystem.cache_clear()
    server.shutdown()
    server.server_close()


def test_a_data_set_on_the_hub_gives_its_recordings(
    read: list[int],
    files: dict[str, bytes],
    speech: dict[str, bytes],
    loose_texts: dict[str, str],
    tmp_path: Path,
    whisper_tiny_en: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    audio = list(speech.values())
    table = {"audio": audio_cells(audio, [f"{name}.flac" for name in CLIPS]), "text": ["one", "two", "three"]}
    files["README.md"] = b"# Speech"
    files["data/train-00000-of-00001.parquet"] = parquet_bytes(table)
    files["shards/s.tar"] = tar({f"{CLIPS[0]}.flac": audio[0], f"{CLIPS[0]}.txt": "one"})
    files["loose/a.flac"] = audio[0]
    rows, code = run_job("hf://datasets/owner/speech", str(tmp_path / "out"), whisper_tiny_en, monkeypatch)
    assert code == ExitCode.DONE
    first = f"{CLIPS[0]}.flac"
    same = ["loose/a.flac", f"shards/s.tar/{first}", f"data/train-00000-of-00001.parquet/{first}"]
    assert {rows[name]["text"] for name in same} == {loose_texts[CLIPS[0]]}
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert len(rows) == 5
    assert rows["loose/a.flac"]["source_version"] == sha1(audio[0]).hexdigest()
    read.clear()
    again, _ = run_job("hf://datasets/owner/speech", str(tmp_path / "out"), whisper_tiny_en, monkeypatch)
    assert again == rows
    assert read == []
    assert len(listed("hf://datasets/owner/speech/data/*.parquet")) == 3
