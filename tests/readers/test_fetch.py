"""Recordings are fetched to the local disk in order; shared files are read once; missing ones are errors."""

import io
import os
import threading
from collections import Counter
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.scale.counting import CountingProxy, Kind
from distil_ray.config import StorageConfig
from distil_ray.errors import ErrorKind
from distil_ray.readers import byte_ranges
from distil_ray.readers.fetch import prefetch_files
from distil_ray.readers.location import display_name, is_unchanged, read_unit_key, recording_version
from distil_ray.storage import range_reader
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
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


SHARD = bytes(range(256)) * 64
PLACES = [(0, 100), (100, 50), (1000, 24), (1000, 24), (700, 80), (15_000, 1000)]


def _members(uri: str, places: list[tuple[int, int]], version: str | None) -> list[Recording]:
    return [
        Recording(str(number), uri, size, version, AudioLocation(f"m{number}", byte_start=start, num_bytes=size))
        for number, (start, size) in enumerate(places)
    ]


def _fetch(recordings: list[Recording], storage: Storage, folder: Path) -> list[bytes | ErrorKind]:
    folder.mkdir()
    found = prefetch_files(recordings, {}, folder, storage, threads=2)
    return [one.kind if isinstance(one, StorageError) else one.read_bytes() for one in found]


def test_members_of_a_shard_are_read_with_one_request(
    bucket: str, s3_environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, plain = f"{bucket}/a.tar", Storage()
    plain.put(uri, SHARD)
    entry = plain.stat(uri)
    assert entry is not None
    wanted = [SHARD[start : start + size] for start, size in PLACES]
    members = _members(uri, PLACES, entry.version)
    proxy = CountingProxy(s3_environment)
    with proxy.serving() as url:
        counted = Storage(StorageConfig(endpoint_url=url, timeout_s=5))
        assert _fetch(members, counted, tmp_path / "0") == wanted
        assert proxy.take_requests() == {Kind.RANGED_GET: 1}
        assert len(list((tmp_path / "0").iterdir())) == 1  # the last member
        monkeypatch.setattr(byte_ranges, "MAX_GAP_BYTES", 500)
        monkeypatch.setattr(byte_ranges, "MAX_GROUP_BYTES", 400)
        assert _fetch(members, counted, tmp_path / "1") == wanted
        assert proxy.take_requests() == {Kind.RANGED_GET: 3}  # the first two, three, the last
        plain.put(uri, SHARD[::-1])
        assert _fetch(members, counted, tmp_path / "2") == [ErrorKind.STORAGE] * len(PLACES)


@pytest.mark.parametrize("has_dictionary", [True, False])
def test_row_groups_of_a_file_are_read_with_one_request_each(
    has_dictionary: bool, bucket: str, s3_environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds = [os.urandom(1_500_000) for _ in range(4)]
    sink = io.BytesIO()
    table = pa.table({"audio": [{"bytes": sound, "path": None} for sound in sounds]})
    pq.write_table(table, sink, row_group_size=2, use_dictionary=has_dictionary)
    plain, uri = Storage(), f"{bucket}/a.parquet"
    plain.put(uri, sink.getvalue())
    entry = plain.stat(uri)
    assert entry is not None
    rows = [
        Recording(str(n), entry.uri, None, entry.version, AudioLocation("audio", row_group=n // 2, row=n % 2))
        for n in range(4)
    ]
    proxy = CountingProxy(s3_environment)
    with proxy.serving() as url:
        counted = Storage(StorageConfig(endpoint_url=url, timeout_s=5))
        assert _fetch(rows, counted, tmp_path / "0") == sounds
        assert proxy.take_requests() == {Kind.RANGED_GET: 3}  # the footer, and each row group
        assert len(list((tmp_path / "0").iterdir())) == 1  # the last row
        monkeypatch.setattr(range_reader, "COPIED_BYTES", 2 << 20)
        assert _fetch(rows, counted, tmp_path / "1") == sounds
        assert proxy.take_requests() == {Kind.RANGED_GET: 4}  # two for each row group; the footer is known
        plain.put(uri, sink.getvalue()[::-1])
        assert _fetch(rows, counted, tmp_path / "3") == [ErrorKind.STORAGE] * len(rows)


def test_a_member_beyond_the_end_of_a_shard_fails_alone(bucket: str, tmp_path: Path) -> None:
    storage = Storage()
    storage.put(f"{bucket}/a.tar", SHARD)
    places = [(0, 10), (len(SHARD) - 5, 10), (20, 10)]
    found = _fetch(_members(f"{bucket}/a.tar", places, None), storage, tmp_path / "copies")
    assert found == [SHARD[:10], ErrorKind.STORAGE, SHARD[20:30]]


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
