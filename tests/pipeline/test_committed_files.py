"""Files that a run has written are not read back at its end, unless the store has another version of them."""

from collections.abc import Iterator
from itertools import count

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.scale.counting import CountingProxy, Kind
from distil_ray.config import StorageConfig
from distil_ray.evaluation.statistics import read_statistics
from distil_ray.evaluation.statistics_index import StatisticsIndex
from distil_ray.output import block_index
from distil_ray.output.ledger import Ledger
from distil_ray.output.ledger_index import IndexUpdate
from distil_ray.pipeline.committed_files import CommittedFiles, make_entry
from distil_ray.schema import TRANSCRIPT, to_parquet_bytes
from distil_ray.storage.storage import Storage
from tests.support.transcripts import transcript_row

_numbers = count()


def _write(output: str, name: str, num_rows: int, storage: Storage) -> bytes | None:
    """Writes a file of transcripts as the write stage does, and returns its entry."""
    rows = [transcript_row(f"recording-{next(_numbers)}", num_ref_words=5, wer=0.2) for _ in range(num_rows)]
    table = pa.Table.from_pylist(rows, schema=TRANSCRIPT)
    created = storage.create_if_absent(f"{output}/transcripts/{name}.parquet", to_parquet_bytes(table))
    assert created is not None
    return make_entry(table, created, output)


@pytest.fixture
def counted(s3_environment: str) -> Iterator[tuple[Storage, CountingProxy]]:
    proxy = CountingProxy(s3_environment)
    with proxy.serving() as url:
        yield Storage(StorageConfig(endpoint_url=url, timeout_s=5)), proxy


def test_a_written_file_is_read_back_only_if_it_was_replaced(
    bucket: str, counted: tuple[Storage, CountingProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_index, "MIN_BLOCKS", 1)
    output, (storage, proxy) = f"{bucket}/out", counted
    _write(output, "of-an-earlier-run", 2, storage)
    with CommittedFiles() as committed:
        committed.add(None)  # a store that tells no version
        for name in ("a", "b", "replaced"):
            committed.add(_write(output, name, 3, storage))
        committed.add(_write(output, "gone", 3, storage))
        storage.delete_file(f"{output}/transcripts/gone.parquet")
        storage.delete_file(f"{output}/transcripts/replaced.parquet")
        _write(output, "replaced", 1, storage)
        expected = Ledger.read(output, storage)
        proxy.take_requests()
        update = IndexUpdate(own=committed.tables)
        for _ in range(2):  # the end of a run may read it again
            ledger = Ledger.read(output, storage, update=update)
            assert proxy.take_requests() == {Kind.LIST: 2, Kind.RANGED_GET: 2}
            for name in ("keys", "ids", "grades", "times", "file", "row"):
                assert np.array_equal(getattr(ledger, name), getattr(expected, name)), name
            assert ledger.fingerprints == expected.fingerprints
        index = StatisticsIndex(update.entries, output, storage, committed.tables)
        found = read_statistics(ledger.files, storage, lambda rows: rows, [], index)
        assert proxy.take_requests()[Kind.RANGED_GET] <= 2 + len(found.examples)
        plain = read_statistics(ledger.files, storage, lambda rows: rows, [])
        assert sorted(found.duration_s.tolist()) == sorted(plain.duration_s.tolist())
        assert {name: int(values.sum()) for name, values in found.counts.items()} == {
            name: int(values.sum()) for name, values in plain.counts.items()
        }
        update.write(output, storage)
        index.write()
    proxy.take_requests()
    again = Ledger.read(output, storage)
    assert proxy.take_requests() == {Kind.LIST: 2, Kind.GET: 1}  # all of it was added to the index
    assert np.array_equal(again.keys, expected.keys)
    read_statistics(again.files, storage, lambda rows: rows[:0], [], StatisticsIndex(update.entries, output, storage))
    assert proxy.take_requests() == {Kind.LIST: 1, Kind.GET: 1}


def test_without_a_version_there_is_no_entry(tmp_path: object) -> None:
    assert _write(str(tmp_path), "a", 2, Storage()) is None
