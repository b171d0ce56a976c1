"""Storage keeps its promises alike on local disks and on S3."""

import errno
import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from s3fs.errors import translate_boto_error  # type: ignore[import-untyped]

from distil_ray.config import StorageConfig
from distil_ray.errors import ErrorKind, SettingsError
from distil_ray.storage import s3_objects
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import UPLOAD_BYTES, Storage
from distil_ray.storage.storage_errors import MissingError, StorageError
from distil_ray.storage.uris import join, normalize


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder, once on the disk and once in a bucket."""
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("bucket")) + "/some/folder"


@pytest.fixture
def storage() -> Storage:
    return Storage()


def names(entries: list[Entry], root: str) -> list[str]:
    return [entry.uri.removeprefix(root + "/") for entry in entries]


def test_what_is_put_is_read_back_in_every_way(root: str, storage: Storage, tmp_path: Path) -> None:
    uri, data = join(root, "a", "b.bin"), bytes(range(256)) * 20_000
    storage.put(uri, data)
    assert storage.read(uri) == data
    with storage.open(uri) as file:
        file.seek(1000)
        assert file.read(10) == data[1000:1010]
    assert storage.fetch(uri, tmp_path / "copy") == len(data)
    assert (tmp_path / "copy").read_bytes() == data


def test_put_replaces_and_put_new_does_not(root: str, storage: Storage) -> None:
    uri = join(root, "a.bin")
    assert storage.put_if_absent(uri, b"first")
    assert not storage.put_if_absent(uri, b"second")
    assert storage.read(uri) == b"first"
    storage.put(uri, b"third")
    assert storage.read(uri) == b"third"


def test_a_disk_without_hard_links_and_modes_keeps_the_promises(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "fchmod", refuse)
    uri = str(tmp_path / "folder/won.bin")
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda number: storage.put_if_absent(uri, b"%d" % number), range(16)))
    assert won.count(True) == 1
    assert storage.read(uri) == b"%d" % won.index(True)
    storage.put(uri, b"third")
    assert storage.replace_if_unchanged(uri, b"third", b"fourth")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["won.bin"]


def test_of_sixteen_writers_of_a_new_file_one_wins(root: str, storage: Storage) -> None:
    uri = join(root, "won.bin")
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda number: storage.put_if_absent(uri, b"%d" % number), range(16)))
    assert won.count(True) == 1
    assert storage.read(uri) == b"%d" % won.index(True)
    assert names(list(storage.list_files(root)), root) == ["won.bin"]


def test_swap_replaces_what_it_knows_and_nothing_else(root: str, storage: Storage) -> None:
    uri = join(root, "a.bin")
    assert not storage.replace_if_unchanged(uri, b"", b"new")
    storage.put(uri, b"first")
    assert storage.replace_if_unchanged(uri, b"first", b"second")
    assert not storage.replace_if_unchanged(uri, b"first", b"third")
    assert storage.read(uri) == b"second"
    assert names(list(storage.list_files(root)), root) == ["a.bin"]


def test_of_sixteen_that_replace_one_file_one_wins(root: str, storage: Storage) -> None:
    uri = join(root, "won.bin")
    storage.put(uri, b"old")
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda number: storage.replace_if_unchanged(uri, b"old", b"%d" % number), range(16)))
    assert won.count(True) == 1
    assert storage.read(uri) == b"%d" % won.index(True)


def test_a_swap_whose_answer_was_lost_counts_as_done(
    bucket: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{bucket}/a.bin"
    storage.put(uri, b"old")
    fs, _ = storage._open(uri)
    call_s3 = fs.call_s3

    def answer_twice(method: str, **request: object) -> object:
        call_s3(method, **request)
        return call_s3(method, **request)  # as a client tries again that heard nothing: 412

    monkeypatch.setattr(fs, "call_s3", answer_twice)
    assert storage.replace_if_unchanged(uri, b"old", b"new")
    assert storage.read(uri) == b"new"


def s3_error(code: str) -> OSError:
    """As s3fs raises it where it knows no better one: of an answer of MinIO, which names no condition."""
    error = translate_boto_error(ClientError({"Error": {"Code": code, "Message": "no"}}, "PutObject"))
    assert type(error) is OSError
    return error


def test_a_file_that_exists_is_known_by_the_code_of_the_answer(
    bucket: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{bucket}/a.bin"
    storage.put(uri, b"first")
    fs, _ = storage._open(uri)

    def refuse(*_: object, **__: object) -> None:
        raise s3_error("PreconditionFailed")

    monkeypatch.setattr(fs, "pipe_file", refuse)
    assert not storage.put_if_absent(uri, b"other")
    assert storage.put_if_absent(uri, b"first"), "these very bytes count as written"


@pytest.mark.parametrize(("num_conflicts", "is_written"), [(2, True), (99, False)])
def test_conditional_writes_are_repeated_while_another_is_under_way(
    bucket: str, storage: Storage, monkeypatch: pytest.MonkeyPatch, num_conflicts: int, is_written: bool
) -> None:
    monkeypatch.setattr(s3_objects, "CONFLICT_WAIT_S", 0.001)
    fs, _ = storage._open(bucket)
    left = num_conflicts

    def conflicting(work: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            is_conditional = named.get("mode") == "create" or ("IfMatch" in named and arguments == ("put_object",))
            if is_conditional and left:
                left -= 1
                raise s3_error("ConditionalRequestConflict")
            return work(*arguments, **named)

        return call

    monkeypatch.setattr(fs, "pipe_file", conflicting(fs.pipe_file))
    monkeypatch.setattr(fs, "call_s3", conflicting(fs.call_s3))
    uri = f"{bucket}/a.bin"
    if not is_written:
        with pytest.raises(StorageError):
            storage.put_if_absent(uri, b"first")
        return
    assert storage.put_if_absent(uri, b"first")
    left = num_conflicts
    assert storage.replace_if_unchanged(uri, b"first", b"second")
    assert storage.read(uri) == b"second"


def test_a_listing_holds_every_file_below_and_nothing_else(root: str, storage: Storage) -> None:
    paths = ["a b/ä#?.wav", "a/1.wav", "a/2.wav", "a/deep/er/3.wav", "b.wav", "z.wav"]
    for path in paths:
        storage.put(join(root, path), path.encode())
    storage.put(root + "-beside/x.wav", b"not below")
    entries = list(storage.list_files(root))
    assert sorted(names(entries, root)) == paths
    assert [entry.size for entry in entries] == [len(name.encode()) for name in names(entries, root)]
    assert [name for name in names(entries, root) if name.startswith("a/")] == paths[1:4]
    assert list(storage.list_files(join(root, "nothing", "here"))) == []
    assert list(storage.list_files(join(root, "b.wav"))) == []


def test_a_listing_in_s3_goes_on_after_a_page_and_skips_folder_markers(
    bucket: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ["/twice.wav", "1.wav", "2/3.wav", "2/4.wav", "5.wav"]  # "many//twice.wav" is legal, and easily lost
    for path in paths:
        storage.put(f"{bucket}/many/{path}", b".")
    fs, folder = storage._open(f"{bucket}/many")
    call_s3 = fs.call_s3
    call_s3("put_object", Bucket=folder.split("/")[0], Key="many/", Body=b"")
    monkeypatch.setattr(fs, "call_s3", lambda method, **request: call_s3(method, MaxKeys=2, **request))
    assert names(list(storage.list_files(f"{bucket}/many")), f"{bucket}/many") == paths


def test_a_file_is_the_same_to_list_glob_and_stat_until_it_is_changed(root: str, storage: Storage) -> None:
    uri = join(root, "a.wav")
    storage.put(uri, b"one")
    (listed,), (matched,) = storage.list_files(root), storage.glob(root + "/*.wav")
    assert listed == matched == storage.stat(uri) == Entry(uri, 3, listed.version)
    assert listed.version
    storage.put(uri, b"two")
    changed = storage.stat(uri)
    assert changed
    assert changed.version != listed.version
    assert changed.modified
    assert abs(changed.modified - time.time()) < 3600


def test_globs_match_files_only(root: str, storage: Storage) -> None:
    for path in ["a.wav", "x/b.wav", "x/y/c.wav", "x/y/c.txt", "folder.wav/d.mp3"]:
        storage.put(join(root, path), b".")
    assert names(list(storage.glob(root + "/*.wav")), root) == ["a.wav"]
    assert names(list(storage.glob(root + "/**/*.wav")), root) == ["a.wav", "x/b.wav", "x/y/c.wav"]
    assert names(list(storage.glob(root + "/x/?/[a-c].*")), root) == ["x/y/c.txt", "x/y/c.wav"]
    assert list(storage.glob(root + "/nothing/*.wav")) == []


def test_folders_are_distinguished_from_files(root: str, storage: Storage) -> None:
    storage.put(join(root, "a", "b.wav"), b".")
    assert storage.is_folder(join(root, "a"))
    assert not storage.is_folder(join(root, "a", "b.wav"))
    assert not storage.is_folder(join(root, "c"))
    assert storage.stat(join(root, "a")) is None
    assert storage.stat(join(root, "c")) is None


def test_delete_takes_files_and_whole_folders_and_forgives_absence(root: str, storage: Storage) -> None:
    for path in ["a/1", "a/b/2", "c"]:
        storage.put(join(root, path), b".")
    storage.delete(join(root, "a"))
    storage.delete(join(root, "a"))
    assert names(list(storage.list_files(root)), root) == ["c"]
    storage.delete(join(root, "c"))
    assert list(storage.list_files(root)) == []


def test_a_missing_file_is_named(root: str, storage: Storage, tmp_path: Path) -> None:
    uri = join(root, "missing.wav")
    actions: list[Callable[[], object]] = [
        lambda: storage.read(uri),
        lambda: storage.open(uri),
        lambda: storage.fetch(uri, tmp_path / "copy"),
    ]
    for action in actions:
        with pytest.raises(MissingError, match=r"missing\.wav") as caught:
            action()
        assert caught.value.kind is ErrorKind.NOT_FOUND


def test_a_write_that_fails_leaves_nothing_behind(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    storage.put(str(tmp_path / "kept"), b"old")
    monkeypatch.setattr(os, "fsync", full_disk)
    for action in (storage.put, storage.put_if_absent):
        with pytest.raises(StorageError, match="No space left"):
            action(str(tmp_path / "new"), b"data")
    for action in (storage.put, lambda uri, data: storage.replace_if_unchanged(uri, b"old", data)):
        with pytest.raises(StorageError, match="No space left"):
            action(str(tmp_path / "kept"), b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_bytes() == b"old"


def test_a_missing_bucket_is_named(s3_environment: str, storage: Storage) -> None:
    uri = "s3://no-such-bucket/a/b.wav"
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/a/b\.wav"):
        storage.put(uri, b"data")
    with pytest.raises(MissingError, match="no such file or bucket"):
        storage.read(uri)
    assert storage.stat(uri) is None
    assert not storage.is_folder("s3://no-such-bucket")
    assert list(storage.list_files("s3://no-such-bucket")) == []


def test_a_folder_that_may_not_be_read_is_an_error_and_not_a_shorter_listing(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put(str(tmp_path / "open/a.wav"), b".")
    storage.put(str(tmp_path / "open/closed/b.wav"), b".")
    scandir = os.scandir

    def guarded(path: str) -> "os._ScandirIterator[str]":
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)  # chmod would not stop root
    with pytest.raises(StorageError, match="access denied") as caught:
        list(storage.list_files(str(tmp_path)))
    assert caught.value.kind is ErrorKind.FORBIDDEN


def test_an_unknown_scheme_is_a_setting_that_cannot_work(storage: Storage) -> None:
    with pytest.raises(SettingsError, match="no storage for 'nowhere://'"):
        storage.read("nowhere://a/b")


def test_an_endpoint_in_the_settings_goes_before_the_environment(
    bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    Storage(StorageConfig(endpoint_url=s3_endpoint)).put(bucket + "/a", b"data")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    assert Storage().read(bucket + "/a") == b"data"


def test_storage_and_its_errors_travel_between_processes() -> None:
    config = StorageConfig(max_attempts=2)
    assert pickle.loads(pickle.dumps(Storage(config))).config == config
    error = pickle.loads(pickle.dumps(MissingError(ErrorKind.NOT_FOUND, "cannot read x")))
    assert (type(error), error.kind, str(error)) == (MissingError, ErrorKind.NOT_FOUND, "cannot read x")


def test_locations_have_one_spelling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert normalize("a/../b/") == normalize(f"file://{tmp_path}/b") == str(tmp_path / "b")
    assert normalize("s3://bucket/a/") == "s3://bucket/a"


@pytest.mark.parametrize("size", [100, 2 * UPLOAD_BYTES + 5])
def test_a_created_file_appears_whole_when_its_block_has_ended(root: str, storage: Storage, size: int) -> None:
    uri, data = join(root, "a", "large.bin"), os.urandom(size)
    with storage.create(uri) as file:
        file.write(data)
        file.flush()
        assert storage.stat(uri) is None
    assert storage.read(uri) == data


def test_a_created_file_whose_block_fails_leaves_what_stood_there(root: str, storage: Storage) -> None:
    uri = join(root, "a.bin")
    storage.put(uri, b"old")
    with pytest.raises(ZeroDivisionError), storage.create(uri) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert storage.read(uri) == b"old"
    assert names(list(storage.list_files(root)), root) == ["a.bin"]
