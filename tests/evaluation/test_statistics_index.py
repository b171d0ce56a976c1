"""The index of the summary: with whatever it holds, the statistics are those of the files."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.scale.counting import CountingProxy, Kind
from distil_ray.config import StorageConfig
from distil_ray.evaluation.statistics import RowStatistics, read_statistics
from distil_ray.evaluation.statistics_index import INDEX, StatisticsIndex, drop_recordings
from distil_ray.output import block_index
from distil_ray.storage.storage import Storage
from tests.support.transcripts import Row, transcript_row, write_transcripts

OLD_S = 1_700_000_000


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_index, "MIN_BLOCKS", 1)


def _rows(seed: int, num_rows: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(num_rows):
        words = None if rng.random() < 0.3 else int(rng.integers(1, 9))
        columns = {
            "num_ref_words": words,
            **{name: words and int(rng.integers(0, 3)) for name in ("substitutions", "deletions", "insertions")},
            "wer": words and 0.1,
            "reference": "said" if words else None,
            "normalizer": ["a 1", "b 2"][number % 2] if words else None,
            "metadata": {"speaker": f"s{rng.integers(5)}"} if rng.random() < 0.8 else {},
            "quality_flags": ["repetition_loop"] if rng.random() < 0.3 else None,
            "language": ["en", "de", None][number % 3],
            "unheard_s": float(rng.random()) if rng.random() < 0.5 else None,
        }
        if rng.random() < 0.2:
            columns |= {"status": "failed", "error_kind": "truncated", "error": "ends early", "text": None}
        rows.append(transcript_row(f"{seed}-{number}", **columns))
    return rows


def _read(output: str, storage: Storage, index: bool) -> tuple[RowStatistics, StatisticsIndex | None]:
    entries = list(storage.list_files(f"{output}/transcripts"))
    found = StatisticsIndex(entries, output, storage) if index else None
    uris = [entry.uri for entry in entries]

    def choose(table: pa.Table) -> pa.Table:
        return table.filter(pc.not_equal(table["recording_id"], "1-0"))

    return read_statistics(uris, storage, choose, ["language"], found), found


def _assert_equal(first: RowStatistics, second: RowStatistics) -> None:
    for name in RowStatistics.__slots__:
        one, other = getattr(first, name), getattr(second, name)
        if name == "labels":
            assert {key: (list(value.names), value.codes.tolist()) for key, value in one.items()} == {
                key: (list(value.names), value.codes.tolist()) for key, value in other.items()
            }
        elif name == "normalizers":
            assert (list(one.names), one.codes.tolist()) == (list(other.names), other.codes.tolist())
        elif name == "counts":
            assert all(np.array_equal(one[key], other[key]) for key in one)
        elif isinstance(one, np.ndarray):
            assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f"), name
        else:
            assert one == other, name


def _age(output: str) -> None:
    """Gives the files times of modification that are long ago, and differ."""
    for path in sorted(Path(output, "transcripts").glob("*.parquet")):
        seed = pq.read_table(path, columns=["recording_id"])["recording_id"]
        number = int(seed[0].as_py().partition("-")[0]) if len(seed) else 0
        os.utime(path, (OLD_S + number, OLD_S + number))


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    steps=st.lists(
        st.lists(st.tuples(st.integers(1, 99), st.integers(0, 4)), min_size=1, max_size=4), min_size=1, max_size=3
    )
)
def test_statistics_are_the_same_with_the_index(
    steps: list[list[tuple[int, int]]], small_limits: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    output, storage = str(tmp_path_factory.mktemp("output")), Storage()
    for files in steps:  # of one run: the first files of the output are replaced, others stay as they were
        write_transcripts(output, *(_rows(seed, num_rows) for seed, num_rows in files))
        _age(output)
        expected, _ = _read(output, storage, index=False)
        found, index = _read(output, storage, index=True)
        _assert_equal(found, expected)
        assert index is not None
        index.write()
    found, _ = _read(output, storage, index=True)
    _assert_equal(found, _read(output, storage, index=False)[0])


def test_indexed_files_are_not_read_and_forgotten_recordings_leave_the_index(
    small_limits: None, bucket: str, s3_environment: str
) -> None:
    output = f"{bucket}/out"
    write_transcripts(output, _rows(1, 3), _rows(2, 3), _rows(3, 3))
    _, index = _read(output, Storage(), index=True)
    assert index is not None
    index.write()
    proxy = CountingProxy(s3_environment)
    with proxy.serving() as url:
        storage = Storage(StorageConfig(endpoint_url=url))
        entries = list(Storage().list_files(f"{output}/transcripts"))
        rows = list(StatisticsIndex(entries, output, storage).read())
    assert sum(len(table) for table, _ in rows) == 9
    assert dict(proxy.take_requests()) == {Kind.LIST: 1, Kind.GET: 1}
    assert drop_recordings(["2-1", "nobody"], output, Storage()) == 1
    [(_, numbers)] = list(INDEX.read(entries, output, Storage()))
    assert sorted(numbers.tolist()) == [0, 2]
