"""Files and manifests on local web servers with and without range requests."""

import email.utils
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from distil_ray.config import InputConfig, StorageConfig
from distil_ray.errors import ErrorKind, InputError
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import MissingError, StorageError
from tests.readers.conftest import listed
from tests.readers.shards import run_job

CONTENT = bytes(range(256)) * 4000  # 1 MB without equal neighboring bytes


@dataclass
class Site:
    """What a server has, how it answers, and what it was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etags: bool = True
    failures: list[int] = field(default_factory=list)  # statuses of the next answers; 0: half a body
    asked: Counter[str] = field(default_factory=Counter)
    url: str = ""


@pytest.fixture(params=["ranges", "whole files only"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    found = Site(ranges=request.param == "ranges")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": found}))
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.split("?")[0]
        self.site.asked[f"{self.command} {path}"] += 1
        failure = self.site.failures.pop(0) if self.site.failures else HTTPStatus.OK
        body = self.site.files.get(path)
        if failure not in (0, HTTPStatus.OK) or body is None:
            self.send_error(failure if failure != HTTPStatus.OK else HTTPStatus.NOT_FOUND)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if self.site.ranges else None
        start, end = (int(asked[1]), min(int(asked[2]) + 1, len(body))) if asked else (0, len(body))
        self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Content-Type", "text/html" if path.endswith("/") else "application/octet-stream")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
        if self.site.etags:
            self.send_header("ETag", f'"{path}-1"')
        self.send_header("Last-Modified", email.utils.formatdate(1_700_000_000, usegmt=True))
        self.end_headers()
        if with_body:
            self.wfile.write(body[start:end] if failure else body[start : (start + end) // 2])


def _quick(attempts: int = 3) -> Storage:
    return Storage(StorageConfig(max_attempts=attempts, timeout_s=5))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distil_ray.storage.http.WAIT_S", 0.001)


def test_size_and_version_come_from_the_headers(site: Site) -> None:
    site.files = {"/a.wav": b"12345"}
    entry = _quick().stat(f"{site.url}/a.wav")
    assert entry is not None
    assert (entry.uri, entry.size, entry.version) == (f"{site.url}/a.wav", 5, "/a.wav-1")
    site.etags = False
    dated = _quick().stat(f"{site.url}/a.wav")
    assert dated is not None
    assert dated.version == "Tue, 14 Nov 2023 22:13:20 GMT"


def test_a_url_is_requested_exactly_as_written(site: Site, tmp_path: Path) -> None:
    path = "/a%20b%2Fc%7e%C3%A9+d.wav"
    site.files = {path: b"12345", "/e%20f.wav": b"123"}
    assert [one.source_size for one in listed(f"{site.url}{path}?signature=%2B%7E+a%3D")] == [5]
    assert _quick().fetch(f"{site.url}{path}", tmp_path / "copy") == 5
    assert [one.source_size for one in listed(f"{site.url}/e f.wav")] == [3]  # cannot be sent as it is


def test_a_file_is_fetched_whole(site: Site, tmp_path: Path) -> None:
    site.files = {"/a.wav": CONTENT}
    assert _quick().fetch(f"{site.url}/a.wav", tmp_path / "a") == len(CONTENT)
    assert (tmp_path / "a").read_bytes() == CONTENT
    with _quick().open(f"{site.url}/a.wav") as file:
        file.seek(300_000)
        assert file.read(1000) == CONTENT[300_000:301_000]


def test_a_range_is_requested_or_reported_as_unsupported(site: Site, tmp_path: Path) -> None:
    site.files = {"/a.wav": CONTENT}
    if site.ranges:
        _quick().fetch_range(f"{site.url}/a.wav", 1000, 500, tmp_path / "part")
        assert (tmp_path / "part").read_bytes() == CONTENT[1000:1500]
    else:
        with pytest.raises(StorageError, match="does not support range requests"):
            _quick().fetch_range(f"{site.url}/a.wav", 1000, 500, tmp_path / "part")


def test_failed_requests_and_incomplete_bodies_are_retried(site: Site, tmp_path: Path) -> None:
    site.files = {"/a.wav": CONTENT}
    site.failures = [503, 500, 200, 429, 0]
    assert _quick().stat(f"{site.url}/a.wav") is not None
    assert _quick().fetch(f"{site.url}/a.wav", tmp_path / "a") == len(CONTENT)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert (site.failures, site.asked) == ([], {"HEAD /a.wav": 3, "GET /a.wav": 3})


def test_failures_have_the_right_error_kind(site: Site, tmp_path: Path) -> None:
    site.files = {"/a.wav": CONTENT}
    assert _quick().stat(f"{site.url}/gone.wav") is None
    with pytest.raises(MissingError):
        _quick().fetch(f"{site.url}/gone.wav", tmp_path / "a")
    kinds = {403: ErrorKind.FORBIDDEN, 401: ErrorKind.FORBIDDEN, 500: ErrorKind.STORAGE, 503: ErrorKind.STORAGE}
    for status, kind in kinds.items():
        site.failures = [status] * 20
        with pytest.raises(StorageError) as caught:
            _quick(2).stat(f"{site.url}/a.wav")
        assert (caught.value.kind, str(status) in str(caught.value)) == (kind, True)
        with pytest.raises(StorageError) as caught:
            _quick(2).fetch(f"{site.url}/a.wav", tmp_path / "a")
        assert caught.value.kind == kind


def test_an_unreachable_server_is_not_a_missing_file() -> None:
    with pytest.raises(StorageError, match=r"cannot look at http://127\.0\.0\.1:9/a\.wav") as caught:
        _quick(2).stat("http://127.0.0.1:9/a.wav")
    assert caught.value.kind == ErrorKind.STORAGE


def test_a_manifest_on_the_web_lists_files_of_its_folder(site: Site) -> None:
    lines = '{"path": "x/a.wav", "text": "go"}\n{"path": "gone.wav"}\n' + '{"path": "b c.wav"}\n'
    site.files = {"/set/m.jsonl": lines.encode(), "/set/x/a.wav": b"12345", "/set/b%20c.wav": b"1"}
    first, gone, spaced = listed(f"{site.url}/set/m.jsonl?sig=0123456789")
    assert (first.uri, first.source_size, first.reference) == (f"{site.url}/set/x/a.wav", 5, "go")
    assert first.source_version == "/set/x/a.wav-1"
    assert (gone.source_size, spaced.source_size) == (None, 1)


def test_a_local_manifest_may_name_urls_if_external_paths_are_allowed(site: Site, tmp_path: Path) -> None:
    site.files = {"/a.wav": b"12345"}
    (tmp_path / "m.csv").write_text(f"uri\n{site.url}/a.wav\nhttp://127.0.0.1:9/b.wav\n")
    with pytest.raises(InputError, match=r"lies outside of .* set input\.allow_external_paths=true"):
        listed(str(tmp_path / "m.csv"))
    config = InputConfig(uri=(str(tmp_path / "m.csv"),), allow_external_paths=True)
    found, dead = list_recordings(config, _quick(1))
    assert (found.source_size, found.source_version) == (5, "/a.wav-1")
    assert dead.source_size is None  # one server of many that is down does not end the listing


def test_the_id_of_a_single_url_has_no_query(site: Site) -> None:
    site.files = {"/calls/a.wav": b"12345", "/calls/a.txt": b"go on"}
    (found,) = listed(f"{site.url}/calls/a.wav?X-Amz-Signature=0123456789")
    assert (found.recording_id, found.source_size) == ("a.wav", 5)
    assert found.uri.endswith("a.wav?X-Amz-Signature=0123456789")
    (plain,) = listed(f"{site.url}/calls/a.wav")
    assert plain.reference == "go on"


def test_a_folder_on_a_web_server_is_an_error(site: Site) -> None:
    site.files = {"/set/": b"<html><a href=a.wav>a.wav</a>", "/set/a.wav": b"1"}
    with pytest.raises(InputError, match=r"a web page, and folders cannot be listed over http.*manifest"):
        listed(f"{site.url}/set/")
    with pytest.raises(InputError, match=r"patterns need a listing, which http has not"):
        listed(f"{site.url}/set/*.wav")
    with pytest.raises(InputError, match="there is no such file"):
        listed(f"{site.url}/set/b.wav")


def test_audio_on_a_web_server_is_transcribed_whole_and_in_segments(
    site: Site, audio_formats: Path, tmp_path: Path, whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speech = (audio_formats / "rate-44100.wav").read_bytes()
    manifest = "id,uri,offset,duration\nwhole,a.wav,,\npart,a.wav,0.5,1.0\n"
    site.files = {"/a.wav": speech, "/m.csv": manifest.encode()}
    for name, content in site.files.items():
        (tmp_path / name[1:]).write_bytes(content)
    expected, _ = run_job(f"{tmp_path}/m.csv", f"{tmp_path}/local", whisper_tiny_en, monkeypatch)
    site.failures = [503]
    rows, _ = run_job(f"{site.url}/m.csv", f"{tmp_path}/web", whisper_tiny_en, monkeypatch)
    assert {name: (row["text"], row["status"]) for name, row in rows.items()} == {
        name: (row["text"], "ok") for name, row in expected.items()
    }
    assert rows["part"]["source_version"] == "/a.wav-1@0.5+1"
