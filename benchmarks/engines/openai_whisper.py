"""OpenAI's own implementation, one recording after another, float32."""

from collections.abc import Sequence
from typing import Any

import torch
import whisper  # type: ignore[import-not-found]  # in the worker's environment only

from benchmarks.comparison.worker import PCM16, Job, Transcriber, run_worker, to_float32, words_to_json

GREEDY = {"temperature": 0.0, "condition_on_previous_text": False}
COMMAND_LINE = {"beam_size": 5, "best_of": 5}  # differ from the defaults of the function
SEED = 0  # of sampling, for the temperature fallback


def load(job: Job) -> Transcriber:
    torch.set_num_threads(job.threads)
    model = whisper.load_model(job.model, device="cpu")
    has_words = bool(job.options.get("words"))
    options: dict[str, Any] = COMMAND_LINE if job.options.get("defaults") else GREEDY

    def transcribe(recordings: Sequence[PCM16], language: str | None) -> list[str]:
        torch.manual_seed(SEED)
        results = (
            whisper.transcribe(
                model,
                to_float32(pcm),
                verbose=None,
                fp16=False,
                language=language,
                word_timestamps=has_words,
                **options,
            )
            for pcm in recordings
        )
        return [_words(result) if has_words else result["text"] for result in results]

    return transcribe


def _words(result: dict[str, Any]) -> str:
    words = (word for segment in result["segments"] for word in segment["words"])
    return words_to_json((float(word["start"]), float(word["end"]), word["word"]) for word in words)


if __name__ == "__main__":
    run_worker(load)
