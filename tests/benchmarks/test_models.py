"""Parameters of checkpoints, and checkpoints in the formats of other programs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from benchmarks.comparison.models import Parameters, count_parameters
from benchmarks.comparison.weights import convert_checkpoint


def test_parameters_are_counted_once_from_headers(tmp_path: Path) -> None:
    half = np.zeros((5, 4), np.float16)
    save_file(
        {"model.encoder.conv1.weight": half, "model.decoder.embed_tokens.weight": half}, tmp_path / "1.safetensors"
    )
    save_file({"model.decoder.layer_norm.bias": half[0].copy(), "proj_out.weight": half}, tmp_path / "2.safetensors")

    assert count_parameters(tmp_path) == Parameters(total=44, decoder=24)


@pytest.mark.parametrize("name", ["openai", "ctranslate2"])
def test_a_checkpoint_is_converted_for_an_engine_once(name: str, whisper_tiny_en: Path, tmp_path: Path) -> None:
    found = convert_checkpoint(name, whisper_tiny_en, tmp_path, Path("python"))
    file = found / "model.bin" if found.is_dir() else found
    written = file.stat().st_mtime_ns
    assert convert_checkpoint(name, whisper_tiny_en, tmp_path, Path("python")) == found
    assert file.stat().st_mtime_ns == written
    if name == "openai":
        assert torch.load(file, weights_only=True, mmap=True)["dims"]["n_vocab"] == 51864
