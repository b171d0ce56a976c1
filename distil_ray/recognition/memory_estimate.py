"""Memory of a native recognizer on a CPU, estimated from config.json and the settings before anything is loaded.

`estimate_memory_mb` is what ``resources.actor_memory_mb=auto`` asks Ray for. It is the most that an actor was seen to
take, not what it takes for short recordings: every slot is in a full window. docs/performance.md compares it with
measured peaks for the sizes of Whisper's checkpoints. No torch is imported, as the driver calls it.
"""

from collections.abc import Mapping
from typing import Any

from distil_ray.types import BYTES_PER_SAMPLE, SAMPLE_RATE

MIB = 2**20
PROCESS_MB = 293  # Python, torch, pyarrow, the code of the kernels, the tokenizer
RAY_MB = 127  # Ray's worker; an actor with whisper-base took 36 more than the same work without Ray, in a short run
STORE_MB = 300  # pages of Ray's object store that an actor has touched in the end, measured over three hours of audio
CPU_SLOTS = 16  # chunks; more are slower, because the key-value cache then exceeds that of the processor (measured)
CPU_CACHE_BYTES = 4 * 2**30  # at most; large checkpoints get fewer slots
KERNEL_MB = 100  # compiled kernels that oneDNN keeps, and what kernels leave in the heap
HIDDEN_COPIES = 24  # of the hidden states of a window, d_model wide, that an encoder layer and the heap's gaps take
LOGITS_COPIES = 15  # of the logits of a step, float32
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "int8": 4}  # of caches and activations


def bytes_of_slot(
    width: int, layers: int, window_positions: int, text_positions: int, keeps_states: bool, bytes_each: int
) -> int:
    """Returns the bytes of the caches of one chunk.

    Args:
        width: d_model.
        layers: Of the decoder, each with a key and a value for a position of a text.
        window_positions: Encoder positions, with a key and a value in each layer or, with `keeps_states`, one vector.
        text_positions: Of all texts of the chunk.
        keeps_states: The cache has hidden states instead of keys and values.
        bytes_each: Of a number.
    """
    vectors = 2 * layers
    return width * ((1 if keeps_states else vectors) * window_positions + vectors * text_positions) * bytes_each


def choose_cpu_slots(bytes_per_slot: int) -> int:
    """Returns the number of chunks of ``decoding.batch_size=auto`` on a CPU, given the bytes of the caches of one."""
    return max(1, min(CPU_SLOTS, CPU_CACHE_BYTES // bytes_per_slot))


def estimate_memory_mb(
    config: Mapping[str, Any],
    *,
    dtype: str = "auto",
    batch_size: int | None = None,
    num_texts: int = 1,
    has_assistant: bool = False,
    max_new_tokens: int | None = None,
    part_audio_s: float = 600.0,
) -> int:
    """Returns the peak resident size of an actor, in MiB.

    The sum of: the process, the weights, the cross-attention of full windows in every slot, the self-attention of the
    longest texts, the activations of one window and of one step, and the audio. An assistant is not counted.

    Args:
        config: Content of config.json.
        dtype: `model.dtype`; auto counts as the one of float32 and bfloat16 that takes more.
        batch_size: `decoding.batch_size`; None for auto.
        num_texts: Beams, or texts that are sampled, whichever are more.
        has_assistant: An assistant drafts.
        max_new_tokens: `decoding.max_new_tokens`; None: as many as the decoder has positions.
        part_audio_s: Audio of a part, in seconds.
    """
    dtypes = ("float32", "bfloat16") if dtype == "auto" else (dtype,)
    return max(
        _estimate(config, each, batch_size, num_texts, has_assistant, max_new_tokens, part_audio_s) for each in dtypes
    )


def _estimate(
    config: Mapping[str, Any],
    dtype: str,
    batch_size: int | None,
    num_texts: int,
    has_assistant: bool,
    max_new_tokens: int | None,
    part_audio_s: float,
) -> int:
    """Returns what `estimate_memory_mb` does, for a number type other than auto."""
    width: int = config["d_model"]
    vocabulary: int = config["vocab_size"]
    bytes_each = DTYPE_BYTES[dtype]
    windows: int = config.get("max_source_positions", 1500)
    texts: int = config.get("max_target_positions", 448)
    if max_new_tokens is not None:
        texts = min(texts, texts // 2 + max_new_tokens)  # a prompt has at most half of them
    texts += 16 * num_texts  # entries of texts that part
    keeps_states = dtype != "bfloat16" and num_texts == 1 and not has_assistant  # native/state_attention.py
    slot_bytes = bytes_of_slot(width, config["decoder_layers"], windows, texts, keeps_states, bytes_each)
    slots = batch_size or choose_cpu_slots(slot_bytes)
    window_mb = HIDDEN_COPIES * windows * width * bytes_each / MIB
    logits_mb = LOGITS_COPIES * slots * num_texts * vocabulary * 4 / MIB
    audio_mb = STORE_MB + 2 * part_audio_s * SAMPLE_RATE * BYTES_PER_SAMPLE / MIB
    return round(
        PROCESS_MB
        + RAY_MB
        + KERNEL_MB
        + _weights_mb(config, dtype)
        + slots * slot_bytes / MIB
        + window_mb
        + logits_mb
        + audio_mb
    )


def _weights_mb(config: Mapping[str, Any], dtype: str) -> float:
    """Returns the size of the weights as they are arranged, and that of the largest one while it is being arranged."""
    width: int = config["d_model"]
    square, encoder_layers, decoder_layers = width**2, config["encoder_layers"], config["decoder_layers"]
    inner = 2 * width * (config["encoder_ffn_dim"] * encoder_layers + config["decoder_ffn_dim"] * decoder_layers)
    vocabulary = config["vocab_size"] * width
    convolutions = 3 * width * (config["num_mel_bins"] + width)
    positions = (config.get("max_source_positions", 1500) + config.get("max_target_positions", 448)) * width
    large = inner + 4 * square * encoder_layers + 3 * square * decoder_layers  # projections that int8 quantizes
    small = 5 * square * decoder_layers  # those that it leaves in float32
    others = convolutions + positions
    if dtype == "int8":
        return float(large + vocabulary + 4 * (small + others)) / MIB
    total = DTYPE_BYTES[dtype] * (large + vocabulary + small + others)
    if dtype == "float32" and "float16" in (config.get("torch_dtype"), config.get("dtype")):
        # The decoder then reads its weights in 16 bits, except for the keys and values of the cross-attention.
        total -= 2 * (vocabulary + (6 * square + 2 * width * config["decoder_ffn_dim"]) * decoder_layers)
    return float(total) / MIB
