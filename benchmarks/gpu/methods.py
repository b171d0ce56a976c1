"""The methods that are off by default, each beside the default: speed, tokens, word errors, seconds to load.

And what is lost at the ends of parts: a part is decoded by itself, so that its last texts have few others beside them.
"""

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.native import TIMED_S, MeasuredRecognizer, repeat_chunks, timed, transcribe
from benchmarks.gpu.speech import Clip, count_word_errors, normalize_words
from distil_ray.recognition.base import RecognizerOptions
from distil_ray.types import SAMPLE_RATE, Hypothesis

BATCHES = 4  # of chunks, at least: some must wait for others
MOST_BATCHES = 8
DEFAULT = "default"
FLOAT8, AHEAD = "model.dtype=float8", "model.encode_ahead=true"
OPTIONS: dict[str, dict[str, Any]] = {
    FLOAT8: {"dtype": "float8"},
    AHEAD: {"encode_ahead": True},
    "model.compile_encoder=true": {"compile_encoder": True},
}


def measure_methods(
    folder: Path,
    clips: Sequence[Clip],
    *,
    methods: Sequence[str],
    device: str,
    dtype: str,
    tokens: int | None,
    batch_size: int,
) -> Iterator[dict[str, Any]]:
    """Yields the speed of each method in gated windows, and its tokens and word errors beside those of the default.

    Args:
        folder: The checkpoint.
        clips: Chunks, with references if word errors are to be counted.
        methods: Settings, separated by spaces, of each method.
        device: cuda or cpu.
        dtype: Of the default.
        tokens: Tokens per chunk with random weights; None for real weights, which end by themselves.
        batch_size: Chunks decoded together.
    """
    expected: list[Hypothesis] | None = None
    for method in (DEFAULT, *methods):
        record = {"measure": "method", "method": method, "window": "gated", "batch_size": batch_size}
        changed = {} if method == DEFAULT else dict(pair for name in method.split() for pair in OPTIONS[name].items())
        options = RecognizerOptions(device=device, dtype=dtype, window="gated", max_new_tokens=tokens)
        try:
            found = _measure(folder, clips, replace(options, no_speech_threshold=None, **changed), batch_size)
        except Exception as error:  # the machine lacks something: the other methods do not depend on it
            yield record | {"failed": f"{type(error).__name__}: {error}".partition("\n")[0][:300]}
            continue
        record |= found.record
        if expected is None:
            expected = found.texts
        record |= {"chunks": len(clips), "differing": _num_differing(found.texts, expected)}
        yield record


def measure_parts(
    folder: Path, clips: Sequence[Clip], *, device: str, dtype: str, batch_size: int, part_s: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """Yields the speed with parts of several lengths, beside one part of four times the longest.

    Also the steps of the decoder, and the share of the slots that they leave unused.

    Args:
        folder: A checkpoint with real weights, whose texts have different lengths.
        clips: Chunks.
        device: cuda or cpu.
        dtype: Number type.
        batch_size: Chunks decoded together.
        part_s: Seconds of audio in a part, ascending.
    """
    options = RecognizerOptions(device=device, dtype=dtype, window="gated")
    recognizer = MeasuredRecognizer(folder, options, is_random=False)
    recognizer.choose("gated", batch_size)
    mean_s = sum(len(clip.pcm) for clip in clips) / SAMPLE_RATE / len(clips)
    total = round(BATCHES * part_s[-1] / mean_s)
    chunks = repeat_chunks([clip.pcm for clip in clips], total)
    transcribe(recognizer, chunks[: round(part_s[-1] / mean_s)])  # shapes of steps are met, and recorded
    for seconds in (*part_s, BATCHES * part_s[-1]):
        size = max(1, round(seconds / mean_s))
        steps, row_tokens = recognizer.stats.steps, recognizer.stats.row_tokens
        wall_s = sum(
            timed(recognizer, chunks[begin:end], torch.device(device))[0]
            for begin, end in pairwise((*range(0, total, size), total))
        )
        steps, row_tokens = recognizer.stats.steps - steps, recognizer.stats.row_tokens - row_tokens
        yield {
            "measure": "part",
            "part_s": seconds,
            "batch_size": batch_size,
            "rtfx": sum(map(len, chunks)) / SAMPLE_RATE / wall_s,
            "steps": steps,
            "unused": 1 - row_tokens / (steps * recognizer.slots),
        }


@dataclass(frozen=True, slots=True)
class _Measured:
    record: dict[str, Any]
    texts: list[Hypothesis]  # one for each clip


def _measure(folder: Path, clips: Sequence[Clip], options: RecognizerOptions, batch_size: int) -> _Measured:
    began = time.perf_counter()
    recognizer = MeasuredRecognizer(folder, options, is_random=options.max_new_tokens is not None)
    load_s = time.perf_counter() - began
    recognizer.choose("gated", batch_size)
    device, chunks = torch.device(options.device), [clip.pcm for clip in clips]
    seconds, _ = timed(recognizer, repeat_chunks(chunks, BATCHES * batch_size), device)
    batches = min(MOST_BATCHES, max(BATCHES, round(TIMED_S * BATCHES / seconds)))
    heard = repeat_chunks(chunks, max(len(chunks), batches * batch_size))
    seconds, texts = timed(recognizer, heard, device)
    audio_s = sum(map(len, heard)) / SAMPLE_RATE
    record: dict[str, Any] = {"rtfx": audio_s / seconds, "audio_s": audio_s, "wall_s": seconds, "load_s": load_s}
    record["refused"] = _refusals(recognizer, options)
    if (wer := _word_errors(clips, texts)) is not None:
        record["wer"] = wer
    del recognizer
    gc.collect()
    torch.cuda.empty_cache()
    return _Measured(record, texts[: len(chunks)])


def _refusals(recognizer: MeasuredRecognizer, options: RecognizerOptions) -> list[str]:
    """Returns why methods that are set are not in use."""
    found = [warning for warning in recognizer.warnings if warning.startswith("model.") and "did not pass" in warning]
    if options.encode_ahead and not found and not recognizer.encodes_ahead:
        found.append(f"{AHEAD}: this device has one stream")
    return found


def _word_errors(clips: Sequence[Clip], texts: Sequence[Hypothesis]) -> float | None:
    """Returns the word error rate of the clips with a reference; None without any."""
    errors = num_words = 0
    for clip, text in zip(clips, texts, strict=False):  # texts may begin anew
        if clip.reference:
            words = normalize_words(clip.reference)
            errors += count_word_errors(words, normalize_words(text.text))
            num_words += len(words)
    return errors / num_words if num_words else None


def _num_differing(found: Sequence[Hypothesis], expected: Sequence[Hypothesis]) -> int:
    return sum(one.tokens != other.tokens for one, other in zip(found, expected, strict=True))
