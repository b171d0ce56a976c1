"""whisper.cpp's files: what is written reads back, blocks are ggml's, and damaged files are refused."""

import struct
from pathlib import Path

import numpy as np
import pytest

from distil_ray.whisper.formats import ggml
from distil_ray.whisper.formats.ggml_blocks import QUANTIZED, dequantize, quantize
from distil_ray.whisper.formats.tensors import check_tensors
from distil_ray.whisper.weights_cache import WeightsError
from tests.whisper.formats.checkpoints import SMALL, assert_same_tensors, random_checkpoint

HEADER = 4 + 11 * 4  # bytes before the shape of the mel filters


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ggml") / "ggml-small.bin"
    ggml.write(random_checkpoint(vocabulary=(b"a", b"bc", b"")), path, "q5_1")
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numbers_that_the_type_holds_read_back_as_the_same_bits(dtype: str, tmp_path: Path) -> None:
    checkpoint = random_checkpoint(dtype=dtype)
    ggml.write(checkpoint, tmp_path / "model.bin", dtype)
    found = ggml.read(tmp_path / "model.bin")

    assert found.sizes == checkpoint.sizes
    assert_same_tensors(found, checkpoint)


def test_vectors_of_a_float16_file_that_are_no_float16_numbers_stay_as_they_are(tmp_path: Path) -> None:
    checkpoint = random_checkpoint()
    ggml.write(checkpoint, tmp_path / "model.bin", "float16")
    found = ggml.read(tmp_path / "model.bin").tensors

    name = "model.decoder.layer_norm.weight"
    assert np.array_equal(found[name].load(), checkpoint.tensors[name].load())
    assert found["model.decoder.layers.0.fc1.weight"].dtype == "float16"


@pytest.mark.parametrize(
    ("dtype", "most_steps"), [("q8_0", 127), ("q5_0", 16), ("q5_1", 31), ("q4_0", 8), ("q4_1", 15)]
)
def test_blocks_keep_numbers_within_a_step(dtype: str, most_steps: int, tmp_path: Path) -> None:
    checkpoint = random_checkpoint()
    path = tmp_path / "model.bin"
    ggml.write(checkpoint, path, dtype)
    found = ggml.read(path)
    check_tensors("model.bin", SMALL, found.tensors)

    name = "model.encoder.layers.0.fc2.weight"
    expected = checkpoint.tensors[name].load()
    blocks = expected.reshape(-1, 32)
    spread = np.ptp(blocks, axis=1) if dtype.endswith("_1") else np.abs(blocks).max(axis=1)
    off = np.abs(found.tensors[name].load().reshape(-1, 32) - blocks).max(axis=1)
    limit = 0.5 if dtype.endswith("_1") or dtype == "q8_0" else 1.0  # the largest of the other sign is cut by a step
    assert (off <= spread / most_steps * limit * 1.01 + 2e-3).all()
    assert off.max() > spread.min() / most_steps * 0.2  # it was quantized
    # What stands in blocks is written as the same blocks again.
    again = tmp_path / "again.bin"
    ggml.write(found, again, dtype)
    if dtype == "q8_0":
        off_again = np.abs(ggml.read(again).tensors[name].load() - found.tensors[name].load()).max()
        assert off_again <= 2e-3


def test_blocks_have_the_layout_of_ggml() -> None:
    numbers = np.arange(32, dtype=np.float32)[None] - 16
    q8_0 = quantize(numbers, QUANTIZED["q8_0"]).tobytes()
    scale = np.float32(16 / 127)
    assert np.frombuffer(q8_0[:2], np.float16)[0] == np.float16(scale)
    assert np.frombuffer(q8_0[2:], np.int8).tolist() == [round(float(value)) for value in numbers[0] / scale]
    q4_0 = quantize(numbers / 2, QUANTIZED["q4_0"]).tobytes()
    assert np.frombuffer(q4_0[:2], np.float16)[0] == 1.0  # the largest in magnitude, -8, is the integer 0
    assert [byte & 15 for byte in q4_0[2:]] == [(index + 1) // 2 for index in range(16)]
    assert [byte >> 4 for byte in q4_0[2:]] == [min(15, (index + 17) // 2) for index in range(16)]
    q5_1 = quantize(numbers, QUANTIZED["q5_1"]).tobytes()
    assert np.frombuffer(q5_1[:4], np.float16).tolist() == [1.0, -16.0]
    assert struct.unpack("<I", q5_1[4:8]) == (0xFFFF0000,)
    assert [byte & 15 for byte in q5_1[8:]] == [byte >> 4 for byte in q5_1[8:]] == list(range(16))
    for kind in QUANTIZED.values():
        zeros = quantize(np.zeros((2, 64)), kind)
        assert zeros.shape == (4, kind.num_bytes)
        assert not dequantize(zeros, (2, 64), kind).any()


def test_header_and_vocabulary_are_where_whisper_cpp_reads_them(small_file: Path) -> None:
    data = small_file.read_bytes()
    assert struct.unpack_from("<12i", data) == (0x67676D6C, 300, 20, 32, 2, 1, 16, 32, 2, 1, 80, 2009)
    assert struct.unpack_from("<2i", data, HEADER) == (80, 201)
    assert data[HEADER + 8 + 80 * 201 * 4 :].startswith(
        struct.pack("<2i", 3, 1) + b"a" + struct.pack("<i", 2) + b"bc" + struct.pack("<4i", 0, 3, 20, 1)
    )


@pytest.mark.parametrize(
    ("position", "value", "words"),
    [
        (0, 0x46554747, "is no file of whisper.cpp"),
        (4, 0, "the dimension n_vocab is 0"),
        (4 + 11 * 4 - 8, 128, "mel filters of 80 x 201"),
        (16, 3, "3 attention heads do not divide the width 32"),
        (20, 1 << 20, "too few for the layers"),
        (44, 1009, "its blocks have version 1; must be 2"),
        (HEADER, 81, "mel filters of 81 x 201"),
        (HEADER + 8 + 80 * 201 * 4, 301, "301 words in a vocabulary of 300"),
        (HEADER + 12 + 80 * 201 * 4, 1 << 30, "it is not complete"),
    ],
)
def test_a_header_that_lies_is_refused(small_file: Path, position: int, value: int, words: str) -> None:
    data = bytearray(small_file.read_bytes())
    struct.pack_into("<I", data, position, value)
    changed = small_file.with_name("lies.bin")
    changed.write_bytes(data)
    with pytest.raises(WeightsError, match=words):
        found = ggml.read(changed)
        check_tensors("lies.bin", found.sizes, found.tensors)


def test_unknown_tensor_types_are_named_with_the_known_ones(small_file: Path) -> None:
    data = small_file.read_bytes()
    changed = bytearray(data)
    struct.pack_into("<i", changed, data.index(b"encoder.conv1.weight") - 12 - 4, 14)  # before its three dimensions
    path = small_file.with_name("types.bin")
    path.write_bytes(changed)
    with pytest.raises(WeightsError, match=r"the tensor type 14 of ggml; supported are float32, float16, q4_0.*q8_0"):
        ggml.read(path)
