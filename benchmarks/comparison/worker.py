"""The worker process: reads a job, loads an engine, warms up, transcribes the sets, reports CPU time and memory.

A worker is a process of its own, so that threads, allocators and peak memory of one engine do not affect another's. The
job is one JSON object on stdin. On the original stdout (libraries that print get stderr) follow the line `LOADED` and a
JSON line for each set, written as soon as it is transcribed.
Measured are user and system seconds of all threads while a set is transcribed, features included; reading the files and
loading the model are not. The module imports only the standard library and numpy, so that it runs in any environment.
"""

import json
import os
import sys
import time
import wave
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

PCM16 = NDArray[np.int16]
# Recordings (int16, 16 kHz mono) and the code of their language (None: to be detected) -> a text each, in order.
Transcriber = Callable[[Sequence[PCM16], str | None], list[str]]

SAMPLE_RATE = 16_000  # Hz; not imported, because the module runs without distil_ray
FULL_SCALE = 32768.0  # of int16
LOADED = "loaded"  # first line of the results


@dataclass(frozen=True, slots=True)
class Job:
    """The job of a worker.

    Attributes:
        model: Folder or file, in the format that the engine reads.
        sets: Paths of 16 kHz mono PCM16 WAV files, by set.
        languages: Code of the language of each set; None where it has to be detected.
        warm_up: One of these paths, or empty.
    """

    model: str  # folder or file, in the format that the engine reads
    threads: int
    is_multilingual: bool  # English-only checkpoints must not be told a language
    chunk_s: float  # longest chunk that suits the checkpoint, for engines that are told one
    options: dict[str, Any]
    warm_up: str
    sets: dict[str, list[str]]
    languages: dict[str, str | None]

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class SetResult:
    """Texts and cost of one set.

    `peak_rss_mb` is the peak of the process so far (MiB), the loaded model included.
    """

    set: str
    texts: list[str]
    cpu_s: float
    wall_s: float
    peak_rss_mb: float


def run_worker(load: Callable[[Job], Transcriber]) -> None:
    """Runs the worker process: stdin to results."""
    job = Job(**json.loads(sys.stdin.read()))
    results = _own_stdout()
    transcribe = load(job)
    if job.warm_up:
        transcribe([read_wav(job.warm_up)], next(iter(job.languages.values())))
    results.write(LOADED + "\n")
    results.flush()
    for name, paths in job.sets.items():
        recordings = [read_wav(path) for path in paths]
        started, cpu_before = time.perf_counter(), time.process_time()
        texts = transcribe(recordings, job.languages[name])
        cpu_s, wall_s = time.process_time() - cpu_before, time.perf_counter() - started
        results.write(json.dumps(asdict(SetResult(name, texts, cpu_s, wall_s, peak_rss_mb()))) + "\n")
        results.flush()


def _own_stdout() -> TextIO:
    """Returns a stream to the original stdout; everything printed later, also by C libraries, goes to stderr."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(stdout, "w", encoding="utf-8")


def words_to_json(words: Iterable[tuple[float, float, str]]) -> str:
    """Returns the words of a recording as a JSON list of [start, end, text], in seconds.

    The text of a result with words.
    """
    return json.dumps([list(word) for word in words])


def peak_rss_mb() -> float:
    """Returns the peak resident size of this process in MiB.

    getrusage cannot be used: its peak begins with the size of the parent at the fork.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def read_wav(path: str | Path) -> PCM16:
    """Returns the samples of a 16 kHz mono PCM16 file, shape (num_samples,).

    Raises:
        ValueError: The file has another format.
    """
    with wave.open(str(path), "rb") as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, SAMPLE_RATE):
            raise ValueError(f"{path}: not 16 kHz mono PCM16")
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def to_float32(pcm: PCM16) -> NDArray[np.float32]:
    """Returns float32 samples in [-1, 1), shape (num_samples,)."""
    return pcm.astype(np.float32) / np.float32(FULL_SCALE)
