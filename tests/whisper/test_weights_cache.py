"""Folders of the weights cache are built once and are never visible incomplete."""

import threading
from pathlib import Path

import pytest

from distil_ray.whisper.weights_cache import WeightsError, build_once, cache_root


def test_several_builders_build_once(tmp_path: Path) -> None:
    built: list[Path] = []
    gate = threading.Barrier(4)

    def build(folder: Path) -> None:
        (folder / "file").write_text("whole")
        built.append(folder)

    def work() -> None:
        gate.wait()
        assert (build_once(tmp_path / "cache" / "model", build) / "file").read_text() == "whole"

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["model", "model.lock"]


def test_a_build_that_fails_leaves_nothing_and_can_be_tried_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("…")
        raise WeightsError("the line went dead")

    with pytest.raises(WeightsError):
        build_once(tmp_path / "model", fail)
    assert not (tmp_path / "model").exists()
    assert build_once(tmp_path / "model", lambda folder: None).is_dir()


def test_the_cache_lies_where_it_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_RAY_CACHE", str(tmp_path / "environment"))
    assert cache_root(tmp_path / "setting") == tmp_path / "setting"
    assert cache_root(None) == tmp_path / "environment"
    monkeypatch.delenv("DISTIL_RAY_CACHE")
    assert cache_root(None) == Path.home() / ".cache" / "distil_ray"
