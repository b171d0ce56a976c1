"""Recordings are fetched to the local disk in order; shared files are read once; missing ones are errors."""

import os
import threading
from collections import Counter
from pathlib import Path
from typing import IO

import pytest

from distil_ray.errors import ErrorKind
from distil_ray.readers.fetch import prefetch_files
from distil_ray.readers.location import display_name, is_unchanged, read_unit_key, recording_version
from distil_ray.storage.storage import Entry, Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.types import AudioLocation, Recording


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "local" else str(request.getfixturevalue("bucket")) + "/store"


def test_files_and_ranges_are_yielded_in_order_with_errors_in_place_of_missing_ones(root: str, tmp_path: Path) -> None:
    storage = Storage()
    storage.put(f"{root}/a", b"0123456789")
    storage.put(f"{root}/b", b"bb")
    recordings = [
        Recording("1", f"{root}/b"),
        Recording("2", f"{root}/a", location=AudioLocation("m", byte_start=2, num_bytes=3)),
        Recording("3", f"{root}/none"),
        Recording("4", f"{root}/a", location=AudioLocation("n", byte_start=8, num_bytes=5)),
        *(Recording(f"5-{n}", f"{root}/a", location=AudioLocation(start_s=n, length_s=1.0)) for n in range(3)),
        Recording("6", f"{root}/b"),
    ]
    folder = tmp_path / "local"
    folder.mkdir()
    results: list[object] = []
    for fetched in prefetch_files(recordings, {}, folder, storage, threads=2):
        results.append(fetched.kind if isinstance(fetched, StorageError) else fetched.read_bytes())
        assert len(list(folder.iterdir())) <= 4  # the current one and the prefetched ones
    whole = b"0123456789"
    assert results == [b"bb", b"234", ErrorKind.NOT_FOUND, ErrorKind.STORAGE, whole, whole, whole, b"bb"]


def test_a_file_is_read_once_for_all_of_its_segments(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage()
    storage.put(f"{bucket}/long", b"sound")
    reads = Counter[str]()
    fetch = Storage.fetch

    def counted(self: Storage, uri: str, target: str | Path) -> int:
        reads[uri] += 1
        return fetch(self, uri, target)

    monkeypatch.setattr(Storage, "fetch", counted)
    segments = [
        Recording(str(n), f"{bucket}/long", location=AudioLocation(start_s=float(n), length_s=1.0)) for n in range(9)
    ]
    files = list(prefetch_files(segments, {}, tmp_path, storage, threads=4))
    assert len(set(map(str, files))) == 1
    assert reads == {f"{bucket}/long": 1}


def test_another_segment_of_the_same_file_is_another_version() -> None:
    file = Entry("/a.wav", 10, "v1")
    whole = Recording("r", "/a.wav", 10, "v1")
    place = AudioLocation(start_s=1.5, length_s=2.0)
    cut = Recording("r", "/a.wav", 10, recording_version("v1", place), place)
    assert is_unchanged(whole, file)
    assert is_unchanged(cut, file)
    assert cut.source_version != recording_version("v1", AudioLocation(start_s=1.5, length_s=2.5))
    assert not is_unchanged(cut, Entry("/a.wav", 10, "v2"))
    assert not is_unchanged(whole, Entry("/a.wav", 11, "v1"))
    assert read_unit_key(whole) is None
    assert read_unit_key(cut) == "/a.wav"
    assert display_name(cut) == "/a.wav: from 1.5 s, 2 s long"


def test_special_files_are_not_opened(tmp_path: Path) -> None:
    """Opening a named pipe would wait for somebody to write to it."""
    os.mkfifo(tmp_path / "x.wav")
    (tmp_path / "link.wav").symlink_to(tmp_path / "x.wav")
    (tmp_path / "a.wav").write_bytes(b"sound")
    uris = [str(tmp_path / "x.wav"), str(tmp_path / "link.wav"), "/dev/null", str(tmp_path / "a.wav")]
    recordings = [Recording(str(n), uri) for n, uri in enumerate(uris)]
    *special, file = prefetch_files(recordings, {}, tmp_path, Storage(), threads=2)
    assert [one.kind for one in special if isinstance(one, StorageError)] == [ErrorKind.NOT_AUDIO] * 3
    assert "a FIFO" in str(special[0])
    assert "a character device" in str(special[2])
    assert file == Path(uris[3])


def test_a_read_without_progress_fails_only_its_own_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "stuck", "b"):
        (tmp_path / name).write_bytes(b"sound")
    released = threading.Event()
    opened = Storage.open

    def hanging(self: Storage, uri: str) -> IO[bytes]:
        if uri.endswith("stuck"):
            released.wait()
        return opened(self, uri)

    monkeypatch.setattr(Storage, "open", hanging)
    segments = [
        Recording(f"s{n}", str(tmp_path / "stuck"), location=AudioLocation(start_s=float(n), length_s=1.0))
        for n in range(2)
    ]
    recordings = [Recording("1", str(tmp_path / "a")), *segments, Recording("2", str(tmp_path / "b"))]
    try:
        first, *lost, last = prefetch_files(recordings, {}, tmp_path, Storage(), threads=2, timeout_s=0.5)
    finally:
        released.set()
    assert (first, last) == (tmp_path / "a", tmp_path / "b")
    assert [one.kind for one in lost if isinstance(one, StorageError)] == [ErrorKind.STORAGE] * 2
    assert "resources.decoder_timeout_s" in str(lost[0])
