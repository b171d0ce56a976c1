"""Folders of the weights cache are built once and are never visible incomplete."""

import tempfile
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


def test_what_a_killed_builder_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Weights of a large model are gigabytes. Folders of other names stay: they may be in the making."""
    left, others = tmp_path / ".model-ab12_cd3", [".model-large-ab12_cd3", ".other-ab12_cd3", "model-ab12_cd3"]
    for path in (left, *(tmp_path / name for name in others)):
        path.mkdir()
        (path / "half").write_text("…")
    build_once(tmp_path / "model", lambda folder: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "model", "model.lock"])


@pytest.mark.parametrize("name", ["open", "mkdtemp"])
def test_a_cache_that_this_user_may_not_write_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its folder exists, of another user: neither the lock nor a temporary folder can be made."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path if name == "open" else tempfile, name, refuse)
    with pytest.raises(WeightsError, match=rf"model\.cache_dir: {tmp_path} cannot be written to \(Permission denied\)"):
        build_once(tmp_path / "model", lambda folder: None)


def test_the_cache_lies_where_it_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_RAY_CACHE", str(tmp_path / "environment"))
    assert cache_root(tmp_path / "setting") == tmp_path / "setting"
    assert cache_root(None) == tmp_path / "environment"
    monkeypatch.delenv("DISTIL_RAY_CACHE")
    assert cache_root(None) == Path.home() / ".cache" / "distil_ray"
