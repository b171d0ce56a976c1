"""The demo's bucket is an S3 bucket while it is served, and a folder before and after."""

from pathlib import Path

import pytest

from distil_ray.demo.endpoint import serve_bucket
from distil_ray.storage.file_systems import _file_system
from distil_ray.storage.storage import Storage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "a.wav").write_bytes(b"sound")
    (tmp_path / "output" / "parts").mkdir(parents=True)
    (tmp_path / "output" / "parts" / "0").write_bytes(b"part")
    return tmp_path


@pytest.fixture(autouse=True)
def own_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are kept by settings, and these endpoints differ in their environment alone."""
    _file_system.cache_clear()
    monkeypatch.setattr("fsspec.AbstractFileSystem._cache", {}, raising=False)


def _enter(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Storage:
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    _file_system.cache_clear()
    return Storage()


def test_a_second_call_finds_what_the_first_one_wrote_with_the_same_etags(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_bucket("demo", folder) as endpoint:
        storage = _enter(endpoint.environment, monkeypatch)
        before = storage.stat("s3://demo/samples/a.wav")
        storage.put_if_absent("s3://demo/output/transcripts/task-1.parquet", b"rows")
        storage.delete("s3://demo/output/parts")

    assert (folder / "output/transcripts/task-1.parquet").read_bytes() == b"rows"
    assert not (folder / "output/parts").exists()

    with serve_bucket("demo", folder) as endpoint:
        storage = _enter(endpoint.environment, monkeypatch)
        assert endpoint.num_restored == 2
        assert storage.stat("s3://demo/samples/a.wav") == before
        assert not storage.put_if_absent("s3://demo/output/transcripts/task-1.parquet", b"other")


def test_the_bucket_is_kept_when_the_job_is_interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), serve_bucket("demo", folder) as endpoint:
        _enter(endpoint.environment, monkeypatch).put("s3://demo/output/transcripts/task-1.parquet", b"rows")
        raise KeyboardInterrupt

    assert (folder / "output/transcripts/task-1.parquet").read_bytes() == b"rows"


def test_nobody_s_own_credentials_reach_the_demo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")
    monkeypatch.setenv("NO_PROXY", "intranet")

    with serve_bucket("demo", folder) as endpoint:
        assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN"} & set(endpoint.environment)
        assert endpoint.environment["AWS_ENDPOINT_URL"] == endpoint.url
        assert endpoint.environment["NO_PROXY"] == "intranet,127.0.0.1"
