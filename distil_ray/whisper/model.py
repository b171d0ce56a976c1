"""A Whisper checkpoint as loaded modules: on which device, in which number type, with which attention, and why.

Knows Hugging Face's model class and the machine; knows nothing of decoding. What is decided automatically comes back
as notes, each with its reason. Measured on CPUs: bfloat16 is twice as fast as float32 where the processor has products
for it (AVX512-BF16, AMX), and four times slower where it has none, so ``auto`` asks the processor.
"""

import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import WhisperForConditionalGeneration
from transformers.utils import logging as transformers_logging

CPU_FLAGS_OF_BFLOAT16 = ("avx512_bf16", "amx_bf16")  # as /proc/cpuinfo spells them
# What transformers says of every Whisper batch, whatever its caller does: padding is the end token, and its own
# generate hands suppressed tokens on in two ways. Windows of 30 s have no padding that a mask could hide.
NOISE = ("The attention mask is not set", "Passing `generation_config` together with generation-related arguments")
CPU_FLAGS_OF_INT8 = ("avx512_vnni", "avx_vnni", "amx_int8")
FLASH_ATTENTION_CAPABILITY = 8  # major CUDA capability (Ampere) that FlashAttention-2 and bfloat16 products need


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """`module` in eval mode on `device`; `attention` as transformers names it; `notes` say what was chosen and why.

    ``is_int8``: its linear layers, still in float32 here, are to be run in 8-bit products.
    """

    module: WhisperForConditionalGeneration
    device: torch.device
    dtype: torch.dtype
    attention: str
    warnings: tuple[str, ...]
    is_int8: bool = False

    @property
    def device_name(self) -> str:
        """For people: "cpu", or "cuda:0 (NVIDIA H200)"."""
        if self.device.type == "cpu":
            return "cpu"
        return f"{self.device} ({torch.cuda.get_device_name(self.device)})"

    @property
    def dtype_name(self) -> str:
        """ "float32", "bfloat16", "float16" or "int8"."""
        return "int8" if self.is_int8 else str(self.dtype).removeprefix("torch.")


def load_model(
    folder: str | Path, *, device: str = "cpu", dtype: str = "auto", attention: str = "auto", threads: int = 1
) -> LoadedModel:
    """Loads the safetensors of a local model folder.

    `device`: cpu or cuda; `dtype`: auto, float32, bfloat16, float16, int8; `attention`: auto, flash_attention_2,
    sdpa, eager; `threads`: CPU threads of this process. Raises RuntimeError, before anything is read, for what this
    machine cannot do.
    """
    place = resolve_device(device)
    torch.set_num_threads(max(1, threads))
    number, dtype_note = resolve_dtype(dtype, place)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32: torch alone rounds a GPU's convolutions to 10 bits
    # cuDNN's attention, which torch prefers on recent GPUs, is planned anew for every number and length of windows:
    # 0.4 s each, and speech has hundreds of them. flash and efficient attention take any shape.
    torch.backends.cuda.enable_cudnn_sdp(False)
    implementation, attention_note = resolve_attention(attention, place, number)
    if dtype == "int8" and implementation != "sdpa":
        raise RuntimeError(f"model.dtype=int8 does not go with model.attention={attention}; take auto or sdpa")
    _quiet_transformers()
    module = WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=number, attn_implementation=implementation, use_safetensors=True, local_files_only=True
    )
    module.to(place)  # type: ignore[arg-type]  # transformers wraps the method without its types
    module.requires_grad_(False)  # from_pretrained has put it into eval mode
    warnings = tuple(note for note in (dtype_note, attention_note) if note)
    return LoadedModel(module, place, number, implementation, warnings, is_int8=dtype == "int8")


def resolve_device(device: str) -> torch.device:
    """The device that a setting means. Raises RuntimeError where there is none."""
    if device == "cpu":
        return torch.device("cpu")
    if device != "cuda":
        raise RuntimeError(f"model.device={device}: must be cpu or cuda here")
    if not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build for CPUs only"
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        raise RuntimeError(
            f"model.device=cuda, but no GPU can be used: torch {torch.__version__} is {build} and sees"
            f" {torch.cuda.device_count()} GPUs; CUDA_VISIBLE_DEVICES is {visible or 'empty'}. Give each actor a GPU"
            " (resources.gpus_per_actor), or set model.device=cpu and resources.gpus_per_actor=0."
        )
    return torch.device("cuda", torch.cuda.current_device())


