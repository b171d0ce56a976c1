"""Downloads from the hub: the real client against a small local server with the hub's API."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.whisper.small import write_small_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "owner/small"


@dataclass
class Hub:
    """One repository with one commit; `requests` are the paths that were asked for."""

    folder: Path
    url: str = ""
    requests: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.requests.append(path)
        api = f"/api/models/{REPOSITORY}"
        files = {file.name: file for file in self.folder.iterdir()}
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            siblings = [{"rfilename": name, "size": file.stat().st_size} for name, file in files.items()]
            return 200, {}, json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode()
        if path.startswith(f"{api}/revision/"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if path == f"{api}/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": _oid(file)}
                for name, file in files.items()
            ]
            return 200, {}, json.dumps(tree).encode()
        name = path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")
        if name in files:
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_oid(files[name])}"'}
            return 200, headers, files[name].read_bytes()
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"

    @property
    def downloaded(self) -> set[str]:
        return {path.rsplit("/", 1)[1] for path in self.requests if "/resolve/" in path}


def _oid(file: Path) -> str:
    return sha1(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(write_small_folder(tmp_path / "served"))
    (hub.folder / "model.fp32-00001-of-00002.safetensors").write_bytes(b"twice as large")
    (hub.folder / "README.md").write_text("a model card")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = hub.answer(self.path.partition("?")[0])
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    yield hub
    server.shutdown()
    server.server_close()


def run(hub: Hub, home: Path, expression: str) -> str:
    """Returns what an expression over `load_checkpoint_info` and `fetch_weights` prints in a fresh process.

    A fresh process, because huggingface_hub reads its endpoint when it is imported.
    """
    program = (
        "from distil_ray.whisper.checkpoint import load_checkpoint_info\n"
        "from distil_ray.whisper.download import fetch_weights\n"
        "from distil_ray.whisper.weights_cache import WeightsError\n"
        f"try: print({expression})\nexcept WeightsError as error: print(error)"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_branch_is_pinned_and_only_what_is_needed_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    found = run(
        hub,
        home,
        f"((info := load_checkpoint_info('{REPOSITORY}', 'main')).identity,"
        " info.revision, info.size_bytes, info.languages)",
    )
    assert found == str((f"{REPOSITORY}@{COMMIT}", COMMIT, len(b"weights"), ("en", "de")))
    assert hub.downloaded == {"config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json"}

    folder = Path(run(hub, home, f"fetch_weights('{REPOSITORY}', '{COMMIT}')"))
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert not {"README.md", "model.fp32-00001-of-00002.safetensors"} & hub.downloaded

    hub.requests.clear()
    assert run(hub, home, f"fetch_weights('{REPOSITORY}', '{COMMIT}')") == str(folder)
    assert hub.requests == []


def test_errors_distinguish_a_missing_revision_from_a_missing_model(hub: Hub, tmp_path: Path) -> None:
    assert "has no such branch, tag or commit" in run(hub, tmp_path, f"load_checkpoint_info('{REPOSITORY}', 'v9')")
    assert "the hub has no such model" in run(hub, tmp_path, "load_checkpoint_info('owner/unknown')")


def test_pickled_weights_are_refused_before_anything_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    (hub.folder / "model.fp32-00001-of-00002.safetensors").unlink()
    assert "only safetensors are loaded" in run(hub, tmp_path, f"fetch_weights('{REPOSITORY}')")
    assert hub.downloaded == set()
