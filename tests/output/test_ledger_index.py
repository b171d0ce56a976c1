"""The index of a ledger: whatever it holds, the ledger is the one that the files of transcripts have."""

import io
import itertools
import json
import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.scale.counting import CountingProxy, Kind
from distil_ray.config import StorageConfig
from distil_ray.output import block_index, ledger_index
from distil_ray.output import ledger as ledger_module
from distil_ray.output.block_index import GRACE_S, BlockIndex, IndexFile
from distil_ray.output.ledger import Ledger
from distil_ray.output.ledger_index import INDEX, IndexUpdate
from distil_ray.schema import TRANSCRIPT
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join

OLD_S = 1_700_000_000  # a time of modification that is long ago


def write_block(output: str, name: str, seed: int, num_rows: int) -> None:
    """Writes or replaces a file of transcripts. On local disks each write gets a time of its own, long ago."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {field.name: pa.nulls(num_rows, field.type) for field in TRANSCRIPT}
    columns["recording_id"] = pa.array([f"recording-{n}" for n in rng.integers(0, 30, num_rows)], pa.string())
    columns["source_size"] = pa.array(rng.integers(0, 3, num_rows), pa.int64())
    columns["fingerprint"] = pa.array([f"f{n}" for n in rng.integers(0, 3, num_rows)], pa.string())
    columns["status"] = pa.array(rng.choice(["ok", "failed", "partial"], num_rows), pa.string())
    times = pa.array(rng.integers(0, 3, num_rows), pa.int64())
    columns["processed_at"] = times.cast(TRANSCRIPT.field("processed_at").type)
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=TRANSCRIPT), sink)
    uri = join(output, "transcripts", name)
    Storage().put(uri, sink.getvalue())
    if not uri.startswith("s3:"):
        os.utime(uri, ns=(0, OLD_S * 10**9 + next(_clock) * 10**7))


_clock = itertools.count()


def read_without_index(output: str) -> Ledger:
    """The ledger of the files alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_module, "read_index", lambda *_: iter(()))
        return Ledger.read(output, Storage())


