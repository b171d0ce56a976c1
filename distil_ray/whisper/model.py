"""Loading of a Whisper checkpoint, and the choice of device, dtype and attention for this machine.

`load_model` gives Hugging Face's `WhisperForConditionalGeneration`, `open_model` what the native recognizer needs of
it: tensors that are read one by one. Decoding is not part of this module. Automatic choices are returned as warnings
with their reasons. Measured on CPUs, bfloat16 is more than twice as fast as float32 if the processor has AMX, slower
with AVX512-BF16 alone, and four times slower without either; ``auto`` therefore reads the CPU flags.
"""

import importlib.util
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from distil_ray.whisper.int8_kernels import find_problem
from distil_ray.whisper.processor import BFLOAT16_FLAG, Int8Products, choose_int8_products, cpu_flags
from distil_ray.whisper.stored_model import StoredModel

# Warnings that transformers logs for every Whisper batch: the padding token is the end token, and its own generate
# passes suppressed tokens in two ways. Windows of 30 s have no padding that an attention mask could exclude.
SUPPRESSED_LOG_MESSAGES = (
    "The attention mask is not set",
    "Passing `generation_config` together with generation-related arguments",
)
EIGHT_BITS = ("int8", "float8")  # values of `model.dtype` for linear layers; everything else has a wider type
FLOAT8_CAPABILITY = (8, 9)  # CUDA capability (Ada) of 8-bit floating-point products
FLASH_ATTENTION_CAPABILITY = 8  # major CUDA capability (Ampere) that FlashAttention-2 and bfloat16 products need


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A loaded checkpoint.

    Attributes:
        module: Hugging Face's model in eval mode on `device`, or a `StoredModel`, which has the same attributes as far
            as the native recognizer uses them.
        device: Device of all weights.
        dtype: dtype of all weights.
        attention: Attention implementation, as transformers names it.
        warnings: Automatic choices with their reasons.
        int8: How the linear layers, which are float32 here, are to be run in 8-bit arithmetic; None: they are not.
        is_float8: Those of the encoder and the vocabulary, which are bfloat16 here, are to be run in 8-bit
            floating-point arithmetic.
    """

    module: Any
    device: torch.device
    dtype: torch.dtype
    attention: str
    warnings: tuple[str, ...]
    int8: Int8Products | None = None
    is_float8: bool = False

    @property
    def device_name(self) -> str:
        """Readable name: "cpu", or "cuda:0 (NVIDIA H200)"."""
        if self.device.type == "cpu":
            return "cpu"
        return f"{self.device} ({torch.cuda.get_device_name(self.device)})"

    @property
    def dtype_name(self) -> str:
        """ "float32", "bfloat16", "float16", "int8", "int8_w7" (`Int8Products`) or "float8"."""
        if self.is_float8:
            return "float8"
        return str(self.dtype).removeprefix("torch.") if self.int8 is None else self.int8.dtype


def load_model(
    folder: str | Path, *, device: str = "cpu", dtype: str = "auto", attention: str = "auto", threads: int = 1
) -> LoadedModel:
    """Loads the safetensors of a local model folder.

    Args:
        folder: The model folder.
        device: cpu or cuda.
        dtype: auto, float32, bfloat16, float16, int8 or float8.
        attention: auto, flash_attention_2, sdpa or eager.
        threads: CPU threads of this process.

    Raises:
        RuntimeError: This machine does not support the device, dtype or attention. Nothing has been read then.
    """
    chosen = _choose(device, dtype, attention, threads)
    _suppress_log_messages()
    from transformers import WhisperForConditionalGeneration  # 110 MB, which the native recognizer does without

    module: Any = WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=chosen.dtype, attn_implementation=chosen.attention, use_safetensors=True, local_files_only=True
    )
    module.to(chosen.device)
    module.requires_grad_(False)  # from_pretrained has put it into eval mode
    return replace(chosen, module=module)


def open_model(
    folder: str | Path, *, device: str = "cpu", dtype: str = "auto", attention: str = "auto", threads: int = 1
) -> LoadedModel:
    """Returns a checkpoint whose tensors are read when they are asked for; arguments as for `load_model`.

    With another attention than SDPA, which runs through Hugging Face's own layers, the model is loaded as a whole.

    Raises:
        RuntimeError: This machine does not support the device, dtype or attention. Nothing has been read then.
        WeightsError: A file is missing or damaged.
    """
    chosen = _choose(device, dtype, attention, threads)
    if chosen.attention != "sdpa":
        return load_model(folder, device=device, dtype=dtype, attention=attention, threads=threads)
    return replace(chosen, module=StoredModel(Path(folder), chosen.dtype, chosen.device))


def _choose(device: str, dtype: str, attention: str, threads: int) -> LoadedModel:
    """Returns the choices for this machine, without a module, and sets torch up for them."""
    torch_device = resolve_device(device)
    torch.set_num_threads(max(1, threads))
    torch_dtype, dtype_reason = resolve_dtype(dtype, torch_device)
    torch.backends.cudnn.allow_tf32 = (
        False  # float32 is exact: by default, torch rounds convolutions on GPUs to 10 bits
    )
    # cuDNN's attention, which torch prefers on recent GPUs, is planned for each number and length of windows: 0.4 s
    # each, and speech has hundreds of them. Flash and memory-efficient attention accept any shape.
    torch.backends.cuda.enable_cudnn_sdp(False)
    implementation, attention_reason = resolve_attention(attention, torch_device, torch_dtype)
    if dtype in EIGHT_BITS and implementation != "sdpa":
        raise RuntimeError(f"model.dtype={dtype} needs model.attention=auto or sdpa; found {attention}")
    int8, int8_reason = _choose_int8() if dtype == "int8" else (None, None)
    warnings = tuple(reason for reason in (dtype_reason, int8_reason, attention_reason) if reason)
    return LoadedModel(None, torch_device, torch_dtype, implementation, warnings, int8, dtype == "float8")


def resolve_device(device: str) -> torch.device:
    """Returns the torch device of a setting (cpu or cuda). Raises RuntimeError if there is none."""
    if device == "cpu":
        return torch.device("cpu")
    if device != "cuda":
        raise RuntimeError(f"model.device={device}: must be cpu or cuda")
    if not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU-only build"
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        raise RuntimeError(
            f"model.device=cuda, but no GPU can be used: torch {torch.__version__} is {build} and sees"
            f" {torch.cuda.device_count()} GPUs; CUDA_VISIBLE_DEVICES is {visible or 'empty'}. Give each actor a GPU"
            " (resources.gpus_per_actor), or set model.device=cpu and resources.gpus_per_actor=0."
        )
    return torch.device("cuda", torch.cuda.current_device())


def resolve_dtype(dtype: str, device: torch.device) -> tuple[torch.dtype, str | None]:
    """Returns the torch dtype of a setting on a device, and the reason if it was chosen automatically.

    For int8 it is float32, for float8 bfloat16: the dtype of everything but the linear layers.

    Raises:
        RuntimeError: The device does not support the dtype.
    """
    if device.type == "cpu" and dtype == "float16":
        raise RuntimeError("model.dtype=float16 needs a GPU; set bfloat16 or float32 on a CPU")
    if dtype == "int8":
        if device.type != "cpu":
            raise RuntimeError("model.dtype=int8 is for CPUs; set auto, bfloat16 or float16 on a GPU")
        return torch.float32, None
    if dtype == "float8":
        return _base_dtype_for_float8(device)
    if dtype != "auto":
        named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        if dtype not in named:
            raise RuntimeError(f"model.dtype={dtype}: must be auto, float32, bfloat16, float16, int8 or float8")
        return named[dtype], None
    if device.type == "cuda":
        if _is_ampere(device):
            return torch.bfloat16, "model.dtype=auto: bfloat16, which this GPU supports"
        return torch.float16, "model.dtype=auto: float16, because this GPU does not support bfloat16"
    if BFLOAT16_FLAG in cpu_flags():
        return torch.bfloat16, f"model.dtype=auto: bfloat16, because the processor has {BFLOAT16_FLAG}"
    return torch.float32, "model.dtype=auto: float32, because the processor has no AMX for bfloat16"


def _choose_int8() -> tuple[Int8Products | None, str | None]:
    """Returns `choose_int8_products`, or no products where their kernels fail."""
    products, reason = choose_int8_products()
    problem = None if products is None else find_problem(products)
    return (products, reason) if problem is None else (None, f"model.dtype=int8: float32 instead, because {problem}")


def _base_dtype_for_float8(device: torch.device) -> tuple[torch.dtype, str | None]:
    if device.type == "cpu":
        return torch.bfloat16, "model.dtype=float8 on a CPU: only to try it out, as it is slower than float32 there"
    capability = torch.cuda.get_device_capability(device)
    if capability < FLOAT8_CAPABILITY:
        needed, found = (".".join(map(str, each)) for each in (FLOAT8_CAPABILITY, capability))
        raise RuntimeError(
            f"model.dtype=float8 needs a GPU of CUDA capability {needed} (Ada, Hopper) or later;"
            f" {torch.cuda.get_device_name(device)} has {found}. Set auto or bfloat16"
        )
    return torch.bfloat16, None


def resolve_attention(attention: str, device: torch.device, dtype: torch.dtype) -> tuple[str, str | None]:
    """Returns transformers' name of the attention of a setting, and the reason if it was chosen automatically.

    Raises:
        RuntimeError: FlashAttention-2 is set and cannot be used here.
    """
    if attention not in ("auto", "flash_attention_2"):
        return attention, None
    reason = _flash_attention_obstacle(device, dtype)
    if attention == "flash_attention_2":
        if reason is not None:
            raise RuntimeError(f"model.attention=flash_attention_2 cannot be used: {reason}. Set sdpa or auto.")
        return attention, None
    if reason is not None:
        return "sdpa", f"model.attention=auto: sdpa, because {reason}"
    return (
        "flash_attention_2",
        "model.attention=auto: flash_attention_2, which is installed and which this GPU supports",
    )


def _flash_attention_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return "FlashAttention-2 runs on GPUs only"
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash-attn is not installed"
    if not _is_ampere(device):
        return "this GPU is older than Ampere (CUDA capability 8)"
    if dtype == torch.float32:
        return "FlashAttention-2 needs float16 or bfloat16"
    return None


def _suppress_log_messages() -> None:
    """Suppresses `SUPPRESSED_LOG_MESSAGES` and the loading bar, which every actor would write into the job's log."""
    from transformers.utils import logging as transformers_logging

    logging.getLogger("transformers.generation.utils").addFilter(_is_not_suppressed)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _is_not_suppressed(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(SUPPRESSED_LOG_MESSAGES)


def _is_ampere(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device)[0] >= FLASH_ATTENTION_CAPABILITY
