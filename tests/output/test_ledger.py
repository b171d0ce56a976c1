"""The ledger: recordings that the rows of an output contain."""

import io
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.errors import RunError
from distil_ray.output.ledger import Keys, Ledger, recording_keys
from distil_ray.schema import TRANSCRIPT
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from tests.support.ledgers import ledger_of

Identity = tuple[str, int | None, str | None]


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "local" else str(request.getfixturevalue("bucket")) + "/out"


def write(output: str, name: str, rows: list[Identity], fingerprint: str = "f", status: str = "ok") -> None:
    """An output file with these rows."""
    columns: dict[str, Any] = {field.name: pa.nulls(len(rows), field.type) for field in TRANSCRIPT}
    for index, column in enumerate(("recording_id", "source_size", "source_version")):
        columns[column] = pa.array([row[index] for row in rows], TRANSCRIPT.field(column).type)
    columns["fingerprint"] = pa.array([fingerprint] * len(rows), pa.string())
    columns["status"] = pa.array([status] * len(rows), pa.string())
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=TRANSCRIPT), sink)
    Storage().put(join(output, "transcripts", name), sink.getvalue())


def keys_of(rows: list[Identity], fingerprint: str = "f") -> Keys:
    return recording_keys(
        [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], repeat(fingerprint)
    )


def test_a_recording_is_done_only_with_the_same_source_and_fingerprint(output: str) -> None:
    write(output, "task-1.parquet", [("a", 1, "v1"), ("b", 2, None), ("c", None, None)])
    write(output, "date=2026-11-22/task-2.parquet", [("d", 4, "v4")])
    ledger = Ledger.read(output, Storage())
    assert (ledger.num_rows, len(ledger.files), ledger.fingerprints) == (4, 2, {"f": 4})
    held: list[Identity] = [("d", 4, "v4"), ("c", None, None), ("b", 2, None), ("a", 1, "v1")]
    assert ledger.done_mask(keys_of(held)).all()
    assert not ledger.done_mask(keys_of(held, "other")).any()
    changed: list[Identity] = [("a", 1, "v2"), ("a", 2, "v1"), ("b", 2, "v"), ("c", 0, None), ("x", 1, "v1")]
    assert not ledger.done_mask(keys_of(changed)).any()


def test_texts_and_all_other_columns_are_not_read(output: str) -> None:
    write(output, "task-1.parquet", [("a", 1, "v1"), ("b", 2, None)])
    uri = join(output, "transcripts", "task-1.parquet")
    data = bytearray(Storage().read(uri))
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    own = {"recording_id", "source_size", "source_version", "fingerprint", "status", "error_kind", "processed_at"}
    for chunk in (group.column(number) for number in range(group.num_columns)):
        if chunk.path_in_schema not in own:
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    Storage().put(uri, bytes(data))
    with pytest.raises(OSError):
        pq.read_table(io.BytesIO(data), columns=["text"])
    assert Ledger.read(output, Storage()).done_mask(keys_of([("a", 1, "v1"), ("b", 2, None)])).all()


def test_a_missing_output_is_an_empty_ledger(output: str) -> None:
    ledger = Ledger.read(output, Storage())
    assert (ledger.num_rows, len(ledger.files), ledger.fingerprints) == (0, 0, {})
    assert not ledger.done_mask(keys_of([("a", 1, "v")])).any()
    assert len(ledger.duplicates()) == 0


def test_a_failed_row_is_done_unless_failures_are_retried(output: str) -> None:
    write(output, "task-1.parquet", [("bad", 1, "v")], status="failed")
    write(output, "task-2.parquet", [("good", 1, "v")], status="empty")
    ledger = Ledger.read(output, Storage())
    keys = keys_of([("bad", 1, "v"), ("good", 1, "v")])
    assert ledger.done_mask(keys).tolist() == [True, True]
    assert ledger.done_mask(keys, retry_failed=True).tolist() == [False, True]


def test_temporary_and_metadata_files_are_not_read(output: str) -> None:
    storage = Storage()
    write(output, "task-1.parquet", [("a", 1, "v")])
    for name in (".tmp-abc", ".tmp-x.parquet", "notes.txt", "_delta/_x.parquet"):
        storage.put(join(output, "transcripts", name), b"half a file")
    storage.put(join(output, "runs", "1", "plan", "tasks-00000.parquet"), b"not an output")
    assert len(Ledger.read(output, storage).files) == 1


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1" + b"\0" * 50 + b"PAR1"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    Storage().put(str(tmp_path / "transcripts/task-7.parquet"), content)
    with pytest.raises(RunError, match=r"task-7\.parquet: cannot be read as Parquet"):
        Ledger.read(str(tmp_path), Storage())


def test_a_file_of_another_program_is_an_error_that_names_missing_columns(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"recording_id": ["a"], "text": ["b"]}), sink)
    Storage().put(str(tmp_path / "transcripts/strange.parquet"), sink.getvalue())
    with pytest.raises(RunError, match=r"strange\.parquet: has no column error_kind, fingerprint, processed_at"):
        Ledger.read(str(tmp_path), Storage())


def test_duplicate_and_missing_rows_are_found(output: str) -> None:
    storage = Storage()
    write(output, "task-1.parquet", [("a", 1, "v"), ("b", 1, "v")])
    write(output, "task-2.parquet", [("b", 1, "v"), ("c", 1, "v")])
    write(output, "task-3.parquet", [("a", 1, "v"), ("b", 1, "v")], fingerprint="older")
    ledger = Ledger.read(output, storage)
    assert set(ledger.names(ledger.duplicates(), storage)) == {"b"}
    missing = ledger.missing(keys_of([("a", 1, "v"), ("d", 1, "v")]))
    assert len(missing) == 1
    assert missing == keys_of([("d", 1, "v")])


identities = st.tuples(
    st.text(max_size=5), st.none() | st.integers(0, 2**62), st.none() | st.sampled_from(["", "None", "0", "v"])
)


@given(st.lists(identities, unique=True), st.lists(identities, unique=True))
def test_done_recordings_are_exactly_those_with_rows(held: list[Identity], asked: list[Identity]) -> None:
    ledger = ledger_of(keys_of(held))
    assert ledger.done_mask(keys_of(asked)).tolist() == [one in held for one in asked]
    assert len(ledger.duplicates()) == 0


@given(st.lists(identities), st.integers(1, 3))
def test_duplicates_are_the_keys_with_several_rows(held: list[Identity], times: int) -> None:
    rows = held * times
    ledger = ledger_of(keys_of(rows))
    duplicates = ledger.duplicates()
    assert len(duplicates) == sum(rows.count(row) > 1 for row in rows)
    assert len(np.unique(ledger.keys[duplicates])) == len({row for row in rows if rows.count(row) > 1})