def assert_is_that_of_the_files(output: str) -> None:
    found, expected = Ledger.read(output, Storage()), read_without_index(output)
    for name in ("keys", "ids", "grades", "times", "file", "row"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert (found.files, found.fingerprints) == (expected.files, expected.fingerprints)


def run_ends(output: str) -> None:
    """What the end of a run does to the index."""
    update = IndexUpdate()
    Ledger.read(output, Storage(), update=update)
    update.write(output, Storage())


def index_files(output: str) -> list[Path]:
    return sorted(Path(output, INDEX.folder).glob("*.parquet"))


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.seconds = time.time()

    def time(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(block_index, "time", clock)
    return clock


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits at which few blocks are indexed, split and merged."""
    monkeypatch.setattr(block_index, "MIN_BLOCKS", 1)
    monkeypatch.setattr(ledger_index, "INDEX", replace(INDEX, max_rows=12))


BLOCKS = st.tuples(st.integers(0, 5), st.integers(0, 10**6), st.integers(0, 9))
DAMAGE = st.sampled_from(["none", "gone", "cut", "flipped", "renamed", "later version", "half a write"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), BLOCKS),
        st.tuples(st.just("delete"), st.integers(0, 5)),
        st.tuples(st.just("run"), st.none()),
        st.tuples(st.just("interrupted run"), st.integers(0, 2)),
        st.tuples(st.just("damage"), st.tuples(DAMAGE, st.integers(0, 7))),
        st.tuples(st.just("age"), st.none()),
    ),
    max_size=14,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS)
def test_a_ledger_is_the_same_with_any_index(
    steps: list[tuple[str, Any]], small_limits: None, clock: Clock, tmp_path_factory: pytest.TempPathFactory
) -> None:
    output = str(tmp_path_factory.mktemp("output"))
    for step, value in steps:
        if step == "write":
            number, seed, num_rows = value
            write_block(output, f"date={number % 2}/task-{number}.parquet", seed, num_rows)
        elif step == "delete":
            Storage().delete_file(join(output, "transcripts", f"date={value % 2}", f"task-{value}.parquet"))
        elif step == "run":
            run_ends(output)
        elif step == "interrupted run":
            _end_while_writing(output, value)
        elif step == "age":
            clock.seconds += 2 * GRACE_S
        else:
            _damage(output, *value)
        assert_is_that_of_the_files(output)


class _EndedError(Exception):
    pass


def _end_while_writing(output: str, num_writes: int) -> None:
    """A run that ends after some of the files of its index."""

    class EndingStorage(Storage):
        left = num_writes

        def put_if_absent(self, uri: str, data: bytes) -> bool:
            if not self.left:
                raise _EndedError
            self.left -= 1
            return super().put_if_absent(uri, data)

    update = IndexUpdate()
    Ledger.read(output, Storage(), update=update)
    with suppress(_EndedError):
        update.write(output, EndingStorage())


def _damage(output: str, kind: str, number: int) -> None:
    files = index_files(output)
    if kind == "none" or not files:
        return
    path = files[number % len(files)]
    data = path.read_bytes()
    if kind == "gone":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "flipped":
        place = len(data) // 2
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    elif kind == "renamed":
        path.rename(path.with_name("0" * 32 + ".parquet"))
    elif kind == "half a write":
        path.with_name(f".tmp-{path.name}").write_bytes(data[:100])
    else:
        info = {b"distil_ray.ledger_index": json.dumps({"version": 99, "replaces": {}}).encode()}
        sink = io.BytesIO()
        try:
            pq.write_table(pq.read_table(path).replace_schema_metadata(info), sink)
        except (pa.ArrowException, OSError):
            return  # it was damaged before
        path.unlink()
        path.with_name(block_index.content_name(sink.getvalue())).write_bytes(sink.getvalue())


def test_an_indexed_block_is_not_read(small_limits: None, bucket: str, s3_environment: str) -> None:
    output = f"{bucket}/out"
    for number in range(5):
        write_block(output, f"task-{number}.parquet", number, 3)
    run_ends(output)
    write_block(output, "task-3.parquet", 99, 3)
    write_block(output, "task-9.parquet", 9, 3)
    proxy = CountingProxy(s3_environment)
    with proxy.serving() as url:
        ledger = Ledger.read(output, Storage(StorageConfig(endpoint_url=url)))
    assert ledger.num_rows == 18
    # Two listings, the two files of the index (12 rows in the first), the replaced and the new block.
    assert dict(proxy.take_requests()) == {Kind.LIST: 2, Kind.GET: 2, Kind.RANGED_GET: 2}
    assert_is_that_of_the_files(output)


def test_few_new_blocks_write_no_index(tmp_path: Path) -> None:
    output = str(tmp_path)
    for number in range(3):
        write_block(output, f"task-{number}.parquet", number, 2)
    run_ends(output)
    assert not Path(output, INDEX.folder).exists()


def test_a_block_that_was_written_just_now_waits_for_the_next_run(small_limits: None, tmp_path: Path) -> None:
    output = str(tmp_path)
    write_block(output, "task-0.parquet", 0, 2)
    write_block(output, "task-1.parquet", 1, 2)
    os.utime(join(output, "transcripts", "task-1.parquet"))
    run_ends(output)
    (path,) = index_files(output)
    assert pq.read_table(path)["path"].to_pylist() == ["task-0.parquet"]


def test_few_index_files_are_read_however_many_runs_add_to_them(
    small_limits: None, clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ledger_index, "INDEX", replace(INDEX, max_rows=10_000))
    loads: list[str] = []
    load = BlockIndex._load

    def counted(self: BlockIndex, entry: Entry, storage: Storage) -> IndexFile | None:
        loads.append(entry.uri)
        return load(self, entry, storage)

    monkeypatch.setattr(BlockIndex, "_load", counted)
    output, most = str(tmp_path), 0
    for number in range(24):
        write_block(output, f"task-{number}.parquet", number, 2 + number % 3)
        loads.clear()
        run_ends(output)
        most = max(most, len(loads))
        clock.seconds += 86_400
        for order, path in enumerate(sorted(index_files(output), key=lambda path: path.stat().st_ctime_ns)):
            os.utime(path, (OLD_S + order, OLD_S + order))
    assert most <= 8  # twice each of at most four, where there are six powers of two
    assert len(index_files(output)) <= 8  # replaced ones are removed after two runs
    assert_is_that_of_the_files(output)


def test_replaced_index_files_stay_for_readers_that_have_listed_them(
    small_limits: None, clock: Clock, tmp_path: Path
) -> None:
    output = str(tmp_path)
    for number in range(2):
        write_block(output, f"task-{number}.parquet", number, 2)
        run_ends(output)
    first = {path: len(pq.read_table(path)) for path in index_files(output)}
    assert sorted(first.values()) == [1, 2]
    clock.seconds += GRACE_S / 2
    write_block(output, "task-2.parquet", 2, 2)
    run_ends(output)
    assert set(first) < set(index_files(output))
    clock.seconds += 2 * GRACE_S
    write_block(output, "task-3.parquet", 3, 2)
    run_ends(output)
    assert [path for path, rows in first.items() if path in index_files(output)] == []
    assert_is_that_of_the_files(output)


def test_settings_that_count_as_this_runs_need_the_files(small_limits: None, tmp_path: Path) -> None:
    output = str(tmp_path)
    write_block(output, "task-0.parquet", 0, 4)
    run_ends(output)
    with_index = Ledger.read(output, Storage(), counts_as="this run's")
    for path in index_files(output):
        path.unlink()
    assert np.array_equal(with_index.keys, Ledger.read(output, Storage(), counts_as="this run's").keys)
    assert not np.isin(with_index.keys, Ledger.read(output, Storage()).keys).any()
