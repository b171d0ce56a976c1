"""Hugging Face's ASR pipeline: as the model card of Distil-Whisper configures it, but greedy; or with its defaults.

By the card, recordings that are longer than a chunk are cut into overlapping chunks by the pipeline itself. By its
defaults, the pipeline uses five beams and passes recordings of any length to `generate`, which decodes those of more
than 30 s sequentially and requires timestamps for it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline

from benchmarks.comparison.worker import PCM16, SAMPLE_RATE, Job, Transcriber, run_worker, to_float32

BATCH_SIZE = 16  # the card's
MAX_NEW_TOKENS = 128  # the card's
WINDOW = 30 * SAMPLE_RATE  # samples


def load(job: Job) -> Transcriber:
    torch.set_num_threads(job.threads)
    dtype = getattr(torch, job.options["dtype"])
    model = AutoModelForSpeechSeq2Seq.from_pretrained(
        job.model, dtype=dtype, low_cpu_mem_usage=True, use_safetensors=True
    )
    processor = AutoProcessor.from_pretrained(job.model)  # type: ignore[no-untyped-call]
    recognize = pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
        dtype=dtype,
        device="cpu",
    )

    def transcribe(recordings: Sequence[PCM16], language: str | None) -> list[str]:
        generate: dict[str, Any] = {"task": "transcribe"} if job.is_multilingual else {}
        if job.is_multilingual and language:
            generate |= {"language": language}
        inputs: Any = [{"raw": to_float32(pcm), "sampling_rate": SAMPLE_RATE} for pcm in recordings]
        if job.options.get("defaults"):
            results: Any = [
                recognize(one, generate_kwargs=dict(generate), return_timestamps=len(one["raw"]) > WINDOW)
                for one in inputs
            ]
        else:
            is_long = any(len(pcm) > job.chunk_s * SAMPLE_RATE for pcm in recordings)
            options: dict[str, Any] = {"chunk_length_s": job.chunk_s} if is_long else {}
            generate |= {"num_beams": 1, "max_new_tokens": MAX_NEW_TOKENS}
            results = recognize(inputs, batch_size=BATCH_SIZE, generate_kwargs=generate, **options)
        return [result["text"] for result in results]

    return transcribe


if __name__ == "__main__":
    run_worker(load)
