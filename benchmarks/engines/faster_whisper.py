"""faster-whisper, one recording after another, or its batched pipeline (which needs voice activity detection)."""

from collections.abc import Sequence
from typing import Any

from faster_whisper import (  # type: ignore[import-not-found]  # in the worker's environment only
    BatchedInferencePipeline,
    WhisperModel,
)

from benchmarks.comparison.worker import PCM16, Job, Transcriber, run_worker, to_float32, words_to_json

GREEDY = {"beam_size": 1, "temperature": 0.0, "condition_on_previous_text": False}


def load(job: Job) -> Transcriber:
    model = WhisperModel(
        job.model, device="cpu", compute_type=job.options["compute_type"], cpu_threads=job.threads, num_workers=1
    )
    options: dict[str, Any] = {} if job.options.get("defaults") else dict(GREEDY)
    has_words = bool(job.options.get("words"))
    if batch_size := job.options.get("batch_size"):
        model, options = BatchedInferencePipeline(model), options | {"batch_size": batch_size}

    def transcribe(recordings: Sequence[PCM16], language: str | None) -> list[str]:
        texts = []
        for pcm in recordings:
            segments, _ = model.transcribe(to_float32(pcm), language=language, word_timestamps=has_words, **options)
            if has_words:
                words = ((word.start, word.end, word.word) for segment in segments for word in segment.words)
                texts.append(words_to_json(words))
            else:
                texts.append("".join(segment.text for segment in segments))  # segments are lazy: they are decoded here
        return texts

    return transcribe


if __name__ == "__main__":
    run_worker(load)
