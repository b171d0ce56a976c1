"""Indexes stored below the output."""

from pathlib import Path

import pytest
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import ErrorKind, ExitCode
from distil_ray.pipeline import plan_report
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join
from tests.readers.conftest import Place, listed
from tests.readers.shards import record_shard_reads, tar


def test_an_index_is_stored_by_file_version_and_can_be_deleted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    samples: dict[str, str | bytes] = {f"{number}.wav": bytes(number) for number in range(3)}
    root = place({"in/s.tar": tar(samples)})
    storage = Storage()
    config = load_config(None, [f"input.uri={root}/in"]).input
    read = record_shard_reads(monkeypatch)

    def look(*, writable: bool) -> bool:
        """Whether the shard was looked into."""
        read.clear()
        assert len(list(list_recordings(config, storage, IndexCache(f"{root}/out", storage, writable=writable)))) == 3
        return bool(read)

    def kept() -> list[str]:
        return [entry.uri for entry in storage.list_files(f"{root}/out")]

    assert look(writable=False)
    assert kept() == []  # who only looks writes nothing
    assert look(writable=True)
    (index,) = kept()
    assert not look(writable=True)
    assert not look(writable=False)
    assert len(listed(root)) == 3  # an output below the input has no recordings
    storage.put(index, storage.read(index)[:-100])
    assert look(writable=True)
    assert not look(writable=False)
    storage.delete(join(f"{root}/out", "indexes"))
    assert look(writable=True)
    storage.put(f"{root}/in/s.tar", tar({**samples, "more.txt": "x"}))
    assert look(writable=True)
    assert len(kept()) == 2


class BusyStorage(Storage):
    """Neither reads nor writes indexes."""

    def read(self, uri: str) -> bytes:
        self._refuse(uri)
        return super().read(uri)

    def put(self, uri: str, data: bytes) -> None:
        self._refuse(uri)
        super().put(uri, data)

    def _refuse(self, uri: str) -> None:
        if "/indexes/" in uri:
            raise StorageError(ErrorKind.STORAGE, f"{uri}: SlowDown")


def test_where_an_index_can_neither_be_read_nor_stored_the_shard_is_read(place: Place) -> None:
    """Its recordings would count as deleted otherwise."""
    root = place({"in/s.tar": tar({f"{number}.wav": bytes(number) for number in range(3)})})
    config = load_config(None, [f"input.uri={root}/in"]).input
    storage = Storage()
    expected = list(list_recordings(config, storage, IndexCache(f"{root}/out", storage, writable=True)))
    assert len(expected) == 3
    assert list(list_recordings(config, storage, IndexCache(f"{root}/out", BusyStorage(), writable=True))) == expected


def test_the_plan_writes_no_index(
    tmp_path: Path, samples: dict[str, str | bytes], whisper_tiny_en: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.tar").write_bytes(tar(samples))
    settings = [f"input.uri={tmp_path}", f"output.uri={tmp_path / 'out'}", f"model.name={whisper_tiny_en}"]
    assert plan_report.show_plan(load_config(None, settings), Console(width=200)) == ExitCode.DONE
    assert "3 recordings" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
