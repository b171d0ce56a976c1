"""The recognizers of this package without the job around them; chunks are cut and merged as the job does it."""

from collections.abc import Sequence

from benchmarks.comparison.worker import PCM16, SAMPLE_RATE, Job, Transcriber, run_worker
from distil_ray.chunking.base import Chunk, ChunkSizes, make_chunker
from distil_ray.chunking.merge import merge_chunks
from distil_ray.chunking.overlap_merge import ChunkHypothesis
from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.capabilities import load_recognizer

SEARCH_FRACTION = 3  # `quiet` looks for a pause in the last third, as chunking.search_s: auto does


def load(job: Job) -> Transcriber:
    options = job.options
    recognizer = load_recognizer(
        options["recognizer"],
        job.model,
        RecognizerOptions(dtype=options.get("dtype", "auto"), threads=job.threads, window=options["window"]),
    )
    length = round(options.get("chunk_s", job.chunk_s) * SAMPLE_RATE)

    def transcribe(recordings: Sequence[PCM16]) -> list[str]:
        chunks = [(i, chunk) for i, pcm in enumerate(recordings) for chunk in _cut(pcm, length)]
        hypotheses = recognizer.transcribe([chunk.pcm for _, chunk in chunks], [job.language] * len(chunks))
        pieces: list[list[ChunkHypothesis]] = [[] for _ in recordings]
        for (i, chunk), hypothesis in zip(chunks, hypotheses, strict=True):
            pieces[i].append(
                ChunkHypothesis(chunk.start, len(chunk.pcm), 0, 0, hypothesis.text, tuple(hypothesis.tokens))
            )
        return [
            merge_chunks(mine, len(pcm), job.language, None, timestamps=False).text
            for mine, pcm in zip(pieces, recordings, strict=True)
        ]

    return transcribe


def _cut(pcm: PCM16, length: int) -> list[Chunk]:
    chunker = make_chunker("quiet", ChunkSizes(length, search=length // SEARCH_FRACTION))
    return [*chunker.push(pcm), *chunker.finish()]


if __name__ == "__main__":
    run_worker(load)
