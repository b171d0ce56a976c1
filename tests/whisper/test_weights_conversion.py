"""CTranslate2 weights are read exactly and become a complete Hugging Face folder."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distil_ray.whisper.ctranslate2 import read_variables, to_hugging_face
from distil_ray.whisper.tokenizer import Tokens
from distil_ray.whisper.weights_cache import WeightsError
from distil_ray.whisper.weights_conversion import complete_tokenizer, special_tokens


def test_the_converted_tokenizer_has_all_timestamp_tokens(whisper_base: Path) -> None:
    tokens = Tokens.load(whisper_base)
    assert tokens.tokenizer.id_to_token(tokens.timestamp_begin) == "<|0.00|>"
    assert tokens.tokenizer.id_to_token(tokens.timestamp_begin + 1500) == "<|30.00|>"


def test_an_old_tokenizer_is_completed_with_its_first_merge_and_timestamp_tokens(whisper_base: Path) -> None:
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
