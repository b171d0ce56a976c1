"""Choice of device, dtype and attention with its reasons; unsupported settings are refused before loading."""

import importlib.util
from pathlib import Path

import pytest
import torch

from distil_ray.whisper import model as model_module
from distil_ray.whisper.model import load_model, resolve_attention, resolve_device, resolve_dtype

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], *, flash_attn: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: (object() if flash_attn else None) if name == "flash_attn" else find_spec(name),
    )


def test_a_missing_gpu_is_an_error_that_names_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"model\.device=cuda, but no GPU can be used: torch .* sees"):
        load_model(tmp_path / "never read", device="cuda")
    with pytest.raises(RuntimeError, match="must be cpu or cuda"):
        resolve_device("tpu")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx512f", "avx512_bf16"}, torch.float32),
        ({"amx_tile", "amx_bf16"}, torch.bfloat16),
        ({"avx512f", "avx512_vnni"}, torch.float32),
        (set(), torch.float32),
    ],
)
def test_auto_is_bfloat16_only_on_processors_with_amx(
    flags: set[str], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "cpu_flags", lambda: frozenset(flags))
    dtype, reason = resolve_dtype("auto", CPU)
    assert dtype == expected
    assert reason is not None and "because the processor has" in reason


def test_auto_is_bfloat16_on_gpus_from_ampere_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, (9, 0))
    assert resolve_dtype("auto", GPU)[0] == torch.bfloat16
    pretend_gpu(monkeypatch, (7, 5))
    assert resolve_dtype("auto", GPU)[0] == torch.float16


def test_a_dtype_is_used_or_refused() -> None:
    assert resolve_dtype("bfloat16", CPU) == (torch.bfloat16, None)
    with pytest.raises(RuntimeError, match="float16 needs a GPU"):
        resolve_dtype("float16", CPU)
    with pytest.raises(RuntimeError, match="must be auto, float32"):
        resolve_dtype("int4", CPU)


def test_flash_attention_is_chosen_where_it_works_and_its_absence_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, (9, 0), flash_attn=True)
    assert resolve_attention("auto", GPU, torch.bfloat16)[0] == "flash_attention_2"
    for device, dtype, capability, installed, word in (
        (CPU, torch.float32, (9, 0), True, "GPUs only"),
        (GPU, torch.bfloat16, (9, 0), False, "not installed"),
        (GPU, torch.float16, (7, 5), True, "older than Ampere"),
        (GPU, torch.float32, (9, 0), True, "needs float16 or bfloat16"),
    ):
        pretend_gpu(monkeypatch, capability, flash_attn=installed)
        chosen, reason = resolve_attention("auto", device, dtype)
        assert chosen == "sdpa"
        assert reason is not None and word in reason
        with pytest.raises(RuntimeError, match=r"flash_attention_2 cannot be used: .*" + word):
            resolve_attention("flash_attention_2", device, dtype)


def test_a_loaded_model_has_the_requested_dtype_and_attention(whisper_tiny_en: Path) -> None:
    loaded = load_model(whisper_tiny_en, dtype="bfloat16", attention="eager", threads=1)
    assert (loaded.device_name, loaded.dtype_name, loaded.attention, loaded.warnings) == (
        "cpu",
        "bfloat16",
        "eager",
        (),
    )
    assert not loaded.module.training
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    assert torch.get_num_threads() == 1
