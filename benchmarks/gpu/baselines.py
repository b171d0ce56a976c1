"""Other programs on the same GPU, with the same weights and chunks: transformers' `generate` and CTranslate2.

Both get log-mel features from this package, computed on the device, and decoding of tokens to text is not included.
Each is measured at several batch sizes; `generate` uses SDPA, first with its default growing cache, then with a static
cache, which it compiles. cuDNN's attention is off as in the native recognizer, because it would plan anew for each
length of a growing cache.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers

from benchmarks.gpu.native import MOST_BATCHES, TIMED_S, repeat_chunks
from benchmarks.gpu.shapes import LANGUAGE
from benchmarks.gpu.speech import PCM16
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.features import LogMel
from distil_ray.whisper.tokenizer import Tokens

CACHES = (None, "static")  # of `generate`; None: its default, which grows. A compiler may take all the time there is
CTRANSLATE2_TYPES = {"bfloat16": "bfloat16", "float16": "float16", "float32": "float32"}

Batch = Callable[[Sequence[PCM16]], int]  # recognizes one batch, gives the number of tokens


def measure_generate(
    folder: Path,
    chunks: Sequence[PCM16],
    *,
    device: str,
    dtype: str,
    tokens: int | None,
    batch_sizes: Sequence[int],
) -> Iterator[dict[str, Any]]:
    """Yields the speed of transformers' `generate` by cache and batch size; a failure is reported with its reason."""
    model: Any = transformers.WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
    )
    model.to(device).eval()
    torch.backends.cuda.enable_cudnn_sdp(False)
    log_mel = LogMel(model.config.num_mel_bins, device)
    options: dict[str, Any] = {"num_beams": 1, "do_sample": False, "return_timestamps": False}
    if Tokens.load(folder).is_multilingual:
        options |= {"language": LANGUAGE, "task": "transcribe"}
    if tokens is not None:
        options |= {"min_new_tokens": tokens, "max_new_tokens": tokens}

    @torch.no_grad()  # as generate itself; compiled code and inference mode do not always go together
    def recognized(heard: Sequence[PCM16], cache: dict[str, str]) -> int:
        features = log_mel(heard).to(model.dtype)
        return int(model.generate(features, **options, **cache).shape[1]) * len(heard)

    for cache in CACHES:
        for batch_size in batch_sizes:
            batch = partial(recognized, cache={"cache_implementation": cache} if cache else {})
            yield _measured(f"generate, {cache or 'growing'} cache", batch, chunks, batch_size)


def measure_ctranslate2(
    folder: Path, chunks: Sequence[PCM16], *, device: str, dtype: str, batch_sizes: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yields the speed of CTranslate2's Whisper by batch size; requires its package."""
    import ctranslate2 as engine  # type: ignore[import-not-found, unused-ignore]

    from distil_ray.whisper.formats.writers import write_weights

    vocabulary = Tokens.load(folder)
    prompt = list(vocabulary.prompt(LANGUAGE))
    log_mel = LogMel(json.loads((folder / "config.json").read_text())["num_mel_bins"], device)
    with TemporaryDirectory() as converted:
        write_weights(folder, Path(converted), "ctranslate2", "float32")
        model = engine.models.Whisper(converted, device=device, compute_type=CTRANSLATE2_TYPES[dtype])

    def batch(heard: Sequence[PCM16]) -> int:
        features = log_mel(heard).contiguous()
        features = engine.StorageView.from_array(features if features.is_cuda else features.numpy())
        found = model.generate(features, [prompt] * len(heard), beam_size=1, max_length=vocabulary.max_length)
        return sum(len(each.sequences_ids[0]) for each in found)

    for batch_size in batch_sizes:
        yield _measured("ctranslate2", batch, chunks, batch_size)


def _measured(engine: str, batch: Batch, chunks: Sequence[PCM16], batch_size: int) -> dict[str, Any]:
    """Returns the speed at one batch size, or the reason why there is none."""
    found: dict[str, Any] = {"measure": "speed", "engine": engine, "window": "full", "batch_size": batch_size}
    first = repeat_chunks(chunks, batch_size)
    try:
        warm_up_s, _ = _timed(batch, first, 1)  # it may compile
        seconds, _ = _timed(batch, first, 1)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        batches = max(1, min(MOST_BATCHES, round(TIMED_S / seconds)))
        seconds, tokens = _timed(batch, first, batches)
    except Exception as error:
        torch.cuda.empty_cache()
        return found | {"failed": f"{type(error).__name__}: {error}".partition("\n")[0][:300]}
    audio_s = batches * sum(map(len, first)) / SAMPLE_RATE
    return found | {
        "audio_s": audio_s,
        "wall_s": seconds,
        "rtfx": audio_s / seconds,
        "tokens": tokens,
        "warm_up_s": warm_up_s,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None,
    }


def _timed(batch: Batch, heard: Sequence[PCM16], times: int) -> tuple[float, int]:
    began = time.perf_counter()
    tokens = sum(batch(heard) for _ in range(times))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, tokens
