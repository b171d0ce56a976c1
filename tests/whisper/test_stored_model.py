"""A checkpoint that is read tensor by tensor has the values of the one that transformers loads."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

from distil_ray.whisper.formats.tensors import EMBEDDING
from distil_ray.whisper.model import load_model
from distil_ray.whisper.model_folders import SHARD_INDEX
from distil_ray.whisper.safetensors_files import MAX_KEPT_ROWS, StoredTensors
from distil_ray.whisper.stored_model import StoredModel
from distil_ray.whisper.weights_cache import WeightsError

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_source_positions": 10,
    "max_target_positions": 12,
    "pad_token_id": 0,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny checkpoint with random weights in float16."""
    torch.manual_seed(0)
    module: Any = WhisperForConditionalGeneration(WhisperConfig(**SIZES))
    module.half().save_pretrained(tmp_path)
    return tmp_path


def tensors_of(module: Any) -> dict[str, Tensor]:
    """Every tensor of a model, by the names of the parts that the recognizer asks for."""
    found = {"proj_out": module.proj_out.weight}
    for side, stack in (("encoder", module.model.encoder), ("decoder", module.model.decoder)):
        found[f"{side}.positions"] = stack.embed_positions.weight
        parts = {"norm": stack.layer_norm}
        parts |= {"conv1": stack.conv1, "conv2": stack.conv2} if side == "encoder" else {}
        for number, layer in enumerate(stack.layers):
            attentions = {"self_attn": layer.self_attn}
            names = ["self_attn_layer_norm", "fc1", "fc2", "final_layer_norm"]
            if side == "decoder":
                attentions["encoder_attn"] = layer.encoder_attn
                names.append("encoder_attn_layer_norm")
            parts |= {f"{number}.{name}": getattr(layer, name) for name in names}
            for name, attention in attentions.items():
                assert attention.scaling == 8**-0.5
                projections = ("q_proj", "k_proj", "v_proj", "out_proj")
                parts |= {f"{number}.{name}.{each}": getattr(attention, each) for each in projections}
        for name, part in parts.items():
            found[f"{side}.{name}.weight"] = part.weight
            if part.bias is not None:
                found[f"{side}.{name}.bias"] = part.bias
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_tensor_equals_the_one_that_transformers_loads(folder: Path, dtype: str) -> None:
    loaded = load_model(folder, dtype=dtype)
    stored = StoredModel(folder, loaded.dtype, CPU)
    expected, found = tensors_of(loaded.module), tensors_of(stored)
    assert list(found) == list(expected)
    for name, tensor in found.items():
        assert tensor.dtype == loaded.dtype
        assert torch.equal(tensor, expected[name]), name
    mine, theirs = stored.model.encoder.named_parameters(), dict(loaded.module.model.encoder.named_parameters())
    assert {f"{name}": len(tensor) for name, tensor in mine} == {
        f"model.encoder.{name}": len(tensor) for name, tensor in theirs.items()
    }
    hidden = torch.randn(2, 16, dtype=loaded.dtype)
    assert torch.equal(stored.model.encoder.layer_norm(hidden), loaded.module.model.encoder.layer_norm(hidden))
    assert stored.config.median_filter_width == loaded.module.config.median_filter_width


def test_shards_and_names_without_their_first_part_are_found(folder: Path, tmp_path: Path) -> None:
    tensors = {name.removeprefix("model."): each for name, each in load_file(folder / "model.safetensors").items()}
    expected = StoredModel(folder, torch.float32, CPU).proj_out.weight
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    files = {"model-00001-of-00002.safetensors": names[:30], "model-00002-of-00002.safetensors": names[30:]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (folder / SHARD_INDEX).write_text(json.dumps({"weight_map": weight_map}))
    stored = StoredModel(folder, torch.float32, CPU)
    assert torch.equal(stored.proj_out.weight, expected)
    assert len(list(stored.model.decoder.layers)) == 1
    (folder / SHARD_INDEX).unlink()
    with pytest.raises(WeightsError, match=r"has no model\.safetensors"):
        StoredModel(folder, torch.float32, CPU)


def test_an_output_projection_of_its_own_is_used(folder: Path) -> None:
    """As in transformers 5, which does not tie what differs, even where the config says so."""
    config = json.loads((folder / "config.json").read_text())
    # Copies: tensors of safetensors before 0.8 are views of the file, which is written anew.
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    for factor, is_tied in ((1, True), (2, False)):
        projection = factor * tensors[EMBEDDING]
        metadata = {"format": "pt"}
        save_file(tensors | {"proj_out.weight": projection}, folder / "model.safetensors", metadata)
        for says_tied in (True, False):
            (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": says_tied}))
            stored = StoredModel(folder, torch.float32, CPU)
            loaded = load_model(folder, dtype="float32").module
            assert torch.equal(stored.proj_out.weight, loaded.proj_out.weight)
            assert torch.equal(stored.proj_out.weight, projection.float())
            assert stored.is_tied == (is_tied and says_tied)
            assert torch.equal(stored.embedding_rows()[torch.tensor([7])], tensors[EMBEDDING][[7]].float())


def test_rows_equal_those_of_the_whole_matrix_however_many_are_used(tmp_path: Path) -> None:
    matrix = torch.randn(MAX_KEPT_ROWS + 500, 3)
    save_file({"rows": matrix.half()}, tmp_path / "model.safetensors")
    rows = StoredTensors(tmp_path).rows("rows", torch.float32, (len(matrix), 3))
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for num in (1, 16, 300, 5000, 4000, 16, len(matrix)):
            ids = torch.randint(len(matrix), (2, num), generator=generator)
            assert torch.equal(rows[ids], matrix.half().float()[ids])
    everything = torch.arange(len(matrix))  # more than are kept
    assert torch.equal(rows[everything], matrix.half().float())


def test_damaged_files_are_refused_by_name(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for content in (b"", whole[:100], b"\xff" * 64, struct.pack("<Q", 2) + b"[]", whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"model\.safetensors: is damaged"):
            StoredModel(folder, torch.float32, CPU)
    path.write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    for changes, message in (
        ({"vocab_size": 299}, r"embed_tokens.weight has the shape \(300, 16\)"),
        ({"decoder_layers": 2}, r"lack the tensor model\.decoder\.layers\.1"),
    ):
        (folder / "config.json").write_text(json.dumps(config | changes))
        stored = StoredModel(folder, torch.float32, CPU)
        with pytest.raises(WeightsError, match=message):
            tensors_of(stored)
    (folder / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"config.json is not Whisper's"):
        StoredModel(folder, torch.float32, CPU)
