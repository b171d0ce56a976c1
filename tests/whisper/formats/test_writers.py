"""Checkpoints are written in every format, by the command too, and read back as they were."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from distil_ray.commands.main import main
from distil_ray.storage.storage import Storage
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.formats import ggml, openai
from distil_ray.whisper.formats.ggml_blocks import QUANTIZED
from distil_ray.whisper.formats.hugging_face import read_folder, write_folder
from distil_ray.whisper.formats.writers import FORMATS, write_weights
from distil_ray.whisper.model import load_model
from distil_ray.whisper.weights_cache import WeightsError
from tests.whisper.formats.checkpoints import assert_same_tensors, random_checkpoint, with_sizes
from tests.whisper.small import VOCAB_SIZE, small_tokenizer


def write_model(folder: Path, tokenizer: Path) -> Path:
    """Writes a tiny checkpoint with float16 numbers for a tokenizer.json."""
    folder.mkdir()
    content = json.loads(tokenizer.read_text())
    vocab_size = 1 + max(token["id"] for token in content["added_tokens"])
    sizes = with_sizes(vocab_size=vocab_size, max_source_positions=1500, max_target_positions=448, decoder_layers=2)
    write_folder(random_checkpoint(sizes, "float16"), folder, companions={"tokenizer.json": content})
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint with a small vocabulary of its own."""
    folder = tmp_path_factory.mktemp("models")
    small_tokenizer().save(str(folder / "tokenizer.json"))
    return write_model(folder / "small", folder / "tokenizer.json")


