"""The same weights in other programs' formats."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.comparison.models import Parameters, count_parameters
from benchmarks.formats import ctranslate2, ggml, openai
from benchmarks.formats.hugging_face import Checkpoint
from distil_ray.whisper.ctranslate2 import attention_heads, read_variables, to_hugging_face


def test_ctranslate2s_file_reads_back_as_the_same_tensors(whisper_tiny_en: Path, tmp_path: Path) -> None:
    ctranslate2.write(Checkpoint(whisper_tiny_en), tmp_path)
    variables = read_variables((tmp_path / "model.bin").read_bytes())
    found, expected = to_hugging_face(variables), load_file(whisper_tiny_en / "model.safetensors")

    assert attention_heads(variables) == {"encoder": 6, "decoder": 6}
    assert found.keys() == expected.keys() - {"proj_out.weight"}
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    assert len(json.loads((tmp_path / "vocabulary.json").read_text())) == len(
        found["model.decoder.embed_tokens.weight"]
    )


def test_openais_file_holds_every_tensor_under_a_name_of_its_own(whisper_tiny_en: Path, tmp_path: Path) -> None:
    import torch

    openai.write(Checkpoint(whisper_tiny_en), tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)

    assert content["dims"]["n_vocab"] == 51864
    assert len(content["model_state_dict"]) == len(Checkpoint(whisper_tiny_en).weights())
    assert "decoder.blocks.3.cross_attn.key.weight" in content["model_state_dict"]


def test_ggmls_header_and_size_are_whisper_cpps(whisper_tiny_en: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    ggml.write(Checkpoint(whisper_tiny_en), path)

    with open(path, "rb") as file:
        assert struct.unpack("<12i", file.read(48)) == (
            *(0x67676D6C, 51864, 1500, 384, 6, 4),
            *(448, 384, 6, 4, 80, 2007),
        )
        assert struct.unpack("<2i", file.read(8)) == (80, 201)
        file.seek(80 * 201 * 4, 1)
        assert struct.unpack("<i", file.read(4)) == (50256,)


def test_a_checkpoint_without_a_generation_config_is_written_too(whisper_tiny_en: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whisper_tiny_en, folder, ignore=shutil.ignore_patterns("generation_config.json"))
    for name, checkpoint in (("whole", Checkpoint(whisper_tiny_en)), ("bare", Checkpoint(folder))):
        ggml.write(checkpoint, tmp_path / f"{name}.ggml")
        (tmp_path / name).mkdir()
        ctranslate2.write(checkpoint, tmp_path / name)

    assert (tmp_path / "bare.ggml").read_bytes() == (tmp_path / "whole.ggml").read_bytes()
    assert (tmp_path / "bare/model.bin").read_bytes() == (tmp_path / "whole/model.bin").read_bytes()
    assert json.loads((tmp_path / "bare/config.json").read_text())["suppress_ids"] == []


def test_eight_bit_blocks_keep_numbers_within_half_a_step() -> None:
    array = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    blocks = np.frombuffer(ggml.quantize(array), np.uint8).reshape(-1, 34)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    values = scale * blocks[:, 2:].copy().view(np.int8)

    assert np.abs(values.reshape(array.shape) - array).max() <= scale.max() * 0.51 + 2e-3
    assert ggml.quantize(np.zeros((1, 32), np.float32)) == bytes(34)


def test_parameters_are_counted_once_from_headers(tmp_path: Path) -> None:
    half = np.zeros((5, 4), np.float16)
    save_file(
        {"model.encoder.conv1.weight": half, "model.decoder.embed_tokens.weight": half}, tmp_path / "1.safetensors"
    )
    save_file({"model.decoder.layer_norm.bias": half[0].copy(), "proj_out.weight": half}, tmp_path / "2.safetensors")

    assert count_parameters(tmp_path) == Parameters(total=44, decoder=24)


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
