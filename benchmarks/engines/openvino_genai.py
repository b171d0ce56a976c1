"""OpenVINO GenAI's WhisperPipeline, one recording after another; the export decides the arithmetic (int8 weights)."""

from collections.abc import Sequence

from openvino_genai import WhisperPipeline  # type: ignore[import-not-found]  # in the worker's environment only

from benchmarks.comparison.worker import PCM16, SAMPLE_RATE, Job, Transcriber, run_worker, to_float32

WINDOW = 30 * SAMPLE_RATE  # samples; longer recordings are decoded window by window, by timestamps


def load(job: Job) -> Transcriber:
    recognize = WhisperPipeline(job.model, "CPU", INFERENCE_NUM_THREADS=job.threads)

    def transcribe(recordings: Sequence[PCM16], language: str | None) -> list[str]:
        asked = {"task": "transcribe"} if job.is_multilingual else {}
        if job.is_multilingual and language:
            asked |= {"language": f"<|{language}|>"}
        return [
            recognize.generate(to_float32(pcm), return_timestamps=len(pcm) > WINDOW, **asked).texts[0]
            for pcm in recordings
        ]

    return transcribe


if __name__ == "__main__":
    run_worker(load)
