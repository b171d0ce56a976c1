"""A worker of no program: says how many samples it heard, or dies if it is told to."""

import ctypes
import time
from collections.abc import Sequence

from benchmarks.comparison.worker import PCM16, SAMPLE_RATE, Job, Transcriber, run_worker, words_to_json


def load(job: Job) -> Transcriber:
    if message := job.options.get("dies_with"):
        raise RuntimeError(message)

    if job.options.get("words"):
        return lambda recordings, _: [
            words_to_json([(0.25, 0.5, "Making"), (0.5, len(pcm) / SAMPLE_RATE, " country.")]) for pcm in recordings
        ]

    def transcribe(recordings: Sequence[PCM16], language: str | None) -> list[str]:
        print("a library that talks on stdout", flush=True)
        ctypes.CDLL(None).puts(b"and one in C")
        if (message := job.options.get("dies_late_with")) and len(recordings[0]) > 10_000:
            raise RuntimeError(message)
        time.sleep(job.options.get("takes_s", 0))
        return [f"{language} {len(pcm)}" for pcm in recordings[: job.options.get("texts", len(recordings))]]

    return transcribe


if __name__ == "__main__":
    run_worker(load)
