"""The native recognizer on a GPU: its speed by window and batch size, and its tokens compared with those of the CPU."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.phases import Phases
from benchmarks.gpu.shapes import LANGUAGE
from benchmarks.gpu.speech import PCM16, Clip, count_word_errors, normalize_words
from benchmarks.gpu.work import Workload
from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native.decoding_task import DecodingResult, DecodingTask
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.types import SAMPLE_RATE, Hypothesis
from distil_ray.whisper.features import FRAMES_PER_POSITION

TIMED_S = 3.0  # seconds that a measurement lasts at least,
MOST_BATCHES = 8  # if so many batches take as long
WARM_UP_BATCHES = 2  # the shapes of passes are met, and recorded; slots are refilled


class MeasuredRecognizer(NativeRecognizer):
    """A native recognizer whose window and batch size can change without loading the model again.

    With random weights it writes a given number of tokens. Their texts neither end nor make sense, so the checks for
    repetition and for a full window are off.
    """

    def __init__(self, folder: Path, options: RecognizerOptions, is_random: bool) -> None:
        super().__init__(folder, options)
        self._is_random = is_random
        self._step_bytes = torch.empty((), dtype=self._decoder.dtype).itemsize

    @property
    def slots(self) -> int:
        """Chunks that are decoded together: fewer than requested if memory ran out."""
        return self._loops.num_slots

    @property
    def encodes_ahead(self) -> bool:
        return self._loops.parts.side_stream is not None

    def choose(self, window: str, batch_size: int) -> None:
        """Sets the window and the batch size."""
        self._options = replace(self._options, window=window, batch_size=batch_size)
        self._loops.resize(batch_size)

    def workload(self, chunks: Sequence[PCM16], tokens: int) -> Workload:
        """Returns the work for `chunks` with `tokens` tokens in all."""
        frames = [self._window_frames(pcm) for pcm in chunks]
        own = sum(frames) // FRAMES_PER_POSITION // len(chunks)
        heard = sum(map(self._encoder.output_positions, frames)) // len(chunks)
        per_chunk = round(tokens / len(chunks))
        return Workload(len(chunks), own, heard - own, per_chunk, min(self.slots, len(chunks)), self._step_bytes)

    def _task(self, index: int, state: Any, start: int = 0) -> DecodingTask:
        task = super()._task(index, state, start)
        return replace(task, is_repetitive=None) if self._is_random else task

    def _needs_full_window(self, task: DecodingTask, decoded: DecodingResult, hypothesis: Hypothesis) -> bool:
        return not self._is_random and super()._needs_full_window(task, decoded, hypothesis)


def measure_speeds(
    folder: Path,
    chunks: Sequence[PCM16],
    *,
    device: str,
    dtype: str,
    tokens: int | None,
    windows: Sequence[str],
    batch_sizes: Sequence[int],
) -> Iterator[dict[str, Any]]:
    """Yields the speed by batch size and window; for the first batch size also the time by phase.

    Args:
        tokens: Tokens per chunk with random weights; None for real weights, which end by themselves.
    """
    options = RecognizerOptions(
        device=device, dtype=dtype, window="gated", max_new_tokens=tokens, no_speech_threshold=None
    )
    recognizer = MeasuredRecognizer(folder, options, tokens is not None)
    yield {"measure": "warnings", "warnings": list(recognizer.warnings)}
    for number, batch_size in enumerate(batch_sizes):
        for window in windows:
            recognizer.choose(window, batch_size)
            yield _speed(recognizer, chunks, window, batch_size, with_phases=number == 0)
    yield {"measure": "warnings", "warnings": list(recognizer.warnings)}


def _speed(
    recognizer: MeasuredRecognizer, chunks: Sequence[PCM16], window: str, batch_size: int, with_phases: bool
) -> dict[str, Any]:
    device = torch.device(recognizer.device.partition(" ")[0])
    seconds, _ = timed(recognizer, repeat_chunks(chunks, WARM_UP_BATCHES * batch_size), device)
    batches = min(MOST_BATCHES, max(WARM_UP_BATCHES, round(TIMED_S * WARM_UP_BATCHES / seconds)))
    heard = repeat_chunks(chunks, batches * batch_size)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds, found = timed(recognizer, heard, device)
    audio_s = sum(map(len, heard)) / SAMPLE_RATE
    tokens = sum(len(each.tokens) for each in found)
    result: dict[str, Any] = {
        "measure": "speed",
        "engine": "native",
        "window": window,
        "batch_size": batch_size,
        "audio_s": audio_s,
        "wall_s": seconds,
        "rtfx": audio_s / seconds,
        "tokens": tokens,
        "slots": recognizer.slots,
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
        "load": asdict(recognizer.workload(heard, tokens)),
    }
    if with_phases:
        result["phases"] = _phases(recognizer, heard[: WARM_UP_BATCHES * batch_size], device)
    return result


def _phases(recognizer: MeasuredRecognizer, chunks: Sequence[PCM16], device: torch.device) -> dict[str, float]:
    """Returns seconds by phase, from a separate run;

    `rest` is time in no phase: the device waits, or the host decodes texts.
    """
    phases = Phases(device)
    with phases.watching():
        seconds, _ = timed(recognizer, chunks, device)
    found = phases.seconds()
    return {**found, "rest": seconds - sum(found.values()), "all": seconds}


def timed(
    recognizer: NativeRecognizer, chunks: Sequence[PCM16], device: torch.device
) -> tuple[float, list[Hypothesis]]:
    """Returns wall-clock seconds from samples to texts, and the hypotheses."""
    began = time.perf_counter()
    found = transcribe(recognizer, chunks)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began, found


def transcribe(recognizer: NativeRecognizer, chunks: Sequence[PCM16]) -> list[Hypothesis]:
    return recognizer.transcribe(chunks, [LANGUAGE] * len(chunks))


def repeat_chunks(chunks: Sequence[PCM16], num: int) -> list[PCM16]:
    """Returns `num` chunks, repeating the given ones."""
    return [chunks[i % len(chunks)] for i in range(num)]


def compare_with_cpu(folder: Path, clips: Sequence[Clip], device: str, batch_size: int) -> Iterator[dict[str, Any]]:
    """Yields, for full and gated windows, the number of chunks whose float32 tokens differ from the CPU's."""
    chunks, threads = [clip.pcm for clip in clips], torch.get_num_threads()
    for window in ("full", "gated"):
        options = RecognizerOptions(dtype="float32", window=window, batch_size=batch_size, threads=threads)
        exact = transcribe(NativeRecognizer(folder, options), chunks)
        found = transcribe(NativeRecognizer(folder, replace(options, device=device)), chunks)
        differing = [i for i, (one, other) in enumerate(zip(found, exact, strict=True)) if one.tokens != other.tokens]
        yield {"measure": "tokens", "window": window, "chunks": len(chunks), "differing": len(differing)}


def measure_error_rates(
    folder: Path, clips: Sequence[Clip], device: str, dtypes: Sequence[str], batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yields word errors by dtype on the clips with a reference, in gated windows."""
    known = [(clip.pcm, normalize_words(clip.reference)) for clip in clips if clip.reference]
    for dtype in dtypes if known else ():
        options = RecognizerOptions(device=device, dtype=dtype, window="gated", batch_size=batch_size)
        found = transcribe(NativeRecognizer(folder, options), [pcm for pcm, _ in known])
        errors = sum(
            count_word_errors(words, normalize_words(each.text)) for (_, words), each in zip(known, found, strict=True)
        )
        num_words = sum(len(words) for _, words in known)
        yield {"measure": "errors", "dtype": dtype, "errors": errors, "words": num_words, "wer": errors / num_words}