def resolve_dtype(dtype: str, device: torch.device) -> tuple[torch.dtype, str | None]:
    """The number type that a setting means on a device, and the reason where it was chosen automatically.

    For int8 it is float32, the type of all that is no linear layer.
    """
    if device.type == "cpu" and dtype == "float16":
        raise RuntimeError("model.dtype=float16 needs a GPU; take bfloat16 or float32 on a CPU")
    if dtype == "int8":
        return _float_beside_int8(device), None
    if dtype != "auto":
        named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        if dtype not in named:
            raise RuntimeError(f"model.dtype={dtype}: must be auto, float32, bfloat16, float16 or int8")
        return named[dtype], None
    if device.type == "cuda":
        if _is_ampere(device):
            return torch.bfloat16, "model.dtype=auto: bfloat16, which this GPU multiplies natively"
        return torch.float16, "model.dtype=auto: float16, because this GPU has no bfloat16 products"
    flags = _cpu_flags()
    for flag in CPU_FLAGS_OF_BFLOAT16:
        if flag in flags:
            return torch.bfloat16, f"model.dtype=auto: bfloat16, because the processor has {flag}"
    return torch.float32, "model.dtype=auto: float32, because the processor has no bfloat16 products (AVX512-BF16, AMX)"


def _float_beside_int8(device: torch.device) -> torch.dtype:
    if device.type != "cpu":
        raise RuntimeError("model.dtype=int8 is for CPUs; take auto, bfloat16 or float16 on a GPU")
    if not supports_int8():  # products of bytes would be slow there, and overflow
        raise RuntimeError(
            f"model.dtype=int8 needs a processor with 8-bit products ({', '.join(CPU_FLAGS_OF_INT8)}), which"
            " /proc/cpuinfo does not name here; take auto or float32"
        )
    return torch.float32


def supports_int8() -> bool:
    """Whether the processor multiplies 8-bit numbers fast."""
    return not _cpu_flags().isdisjoint(CPU_FLAGS_OF_INT8)


def resolve_attention(attention: str, device: torch.device, dtype: torch.dtype) -> tuple[str, str | None]:
    """transformers' name of the attention that a setting means, and the reason where it was chosen automatically."""
    if attention not in ("auto", "flash_attention_2"):
        return attention, None
    obstacle = _obstacle_to_flash_attention(device, dtype)
    if attention == "flash_attention_2":
        if obstacle is not None:
            raise RuntimeError(f"model.attention=flash_attention_2 cannot be used: {obstacle}. Take sdpa or auto.")
        return attention, None
    if obstacle is not None:
        return "sdpa", f"model.attention=auto: sdpa, because {obstacle}"
    return "flash_attention_2", "model.attention=auto: flash_attention_2, which is installed and which this GPU can"


def _obstacle_to_flash_attention(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return "FlashAttention-2 runs on GPUs only"
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash-attn is not installed"
    if not _is_ampere(device):
        return "this GPU is older than Ampere (CUDA capability 8)"
    if dtype == torch.float32:
        return "FlashAttention-2 needs float16 or bfloat16"
    return None


def _quiet_transformers() -> None:
    """Silences `NOISE` and the loading bar, which every actor would write into the job's log; nothing else."""
    logging.getLogger("transformers.generation.utils").addFilter(_is_worth_reading)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _is_worth_reading(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOISE)


def _is_ampere(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device)[0] >= FLASH_ATTENTION_CAPABILITY


def _cpu_flags() -> frozenset[str]:
    """The processor's extensions as Linux names them, without those that torch or oneDNN are told to leave alone
    (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA); empty on other systems."""
    forbidden: tuple[str, ...] = ()
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        forbidden = ("avx512", "amx")
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ("SSE41", "AVX", "AVX2"):
        forbidden = ("avx512", "amx", "avx_vnni")
    return frozenset(flag for flag in _flags_of_processor() if not flag.startswith(forbidden))


def _flags_of_processor() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
