"""The encoder's layer, compiled when a recognizer is loaded and never again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native import slot_loop
from distil_ray.recognition.native.compiled_layer import FIRST_TORCH, CompiledLayer
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.native.scheduler import GPU_POLICY
from distil_ray.whisper.model import open_model
from tests.support.clips import load_samples

needs_programs = pytest.mark.skipif(torch.__version__ < FIRST_TORCH, reason=f"needs torch {FIRST_TORCH} or later")

OPTIONS = RecognizerOptions(dtype="float32", batch_size=4, window="gated", max_new_tokens=8)


@needs_programs
def test_two_programs_serve_windows_of_every_number_and_length(small_checkpoint: Path) -> None:
    compiled, runs = list[int](), list[int]()

    def backend(graph: Any, inputs: Any) -> Callable[..., Any]:
        compiled.append(len(inputs))

        def run(*arguments: Any) -> Any:
            runs.append(1)
            return graph(*arguments)

        return run

    encoder = Encoder(open_model(small_checkpoint, dtype="float32").module)
    encoder.add_silence_context()
    layer = encoder.compile_layers(backend)
    num_layers, bins = len(encoder._layers), encoder._convolutions[0][0].shape[1]
    assert len(compiled) == 2 and layer.seconds > 0
    for rows, frames in ((2, 3000), (3, 3000), (2, 100), (5, 2900), (1, 500)):
        features = torch.randn(rows, bins, frames, generator=torch.Generator().manual_seed(frames))
        encoder.compiled = None
        expected = encoder(features)
        encoder.compiled, runs[:] = layer, []
        assert torch.equal(encoder(features), expected)
        assert len(runs) == num_layers * (rows > 1), "a single window runs as it is"
    assert len(compiled) == 2, "nothing is compiled after loading"


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_loop, "policy_for", lambda device: GPU_POLICY)


def clips() -> list[PCM16]:
    return [load_samples(name) for name in ("cards-001", "cards-003", "cards-005", "librispeech-61")]


def test_a_recognizer_goes_on_where_nothing_can_be_compiled(
    small_checkpoint: Path, on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> CompiledLayer:
        raise RuntimeError("no C++ compiler\nin a longer message")

    monkeypatch.setattr(Encoder, "compile_layers", fail)
    options = replace(OPTIONS, compile_encoder=True)
    recognizer = NativeRecognizer(small_checkpoint, options)
    assert recognizer._encoder.compiled is None
    (message,) = (text for text in recognizer.warnings if text.startswith("model.compile_encoder"))
    assert "the layer as it is, as the compiled layer did not pass" in message and "(no C++ compiler)" in message
    with pytest.raises(RuntimeError, match=r"no C\+\+ compiler"):
        NativeRecognizer(small_checkpoint, replace(options, self_check=False))


def test_a_torch_that_is_too_old_is_named(small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(open_model(small_checkpoint, dtype="float32").module)
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.7.1+cpu"))
    with pytest.raises(RuntimeError, match=r"model\.compile_encoder needs torch 2\.8 or later; found 2\.7\.1\+cpu"):
        encoder.compile_layers("eager")


def test_a_compiled_layer_that_differs_is_not_used(
    small_checkpoint: Path, on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(weights: Any, num_heads: int, hidden: Tensor, *silence: Tensor) -> Tensor:
        return hidden * 2

    monkeypatch.setattr(Encoder, "compile_layers", lambda encoder: CompiledLayer(wrong, "eager"))
    recognizer = NativeRecognizer(small_checkpoint, replace(OPTIONS, compile_encoder=True))
    assert recognizer._encoder.compiled is None
    assert any("did not pass model.self_check: " in text for text in recognizer.warnings)


@needs_programs
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_compiled_encoder_of_real_weights_gives_the_same_tokens(whisper_tiny_en: Path, on_a_gpu: None) -> None:
    """By torch's C++ back end, with windows of every length that the clips have, and full ones."""
    options = replace(OPTIONS, max_new_tokens=None)
    compiled = NativeRecognizer(whisper_tiny_en, replace(options, compile_encoder=True))
    assert compiled._encoder.compiled is not None
    assert any(text.startswith("model.compile_encoder: torch.compile took") for text in compiled.warnings)
    chunks = [*clips(), *clips()]  # windows of one length are encoded together
    recognizers = (NativeRecognizer(whisper_tiny_en, options), compiled)
    expected, found = (each.transcribe(chunks, ["en"] * len(chunks)) for each in recognizers)
    assert [each.tokens for each in found] == [each.tokens for each in expected]
