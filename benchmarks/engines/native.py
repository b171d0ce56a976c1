"""This package: the stages of the job in this process, without Ray. The options are settings by dotted key."""

import io
import wave
from collections.abc import Sequence

import pyarrow as pa

import distil_ray as dr
from benchmarks.comparison.worker import PCM16, SAMPLE_RATE, Job, Transcriber, run_worker
from distil_ray.types import Status


def load(job: Job) -> Transcriber:
    transcriber = dr.Transcriber(job.model, overrides={"resources.cpus_per_actor": job.threads} | job.options)

    def transcribe(recordings: Sequence[PCM16], language: str | None) -> list[str]:
        columns = {"bytes": [_to_wav(pcm) for pcm in recordings], "language": [language] * len(recordings)}
        table = transcriber(pa.table(columns, schema=pa.schema({"bytes": pa.binary(), "language": pa.string()})))
        if errors := [row["error"] for row in table.to_pylist() if row["status"] == Status.FAILED]:
            raise RuntimeError(errors[0])
        return [text or "" for text in table["text"].to_pylist()]

    return transcribe


def _to_wav(pcm: PCM16) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(pcm.tobytes())
    return buffer.getvalue()


if __name__ == "__main__":
    run_worker(load)
