"""CTranslate2's folders: numbers, quantized rows, vocabularies, and damaged files."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distil_ray.whisper.formats import ctranslate2
from distil_ray.whisper.formats.ctranslate2 import NUMBER_CODES, from_variables, read_variables
from distil_ray.whisper.formats.tensors import check_tensors
from distil_ray.whisper.weights_cache import WeightsError
from tests.whisper.formats.checkpoints import SMALL, assert_same_tensors, random_checkpoint

TOKENIZER: dict[str, Any] = {"model": {"vocab": {"a": 0, "\u0120b": 1, "": 2}}, "added_tokens": []}
TOKENIZER["added_tokens"] = [{"content": "<|endoftext|>", "id": 3}]


def write(folder: Path, dtype: str = "float32", numbers: str = "float32") -> Path:
    """Writes a small folder and returns its model.bin."""
    folder.mkdir(exist_ok=True)
    generation = {"suppress_tokens": [1], "begin_suppress_tokens": [2, 3], "alignment_heads": [[0, 1]]}
    checkpoint = replace(random_checkpoint(dtype=numbers), tokenizer=TOKENIZER, generation=generation)
    ctranslate2.write(checkpoint, folder, dtype)
    return folder / "model.bin"


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("ctranslate2"), "int8")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_folder_reads_back_as_the_same_bits_and_rules(dtype: str, tmp_path: Path) -> None:
    found = ctranslate2.read(write(tmp_path, dtype, dtype))

    assert found.sizes == SMALL
    assert_same_tensors(found, random_checkpoint(dtype=dtype))
    assert found.vocabulary == (b"a", b" b", b"")
    assert found.generation == {
        "suppress_tokens": [1],
        "begin_suppress_tokens": [2, 3],
        "alignment_heads": [[0, 1]],
    }


@pytest.mark.parametrize(("dtype", "others"), [("int8", "float32"), ("int8_float16", "float16")])
def test_int8_rows_are_within_half_a_step(dtype: str, others: str, tmp_path: Path) -> None:
    found = ctranslate2.read(write(tmp_path, dtype))
    check_tensors("model.bin", SMALL, found.tensors)
    expected = random_checkpoint()

    for name, tensor in expected.tensors.items():
        array, numbers = found.tensors[name].load(), tensor.load()
        if name.endswith(("bias", "norm.weight", "positions.weight")):
            assert np.array_equal(array, numbers.astype(others)), name
        else:
            rows = numbers.reshape(len(numbers), -1)
            off = np.abs(array.reshape(rows.shape) - rows).max(axis=1)
            assert (off <= np.abs(rows).max(axis=1) / 127 * 0.501).all(), name
            assert off.any(), name


def test_without_usable_alignment_heads_those_of_the_upper_layers_are_written(tmp_path: Path) -> None:
    for number, heads in enumerate(([], [[0, 0], [7, 1]])):
        folder = tmp_path / str(number)
        folder.mkdir()
        checkpoint = replace(random_checkpoint(), tokenizer=TOKENIZER, generation={"alignment_heads": heads})
        ctranslate2.write(checkpoint, folder)
        assert json.loads((folder / "config.json").read_text())["alignment_heads"] == [[0, 0], [0, 1]]
        assert "alignment_heads" not in ctranslate2.read(folder / "model.bin").generation


def test_a_vocabulary_in_lines_is_read(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "vocabulary.json").unlink()
    (tmp_path / "vocabulary.txt").write_text("a\n\u0120b\n\n<|endoftext|>\n<|startoftranscript|>\n")
    assert ctranslate2.read(path).vocabulary == (b"a", b" b", b"")


def test_a_vocabulary_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    for text in ('["\u2581the", "<|endoftext|>"]', '{"a": 0}', "[", '["a"]'):
        (tmp_path / "vocabulary.json").write_text(text)
        with pytest.raises(WeightsError, match=r"vocabulary\.json"):
            ctranslate2.read(path)


def model_bin(variables: dict[str, np.ndarray[Any, Any]], spec: str = "WhisperSpec") -> bytes:
    """A model.bin as CTranslate2 lays it out; uint16 stands for bfloat16."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    codes = NUMBER_CODES | {"uint16": NUMBER_CODES["bfloat16"]}
    parts = [struct.pack("<I", 6), text(spec), struct.pack("<II", 3, len(variables))]
    for name, array in variables.items():
        shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        parts += [text(name), shape, struct.pack("<BI", codes[array.dtype.name], array.nbytes), array.tobytes()]
    alias = [struct.pack("<I", 1), text("decoder/projection/weight"), text(next(iter(variables), ""))]
    return b"".join([*parts, *(alias if variables else [struct.pack("<I", 0)])])


def test_variables_are_read_as_they_were_written() -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "a/weight": np.arange(6, dtype=np.float16).reshape(2, 3),
        "num_heads": np.array(8, np.int8),
    }
    found = read_variables(model_bin({**arrays, "b": np.array([0x3FC0, 0xC000], np.uint16)}))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert found["b"].tolist() == [1.5, -2.0]
    assert found["decoder/projection/weight"] is found["a/weight"]


def test_files_that_are_not_whole_or_not_whisper_are_refused() -> None:
    data = model_bin({"a/weight": np.zeros(2, np.float16)})
    with pytest.raises(WeightsError, match="3 bytes are left over"):
        read_variables(data + b"abc")
    with pytest.raises(WeightsError, match="found 'TransformerSpec'"):
        read_variables(model_bin({}, spec="TransformerSpec"))
    with pytest.raises(WeightsError, match=r"variable a/weight has 4 bytes and the shape \(3,\)"):
        read_variables(data.replace(struct.pack("<BI", 1, 2), struct.pack("<BI", 1, 3), 1))


def test_integers_without_a_scale_are_refused(small_file: Path) -> None:
    variables = read_variables(small_file.read_bytes())
    del variables["decoder/embeddings/weight_scale"]
    with pytest.raises(WeightsError, match="decoder/embeddings/weight is int8 and has no scale"):
        from_variables(variables)


def test_a_bias_of_the_keys_is_refused(small_file: Path) -> None:
    variables = read_variables(small_file.read_bytes())
    variables["encoder/layer_0/self_attention/linear_0/bias"] = np.ones(96, np.float32)
    with pytest.raises(WeightsError, match="gives the keys a bias"):
        from_variables(variables)


def test_the_vocabulary_lists_every_id(small_file: Path) -> None:
    tokens = json.loads((small_file.parent / "vocabulary.json").read_text())
    assert len(tokens) == SMALL.vocab_size
    assert tokens[:5] == ["a", "\u0120b", "", "<|endoftext|>", "<|unused4|>"]