@pytest.fixture(scope="module")
def english_model(whisper_tiny_en: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint with Whisper's English vocabulary."""
    return write_model(tmp_path_factory.mktemp("models") / "small.en", whisper_tiny_en / "tokenizer.json")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openai", "ggml"])
def test_files_with_whispers_vocabulary_come_back_as_the_same_bits(
    name: str, english_model: Path, tmp_path: Path
) -> None:
    test_float16_numbers_come_back_as_the_same_bits(name, english_model, tmp_path)


@pytest.mark.parametrize("name", ["hf", "ctranslate2"])
def test_float16_numbers_come_back_as_the_same_bits(name: str, model: Path, tmp_path: Path) -> None:
    folder, target = tmp_path / "written", tmp_path / "written"
    target.mkdir()
    if not FORMATS[name].is_folder:
        target = folder / "weights.bin"
    assert write_weights(model, target, name) == "float16"
    (folder / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    found = fetch_weights(str(target), cache_dir=tmp_path / "cache")

    assert_same_tensors(read_folder(found), read_folder(model))
    for file in ("config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json"):
        assert json.loads((found / file).read_text()) == json.loads((model / file).read_text()), file


def test_safetensors_beside_the_checkpoint_are_not_part_of_it(model: Path, tmp_path: Path) -> None:
    """Distil-Whisper's training script saves the teacher as model_1.safetensors beside the student."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / "model_1.safetensors")

    assert_same_tensors(read_folder(folder), read_folder(model))


def test_the_names_of_a_saved_whisper_model_are_understood(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name.removeprefix("model."): each for name, each in tensors.items()}, folder / "model.safetensors")

    assert_same_tensors(read_folder(folder), read_folder(model))


def test_a_projection_that_is_stored_twice_is_tied_in_what_is_written(model: Path, tmp_path: Path) -> None:
    """Where config.json says that it is not tied, transformers would initialize the missing one randomly."""
    folder, target = tmp_path / "model", tmp_path / "written"
    shutil.copytree(model, folder)
    target.mkdir()
    tensors = load_file(folder / "model.safetensors")
    projection = {"proj_out.weight": tensors["model.decoder.embed_tokens.weight"].clone()}
    save_file(tensors | projection, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    write_weights(folder, target, "hf")
    module = load_model(target, dtype="float32").module
    assert torch.equal(module.proj_out.weight, projection["proj_out.weight"].float())


@pytest.mark.parametrize("says_tied", [True, False])
def test_a_projection_of_its_own_is_refused_whatever_the_config_says(
    says_tied: bool, model: Path, tmp_path: Path
) -> None:
    """Recognition and transformers use it in both cases, so that what is written without it would be another model."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    projection = {"proj_out.weight": 2 * tensors["model.decoder.embed_tokens.weight"]}
    save_file(tensors | projection, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": says_tied}))
    assert torch.equal(
        load_model(folder, dtype="float32").module.proj_out.weight, projection["proj_out.weight"].float()
    )
    with pytest.raises(WeightsError, match=r"output projection .* is not the embedding of tokens"):
        write_weights(folder, tmp_path / "x", "ctranslate2")


def test_bfloat16_becomes_float32_of_the_same_numbers(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bfloat16"
    folder.mkdir()
    for path in model.glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(model / "model.safetensors").items()}
    tensors["proj_out.weight"] = tensors["model.decoder.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    (tmp_path / "written").mkdir()

    assert write_weights(folder, tmp_path / "written", "hf") == "float32"
    found = load_file(tmp_path / "written" / "model.safetensors")
    assert found.keys() == tensors.keys() - {"proj_out.weight"}
    assert all(torch.equal(found[name], tensors[name].float()) for name in found)
    assert json.loads((tmp_path / "written" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize(("name", "dtype"), [("ggml", "int8"), ("openai", "q8_0"), ("ctranslate2", "q5_0")])
def test_a_dtype_that_a_format_lacks_is_refused_with_those_it_has(
    name: str, dtype: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=f"dtype={dtype}: format={name} has float32, float16.*auto"):
        write_weights(model, tmp_path / "x", name, dtype)
    assert set(QUANTIZED) < set(FORMATS["ggml"].dtypes)


@pytest.mark.parametrize("name", ["openai", "ggml"])
def test_a_vocabulary_that_a_program_cannot_know_is_refused(name: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"has {VOCAB_SIZE} vocabulary entries"):
        write_weights(model, tmp_path / "x", name)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_feed_forward_width_that_a_format_cannot_state_is_refused(side: str, tmp_path: Path) -> None:
    checkpoint = random_checkpoint(with_sizes(**{f"{side}_ffn_dim": 96}))
    for write in (openai.write, ggml.write):
        with pytest.raises(WeightsError, match=rf"{side}_ffn_dim=96: .* four times the width \(128\)"):
            write(checkpoint, tmp_path / "x")


def damage_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def damage_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"d_model": "32"}))


def damage_tokenizer(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "content": "<|more|>", "id": 51864})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_weights, "model.safetensors: cannot be loaded .* damaged or not complete"),
        (damage_size, "config.json: d_model is '32'; must be a number from 1 to"),
        (damage_tokenizer, "has 51865 tokens, but the weights have 51864 vocabulary entries"),
    ],
)
def test_a_damaged_model_folder_is_refused(
    damage: Callable[[Path], None], words: str, english_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(english_model, tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(WeightsError, match=words):
        write_weights(tmp_path / "model", tmp_path / "x", "ggml")
    assert not (tmp_path / "x").exists()


def test_the_command_writes_a_file_and_never_replaces_one(
    english_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "ggml-small.bin"
    words = ["convert", "-m", str(english_model), "-o", str(target), "format=ggml", "dtype=q8_0"]

    assert main(words) == 0
    assert "q8_0, for whisper.cpp" in capsys.readouterr().out
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    found = ggml.read(target)
    name = "model.decoder.layers.1.encoder_attn.v_proj.weight"
    expected = read_folder(english_model).tensors[name].load().astype(np.float32)
    assert np.abs(found.tensors[name].load() - expected).max() < 0.02

    before = target.read_bytes()
    assert main(words) == 2
    assert "is there already" in capsys.readouterr().err
    assert target.read_bytes() == before


def test_the_command_uploads_a_folder_that_a_run_can_name(model: Path, bucket: str, tmp_path: Path) -> None:
    from distil_ray.pipeline.model_setup import StorageFolderReader

    uri = f"{bucket}/models/small"
    assert main(["convert", "-m", str(model), "-o", uri, "format=ctranslate2", "dtype=float16"]) == 0

    folder = fetch_weights(uri, cache_dir=tmp_path / "cache", reader=StorageFolderReader(Storage()))
    assert_same_tensors(read_folder(folder), read_folder(model))


def test_a_conversion_that_fails_leaves_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out" / "onnx"
    assert main(["convert", "-m", str(model), "-o", str(target), "format=onnx", "exporter=/no/python"]) == 2
    said = capsys.readouterr().err
    assert "/no/python cannot import" in said and "exporter=ENV/bin/python" in said
    assert list(target.parent.iterdir()) == []


EXPORTER = """#!/bin/sh
# Stands in for a Python that has the exporter: writes files of the same names.
[ "$1" = -I ] || exit 9
case "$2" in
  -c) ;;
  -m) for last; do :; done; mkdir "$last"
      for graph in encoder_model decoder_model decoder_model_merged; do ls "$5" > "$last/$graph.onnx"; done
      echo tensors > "$last/encoder_model.onnx_data" ;;
  *quantize_onnx.py) [ -e "$3" ] && echo quantized > "$4" ;;
esac
"""


@pytest.mark.parametrize(
    ("dtype", "graphs"),
    [
        ("float32", ["decoder_model_merged.onnx", "encoder_model.onnx", "encoder_model.onnx_data"]),
        ("int8", ["decoder_model_merged_quantized.onnx", "encoder_model_quantized.onnx"]),
    ],
)
def test_an_onnx_folder_has_the_layout_of_transformers_js(
    dtype: str, graphs: list[str], model: Path, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(EXPORTER)
    python.chmod(0o755)
    (tmp_path / "written").mkdir()

    write_weights(model, tmp_path / "written", "onnx", dtype, str(python))

    assert sorted(path.name for path in (tmp_path / "written" / "onnx").iterdir()) == graphs
    files = {path.name for path in (tmp_path / "written").iterdir()}
    assert files >= {"config.json", "generation_config.json", "tokenizer.json", "vocab.json", "onnx"}
    assert not [name for name in files if name.endswith(".safetensors")]
    if dtype == "float32":
        exported = (tmp_path / "written" / "onnx" / "encoder_model.onnx").read_text()
        assert "model.safetensors" in exported and "merges.txt" in exported
    config = json.loads((tmp_path / "written" / "config.json").read_text())
    external = {"use_external_data_format": {"encoder_model.onnx": True}} if dtype == "float32" else None
    assert config.get("transformers.js_config") == external
