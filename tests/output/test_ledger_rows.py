"""Selection among several rows of a recording, and removal of the others."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.errors import RunError
from distil_ray.output.ledger import FAILED, FINAL, RETRYABLE, Ledger, id_keys, recording_keys
from distil_ray.output.ledger_rows import current_rows, drop_rows, duplicate_rows, stale_rows
from distil_ray.schema import TRANSCRIPT, to_parquet_bytes
from distil_ray.storage.storage import Storage
from tests.support.ledgers import ledger_of

rows = st.tuples(st.sampled_from("abcd"), st.sampled_from([FAILED, RETRYABLE, FINAL]), st.integers(0, 3))


@given(st.lists(rows))
def test_the_best_and_then_the_newest_row_of_each_key_is_preferred(held: list[tuple[str, int, int]]) -> None:
    ledger = ledger_of(
        id_keys([name for name, *_ in held]),
        grades=np.array([grade for _, grade, _ in held], np.uint8),
        times=np.array([time for *_, time in held], np.int64),
    )
    gone = duplicate_rows(ledger)
    assert len(np.unique(gone)) == len(gone) == len(held) - len({name for name, *_ in held})
    left = sorted(held[ledger.row[number]] for number in set(range(len(held))) - set(gone.tolist()))
    assert left == [max(row for row in held if row[0] == name) for name in sorted({name for name, *_ in held})]


def test_rows_of_other_versions_of_listed_recordings_are_stale() -> None:
    names = ["a", "a", "b", "gone"]
    keys = recording_keys(names, [1, 2, 1, 1], ["v"] * 4, ["f"] * 4)
    ledger = ledger_of(keys, id_keys(names))
    numbers = stale_rows(ledger, id_keys(["a", "b"]), keys[1:3])
    assert ledger.row[numbers].tolist() == [0]


versions = st.tuples(st.sampled_from("ab"), st.integers(1, 2), st.sampled_from([FAILED, FINAL]), st.integers(0, 3))


@given(st.lists(versions))
def test_the_current_row_of_an_id_is_the_best_of_its_newest_version(held: list[tuple[str, int, int, int]]) -> None:
    names = [name for name, *_ in held]
    keys = recording_keys(names, [size for _, size, *_ in held], ["v"] * len(held), ["f"] * len(held))
    grades, times = (np.array([one[column] for one in held], np.int64) for column in (2, 3))
    ledger = ledger_of(keys, id_keys(names), grades.astype(np.uint8), times)
    counted = {held[ledger.row[number]] for number in current_rows(ledger)}
    assert len(current_rows(ledger)) == len(counted) == len(set(names))
    for name, size, grade, time in counted:
        newest = max(when for who, _, _, when in held if who == name)
        assert newest in [when for who, version, _, when in held if (who, version) == (name, size)]
        assert (grade, time) == max((g, when) for who, version, g, when in held if (who, version) == (name, size))


def _write(path: Path, names: list[str]) -> None:
    columns = {field.name: pa.nulls(len(names), field.type) for field in TRANSCRIPT}
    columns |= {"recording_id": pa.array(names), "fingerprint": pa.array(["f"] * len(names))}
    columns["status"] = pa.array(["ok"] * len(names))
    Storage().put(str(path), to_parquet_bytes(pa.table(columns, schema=TRANSCRIPT)))


def _names(path: Path) -> list[str]:
    return pq.read_table(path)["recording_id"].to_pylist()  # type: ignore[no-any-return]


def test_dropping_rows_changes_only_their_files(tmp_path: Path) -> None:
    folder = tmp_path / "transcripts"
    for name, held in (("1", ["a", "b", "c"]), ("2", ["d"]), ("3", ["e"])):
        _write(folder / f"task-{name}.parquet", held)
    untouched = (folder / "task-3.parquet").stat().st_mtime_ns
    ledger = Ledger.read(str(tmp_path), Storage())
    gone = np.flatnonzero(np.isin(ledger.ids, id_keys(["b", "d"])))
    assert set(ledger.names(gone, Storage())) == {"b", "d"}
    drop_rows(ledger, gone, Storage())
    assert _names(folder / "task-1.parquet") == ["a", "c"]
    assert not (folder / "task-2.parquet").exists()
    assert (folder / "task-3.parquet").stat().st_mtime_ns == untouched


@pytest.mark.parametrize("meanwhile", [["b", "a"], ["a"]])
def test_a_file_that_was_changed_meanwhile_is_not_overwritten(tmp_path: Path, meanwhile: list[str]) -> None:
    path = tmp_path / "transcripts" / "task-1.parquet"
    _write(path, ["a", "b"])
    ledger = Ledger.read(str(tmp_path), Storage())
    _write(path, meanwhile)
    with pytest.raises(RunError, match="Check that no other program writes"):
        drop_rows(ledger, np.flatnonzero(np.isin(ledger.ids, id_keys(["b"]))), Storage())
    assert _names(path) == meanwhile


def test_a_file_that_changes_while_rows_are_dropped_is_not_overwritten(tmp_path: Path) -> None:
    """`check` comes after the file was read: another run may have written since."""
    path = tmp_path / "transcripts" / "task-1.parquet"
    _write(path, ["a", "b"])
    ledger = Ledger.read(str(tmp_path), Storage())
    with pytest.raises(RunError, match="Check that no other program writes"):
        drop_rows(
            ledger,
            np.flatnonzero(np.isin(ledger.ids, id_keys(["b"]))),
            Storage(),
            lambda: _write(path, ["a", "b", "c"]),
        )
    assert _names(path) == ["a", "b", "c"]


def test_a_run_that_may_no_longer_write_drops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "transcripts" / "task-1.parquet"
    _write(path, ["a"])
    ledger = Ledger.read(str(tmp_path), Storage())

    def refuse() -> None:
        raise RunError("the lease of this run is gone")

    with pytest.raises(RunError, match="is gone"):
        drop_rows(ledger, np.arange(1), Storage(), refuse)
    assert _names(path) == ["a"]
