"""whisper.cpp through pywhispercpp, greedy, one recording after another."""

from collections.abc import Sequence

from pywhispercpp.model import Model  # type: ignore[import-not-found]  # in the worker's environment only

from benchmarks.comparison.worker import PCM16, Job, Transcriber, run_worker, to_float32

GREEDY = 0  # WHISPER_SAMPLING_GREEDY


def load(job: Job) -> Transcriber:
    model = Model(
        job.model,
        params_sampling_strategy=GREEDY,
        n_threads=job.threads,
        greedy={"best_of": 1},
        temperature_inc=0.0,  # no fallback
        no_context=True,
        print_progress=False,
        print_realtime=False,
        print_timestamps=False,
    )

    def transcribe(recordings: Sequence[PCM16], language: str | None) -> list[str]:
        return [
            "".join(segment.text for segment in model.transcribe(to_float32(pcm), language=language or "auto"))
            for pcm in recordings
        ]

    return transcribe


if __name__ == "__main__":
    run_worker(load)
