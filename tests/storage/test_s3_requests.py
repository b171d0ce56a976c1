"""How many requests each operation on S3 sends. Stores charge for them, and each one waits for the network."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.scale.counting import CountingProxy, Kind
from distil_ray.config import StorageConfig
from distil_ray.storage.s3_objects import FIRST_BYTES
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import MissingError, StorageError
from distil_ray.storage.uris import join

SMALL = b"a few bytes"
LARGE = bytes(range(256)) * (3 * FIRST_BYTES // 256)


@pytest.fixture
def proxy(s3_environment: str) -> CountingProxy:
    return CountingProxy(s3_environment)


@pytest.fixture
def counted(proxy: CountingProxy, bucket: str) -> Iterator[Storage]:
    """A storage whose requests `proxy` counts, and a bucket with ``small``, ``large``, ``empty``, ``folder/0`` …"""
    plain = Storage()
    for name, data in {"small": SMALL, "large": LARGE, "empty": b"", "folder/0": SMALL, "folder/1": SMALL}.items():
        plain.put(join(bucket, name), data)
    with proxy.serving() as url:
        yield Storage(StorageConfig(endpoint_url=url, timeout_s=5))


def _read_ends(storage: Storage, uri: str) -> tuple[bytes, bytes]:
    with storage.open(uri) as file:
        begin = file.read(10)
        file.seek(-10, 2)
        return begin, file.read()


OPERATIONS: dict[str, tuple[Callable[[Storage, str], object], object, dict[Kind, int]]] = {
    "stat": (lambda s, b: s.stat(f"{b}/small").size, len(SMALL), {Kind.HEAD: 1}),  # type: ignore[union-attr]
    "stat of nothing": (lambda s, b: s.stat(f"{b}/none"), None, {Kind.HEAD: 1}),
    "stat of a folder": (lambda s, b: s.stat(f"{b}/folder"), None, {Kind.HEAD: 1}),
    "read": (lambda s, b: s.read(f"{b}/small"), SMALL, {Kind.GET: 1}),
    "read of much": (lambda s, b: s.read(f"{b}/large") == LARGE, True, {Kind.GET: 1}),
    "read of nothing in it": (lambda s, b: s.read(f"{b}/empty"), b"", {Kind.GET: 1}),
    "open of a small file": (lambda s, b: _read_ends(s, f"{b}/small"), (SMALL[:10], SMALL[-10:]), {Kind.RANGED_GET: 1}),
    "open of a large file": (lambda s, b: _read_ends(s, f"{b}/large"), (LARGE[:10], LARGE[-10:]), {Kind.RANGED_GET: 2}),
    "open of an empty file": (lambda s, b: s.open(f"{b}/empty").read(), b"", {Kind.RANGED_GET: 1}),
    "put": (lambda s, b: s.put(f"{b}/new", SMALL), None, {Kind.PUT: 1}),
    "put if absent": (lambda s, b: s.put_if_absent(f"{b}/new", SMALL), True, {Kind.CONDITIONAL_PUT: 1}),
    "delete of a file": (lambda s, b: s.delete_file(f"{b}/small"), None, {Kind.DELETE: 1}),
    "delete of no file": (lambda s, b: s.delete_file(f"{b}/none"), None, {Kind.DELETE: 1}),
    "delete of files": (lambda s, b: s.delete_files([f"{b}/small", f"{b}/none"]), None, {Kind.DELETE: 1}),
    "delete of a folder": (lambda s, b: s.delete(f"{b}/folder"), None, {Kind.LIST: 1, Kind.DELETE: 1}),
    "listing": (lambda s, b: len(list(s.list_files(b))), 5, {Kind.LIST: 1}),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_send_no_more_requests_than_they_need(
    name: str, counted: Storage, proxy: CountingProxy, bucket: str
) -> None:
    operation, expected, requests = OPERATIONS[name]
    assert operation(counted, bucket) == expected
    assert dict(proxy.take_requests()) == requests


@pytest.mark.parametrize(("name", "data"), [("small", SMALL), ("large", LARGE), ("empty", b"")])
def test_a_file_is_fetched_with_one_request(
    name: str, data: bytes, counted: Storage, proxy: CountingProxy, bucket: str, tmp_path: Path
) -> None:
    assert counted.fetch(f"{bucket}/{name}", tmp_path / "copy") == len(data)
    assert (tmp_path / "copy").read_bytes() == data
    assert dict(proxy.take_requests()) == {Kind.GET: 1}


def test_a_deleted_folder_leaves_its_neighbors(counted: Storage, bucket: str) -> None:
    counted.put(f"{bucket}/folder", SMALL)
    counted.put(f"{bucket}/folder-2/0", SMALL)
    counted.delete(f"{bucket}/folder")
    assert [entry.uri for entry in counted.list_files(bucket)] == [
        f"{bucket}/{name}" for name in ("empty", "folder-2/0", "large", "small")
    ]


def test_files_that_are_not_there_are_missing(counted: Storage, bucket: str, tmp_path: Path) -> None:
    for read in (counted.read, counted.open, lambda uri: counted.fetch(uri, tmp_path / "copy")):
        with pytest.raises(MissingError):
            read(f"{bucket}/none")


def test_a_file_that_is_replaced_while_it_is_read_is_an_error_and_no_mixture(counted: Storage, bucket: str) -> None:
    with counted.open(f"{bucket}/large") as file:
        file.read(10)
        counted.put(f"{bucket}/large", LARGE[::-1])
        file.seek(-10, 2)
        with pytest.raises(OSError, match="replaced while it was read"):
            file.read()


def test_a_store_that_refuses_a_deletion_is_an_error(
    counted: Storage, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, _ = counted._open(bucket)
    call = fs.call_s3

    def refuse(method: str, **request: object) -> object:
        if method == "delete_objects":
            return {"Errors": [{"Key": "folder/0", "Message": "Access Denied"}]}
        return call(method, **request)

    monkeypatch.setattr(fs, "call_s3", refuse)
    with pytest.raises(StorageError, match="Access Denied"):
        counted.delete(f"{bucket}/folder")
