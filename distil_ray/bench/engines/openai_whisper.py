"""OpenAI's own implementation, one recording after another, float32."""

from collections.abc import Sequence

import torch
import whisper  # type: ignore[import-not-found]  # in the worker's environment only

from distil_ray.bench.worker import PCM16, Job, Transcriber, as_float, serve


def load(job: Job) -> Transcriber:
    torch.set_num_threads(job.threads)
    model = whisper.load_model(job.model, device="cpu")
    options = {"language": job.language, "temperature": 0.0, "condition_on_previous_text": False, "fp16": False}

    def transcribe(recordings: Sequence[PCM16]) -> list[str]:
        return [whisper.transcribe(model, as_float(pcm), verbose=None, **options)["text"] for pcm in recordings]

    return transcribe


if __name__ == "__main__":
    serve(load)
