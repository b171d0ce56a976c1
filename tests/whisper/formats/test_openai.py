"""openai-whisper's checkpoints: names, numbers, and files that want to execute something."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distil_ray.whisper.formats import openai
from distil_ray.whisper.formats.tensors import check_tensors
from distil_ray.whisper.weights_cache import WeightsError
from tests.whisper.formats.checkpoints import (
    SMALL,
    assert_same_tensors,
    random_checkpoint,
)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("openai") / "small.pt"
    openai.write(random_checkpoint(), path)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_reads_back_as_the_same_bits(dtype: str, is_zip: bool, tmp_path: Path) -> None:
    checkpoint = random_checkpoint(dtype=dtype)
    path = tmp_path / "model.pt"
    openai.write(checkpoint, path, dtype)
    if not is_zip:  # as torch wrote before 1.6
        torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    found = openai.read(path)

    check_tensors("model.pt", SMALL, found.tensors)
    assert found.sizes == SMALL
    assert_same_tensors(found, checkpoint)


def test_bfloat16_becomes_float32_of_the_same_numbers(small_file: Path, tmp_path: Path) -> None:
    content = torch.load(small_file, weights_only=True)
    content["model_state_dict"] = {name: each.bfloat16() for name, each in content["model_state_dict"].items()}
    torch.save(content, tmp_path / "model.pt")
    found = openai.read(tmp_path / "model.pt").tensors["model.decoder.layer_norm.bias"]

    assert found.dtype == "float32"
    assert np.array_equal(found.load(), content["model_state_dict"]["decoder.ln.bias"].float().numpy())


def test_parameters_that_require_gradients_are_read_as_their_numbers(small_file: Path, tmp_path: Path) -> None:
    content = torch.load(small_file, weights_only=True)
    state = {name: torch.nn.Parameter(each) for name, each in content["model_state_dict"].items()}
    torch.save({**content, "model_state_dict": state}, tmp_path / "model.pt")

    assert_same_tensors(openai.read(tmp_path / "model.pt"), openai.read(small_file))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("model.encoder.layers.5.self_attn_layer_norm.weight", "encoder.blocks.5.attn_ln.weight"),
        ("model.decoder.layers.0.encoder_attn.v_proj.bias", "decoder.blocks.0.cross_attn.value.bias"),
        ("model.decoder.layers.0.fc2.weight", "decoder.blocks.0.mlp.2.weight"),
        ("model.decoder.embed_positions.weight", "decoder.positional_embedding"),
        ("model.encoder.layer_norm.bias", "encoder.ln_post.bias"),
    ],
)
def test_tensors_get_openais_names(theirs: str, ours: str) -> None:
    assert openai.rename(theirs) == ours


class Executed:
    """An object whose pickle makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_wants_to_execute_something_is_refused(is_zip: bool, small_file: Path, tmp_path: Path) -> None:
    touched, path = tmp_path / "touched", tmp_path / "model.pt"
    content = {**torch.load(small_file, weights_only=True), "more": Executed(touched)}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(WeightsError, match=r"model\.pt: cannot be loaded .*nothing of it was executed"):
        openai.read(path)
    assert not touched.exists()
    torch.load(path, weights_only=False)
    assert touched.exists()  # the pickle is what it claims to be


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"weights": torch.zeros(2)}, "has no dims and model_state_dict"),
        ([torch.zeros(2)], "has no dims and model_state_dict"),
        ({"dims": 3, "model_state_dict": {}}, "must be dictionaries"),
        ({"dims": {}, "model_state_dict": {}}, "the dimension n_vocab is None"),
    ],
)
def test_another_torch_file_is_refused(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=words):
        openai.read(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("dims", "state", "words"),
    [
        ({"n_text_layer": 2}, {}, "lacks 24 tensors, such as model.decoder.layers.1"),
        ({"n_mels": 128}, {}, r"conv1.weight has the shape \(32, 80, 3\); its sizes require \(32, 128, 3\)"),
        ({"n_text_state": 64}, {}, "encoder and decoder have widths 32 and 64"),
        ({"n_vocab": "many"}, {}, "the dimension n_vocab is 'many'"),
        ({"n_text_layer": 1 << 20}, {}, "too few for the layers"),
        ({}, {"decoder.extra": torch.zeros(1)}, "1 tensors that Whisper does not have, such as decoder.extra"),
        ({}, {"decoder.ln.bias": torch.zeros(32, dtype=torch.int8)}, "decoder.ln.bias is int8"),
        ({}, {"decoder.ln.bias": 3}, "'decoder.ln.bias', which is no tensor"),
    ],
)
def test_sizes_that_lie_are_refused(
    dims: dict[str, Any], state: dict[str, Any], words: str, small_file: Path, tmp_path: Path
) -> None:
    content = torch.load(small_file, weights_only=True)
    content["dims"] |= dims
    content["model_state_dict"] |= state
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=words):
        found = openai.read(tmp_path / "model.pt")
        check_tensors("model.pt", found.sizes, found.tensors)


def test_a_tensor_that_is_larger_than_its_storage_is_refused(small_file: Path, tmp_path: Path) -> None:
    """The records of the archive are shortened, so that the pickle states larger tensors than there are bytes."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(small_file) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            data = source.read(entry)
            target.writestr(entry.filename, data[: len(data) // 2] if "/data/" in entry.filename else data)
    # torch 2.6 itself refuses such a file, before the sizes are compared.
    message = "bytes, of which the file holds" if torch.__version__ >= "2.7" else "cannot be loaded"
    with pytest.raises(WeightsError, match=message):
        openai.read(path)


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(pickle.dumps({"dims": {}, "model_state_dict": {}}, protocol=2))
    with pytest.raises(WeightsError):
        openai.read(tmp_path / "model.pt")
