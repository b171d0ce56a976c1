"""The index of tar shards: damage, limits, and the extraction of members."""

import gzip
import io
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distil_ray.errors import ErrorKind, ExitCode
from distil_ray.readers import archive_stream
from distil_ray.readers.fetch import prefetch_files
from distil_ray.storage.range_reader import MAX_GAP_BYTES
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.types import AudioLocation, Recording
from tests.readers.conftest import CLIPS, Place, listed
from tests.readers.shards import record_shard_reads, run_job, tar


def test_a_damaged_shard_has_its_good_members_and_one_failed_row(
    tmp_path: Path, samples: dict[str, str | bytes], whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tar(samples)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        second = archive.getmember(f"clean/{CLIPS[1]}.flac").offset_data
        third = archive.getmember(f"clean/{CLIPS[2]}.flac").offset_data
    packed = gzip.compress(whole)
    damaged = {
        "cut.tar": whole[: third + 9000],
        "hole.tar": whole[: second - 512] + b"z" * 4096 + whole[second - 512 + 4096 :],
        "wiped.tar": whole[: second - 512] + bytes(4096) + whole[second - 512 + 4096 :],
        "crc.tar.gz": packed[:-8] + bytes(8),
        "cut.tar.gz": packed[: len(packed) * 2 // 3],
        "page.tar": b"<html>not found</html>" * 99,
        "nothing.tar": b"",
    }
    root = tmp_path
    for name, data in damaged.items():
        Storage().put(f"{root}/in/{name}", data)
    rows, code = run_job(f"{root}/in", f"{root}/out", whisper_tiny_en, monkeypatch)
    assert code == ExitCode.DONE
    good = {name: sum(key.startswith(f"{name}/") for key in rows) for name in damaged}
    expected = {"cut.tar": 2, "hole.tar": 2, "wiped.tar": 2, "crc.tar.gz": 3, "cut.tar.gz": 2}
    assert good == {**dict.fromkeys(damaged, 0), **expected}
    failed = {key: row for key, row in rows.items() if row["status"] == "failed"}
    assert sorted(failed) == sorted(f"{name}#rest" for name in damaged)
    assert {row["status"] for key, row in rows.items() if key not in failed} == {"ok"}
    kinds = {key.removesuffix("#rest"): row["error_kind"] for key, row in failed.items()}
    assert kinds == {
        **dict.fromkeys(damaged, ErrorKind.CORRUPT),
        "cut.tar": ErrorKind.TRUNCATED,
        "nothing.tar": ErrorKind.EMPTY_FILE,
    }
    assert f"ends inside of 'clean/{CLIPS[2]}.flac', after 9,000 of" in failed["cut.tar#rest"]["error"]
    assert "CRC" in failed["crc.tar.gz#rest"]["error"]
    assert f"{root}/in/page.tar: is not a tar archive" in failed["page.tar#rest"]["error"]
    again, _ = run_job(f"{root}/in", f"{root}/out", whisper_tiny_en, monkeypatch)
    assert again == rows


def test_a_shard_that_changed_after_the_listing_gives_no_members(
    place: Place, tmp_path: Path, samples: dict[str, str | bytes]
) -> None:
    root = place({"s.tar": tar(samples), "t.tgz": tar(samples, "w:gz")})
    recordings = listed(root)
    place({"s.tar": tar(dict(reversed(samples.items()))), "t.tgz": tar({}, "w:gz")})
    fetched = list(prefetch_files(recordings, {}, tmp_path, Storage(), threads=2))
    assert [one.kind for one in fetched if isinstance(one, StorageError)] == [ErrorKind.STORAGE] * 6
    assert "has changed since it was listed" in str(fetched[0])


def test_members_of_a_compressed_shard_are_extracted_in_any_order_by_one_read(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Storage().put(f"{bucket}/s.tgz", tar({name: name * 5 for name in "abcdef"}, "w:gz"))
    names = [*"dbbfd", "nowhere", "e"]
    wanted = [Recording(name, f"{bucket}/s.tgz", location=AudioLocation(member=name)) for name in names]
    read = record_shard_reads(monkeypatch)
    (tmp_path / "here").mkdir()
    results: list[Any] = []
    for one in prefetch_files(wanted, {}, tmp_path / "here", Storage(), threads=3):
        results.append(one.kind if isinstance(one, StorageError) else one.read_text())
    assert results == ["ddddd", "bbbbb", "bbbbb", "fffff", "ddddd", ErrorKind.NOT_FOUND, ErrorKind.NOT_FOUND]
    assert len(list((tmp_path / "here").iterdir())) <= 1
    assert sum(read.values()) < 20_000  # once


def test_large_members_are_skipped_and_small_ones_are_streamed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    large = {f"{number}.wav": bytes(MAX_GAP_BYTES + 5) for number in range(6)}
    small = {f"{number}.wav": bytes(9_000) for number in range(600)}
    for name, members in {"large.tar": large, "small.tar": small}.items():
        Storage().put(f"{bucket}/{name}", tar(members))
    requests = Counter[str]()
    sizes = Counter[str]()
    plain = Storage.read_range

    def counted(self: Storage, uri: str, start: int, size: int, version: str | None = None) -> bytes:
        requests[uri[-9:]] += 1
        sizes[uri[-9:]] += size
        return plain(self, uri, start, size, version)

    monkeypatch.setattr(Storage, "read_range", counted)
    assert len(listed(f"{bucket}/*.tar")) == 606
    assert sizes["large.tar"] < 1 << 20
    assert requests["small.tar"] < 5


def test_a_shard_that_exceeds_the_unpacked_limit_is_not_read_to_its_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_stream, "MIN_UNPACKED_LIMIT_BYTES", 1 << 20)
    monkeypatch.setattr(archive_stream, "MAX_RATIO", 10)
    root = place({"s.tgz": tar({"a.wav": bytes(9_000), "b.wav": bytes(5_000_000), "c.wav": b"c"}, "w:gz")})
    first, rest = listed(root)
    assert first.recording_id == "s.tgz/a.wav"
    assert "unpacks to more than 1,048,576 bytes" in (rest.error or "")
