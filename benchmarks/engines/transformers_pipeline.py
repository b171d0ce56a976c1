"""Hugging Face's ASR pipeline as the model card of Distil-Whisper configures it, but greedy.

The pipeline uses five beams by default, which no other engine here does. Recordings that are longer than a chunk are
cut into overlapping chunks by the pipeline itself, as the card advises for long recordings.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline

from benchmarks.comparison.worker import PCM16, SAMPLE_RATE, Job, Transcriber, run_worker, to_float32

BATCH_SIZE = 16  # the card's
MAX_NEW_TOKENS = 128  # the card's


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
    generate: dict[str, Any] = {"num_beams": 1, "max_new_tokens": MAX_NEW_TOKENS}
    if job.is_multilingual:
        generate |= {"language": job.language, "task": "transcribe"}

    def transcribe(recordings: Sequence[PCM16]) -> list[str]:
        is_long = any(len(pcm) > job.chunk_s * SAMPLE_RATE for pcm in recordings)
        inputs: Any = [{"raw": to_float32(pcm), "sampling_rate": SAMPLE_RATE} for pcm in recordings]
        chunking = {"chunk_length_s": job.chunk_s} if is_long else {}
        results = recognize(inputs, batch_size=BATCH_SIZE, generate_kwargs=generate, **chunking)
        return [result["text"] for result in results]

    return transcribe


if __name__ == "__main__":
    run_worker(load)
