"""Parquet with audio: listing without the audio, extraction in small batches, damage."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distil_ray.errors import ErrorKind
from distil_ray.storage.storage import Storage
from tests.readers.conftest import listed
from tests.readers.shards import audio_cells, parquet_bytes, read_back


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_rows_are_extracted_in_any_order_in_small_batches(
    compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    audio = [random.bytes(size) for size in (5, 6_000_000, 0, 6_000_000, 9, 6_000_000, 7, 1_000_000)]
    uri = tmp_path / "t.parquet"
    uri.write_bytes(parquet_bytes({"audio": audio_cells(audio, [None] * 8)}, row_group_size=7, compression=compression))
    recordings = listed(str(uri))
    assert [one.recording_id for one in recordings] == [f"t.parquet#{number}" for number in range(8)]
    in_memory: list[int] = []
    plain = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, size: int, **options: Any) -> Iterator[pa.RecordBatch]:
        for batch in plain(self, size, **options):
            in_memory.append(batch.nbytes)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    wanted = [recordings[number] for number in (1, 5, 3, 3, 7)]
    assert read_back(wanted, tmp_path / "files") == [audio[number] for number in (1, 5, 3, 3, 7)]
    assert max(in_memory) < 14_000_000


def test_listing_a_remote_table_does_not_read_its_audio(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    audio = [random.bytes(300_000) for _ in range(40)]
    table = {"audio": audio_cells(audio, [f"{n}.wav" for n in range(40)]), "text": ["words"] * 40}
    Storage().put(f"{bucket}/t.parquet", parquet_bytes(table, row_group_size=20))
    sizes: list[int] = []
    plain = Storage.read_range

    def counted(self: Storage, uri: str, start: int, size: int, version: str | None = None) -> bytes:
        sizes.append(size)
        return plain(self, uri, start, size, version)

    monkeypatch.setattr(Storage, "read_range", counted)
    assert len(listed(f"{bucket}/t.parquet")) == 40
    assert sum(sizes) < 100_000  # of twelve million
    assert len(sizes) == 3  # the footer, and what lies behind the audio of each of two row groups


def test_a_damaged_table_has_its_good_rows_and_one_failed_row(tmp_path: Path) -> None:
    audio = [bytes([number]) * 4000 for number in range(4)]
    table = {"audio": audio_cells(audio, ["0", "1", "2", "3"]), "text": ["a" * 300, "b", "c", "d" * 300]}
    whole = parquet_bytes(table, row_group_size=2, compression="none", use_dictionary=False)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cut.parquet").write_bytes(whole[:-900])
    about = pq.ParquetFile(io.BytesIO(whole)).metadata.row_group(1).column(2)
    start = about.data_page_offset
    (tmp_path / "in" / "hole.parquet").write_bytes(whole[:start] + b"\xff" * 60 + whole[start + 60 :])
    found = {one.recording_id: one for one in listed(str(tmp_path / "in"))}
    assert sorted(found) == ["cut.parquet#rest", "hole.parquet#rest", "hole.parquet/0", "hole.parquet/1"]
    assert found["cut.parquet#rest"].error_kind == found["hole.parquet#rest"].error_kind == ErrorKind.CORRUPT
    assert "cut.parquet: cannot be read as Parquet" in (found["cut.parquet#rest"].error or "")
