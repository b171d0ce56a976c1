"""The worker process of the gpu command: one measurement, so that a fault of the device ends nothing else.

Reads a `Job` as JSON from stdin and prints measurements as JSON lines as soon as they are known.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch

from benchmarks.gpu import baselines
from benchmarks.gpu.limits import measure_limits
from benchmarks.gpu.methods import measure_methods, measure_parts
from benchmarks.gpu.native import compare_with_cpu, measure_error_rates, measure_speeds
from benchmarks.gpu.shapes import SHAPES, read_shape, write_random_checkpoint
from benchmarks.gpu.speech import Clip, make_noise, read_clips
from distil_ray.whisper.model import resolve_dtype

KINDS = ("limits", "exact", "native", "methods", "parts", "generate", "ctranslate2")


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement.

    Attributes:
        kind: One of `KINDS`.
        model: A name of `SHAPES`, or a model folder.
        limit_s: Time limit in seconds.
        tokens: Tokens to generate per chunk, for a shape.
        part_s: Seconds of audio in a part, ascending.
        methods: Settings to compare with the default.
    """

    kind: str
    model: str
    limit_s: float
    device: str
    dtype: str
    speech: str = ""
    num_clips: int = 0
    chunk_s: float = 0.0
    tokens: int = 0
    windows: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    part_s: tuple[float, ...] = ()
    methods: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"{self.kind} {Path(self.model).name}".strip()

    @property
    def is_random(self) -> bool:
        return self.model in SHAPES

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        return cls(**fields | {name: tuple(fields[name]) for name in ("windows", "batch_sizes", "part_s", "methods")})


def run_job(job: Job) -> Iterator[dict[str, Any]]:
    """Yields the measurements of a job, with the name of its model."""
    device = torch.device(job.device)
    if job.kind == "limits":
        yield {"measure": "device", "name": torch.cuda.get_device_name() if device.type == "cuda" else "CPU"}
        yield from measure_limits(device, getattr(torch, job.dtype))
        return
    with TemporaryDirectory(prefix="gpu-shape-") as folder:
        model = Path(folder) if job.is_random else Path(job.model)
        if job.is_random:
            write_random_checkpoint(SHAPES[job.model], model, job.device, getattr(torch, job.dtype))
        yield {"measure": "model", "model": job.name, "shape": asdict(read_shape(model))}
        for found in _of_model(job, model):
            yield {"model": Path(job.model).name, **found}


def _of_model(job: Job, model: Path) -> Iterator[dict[str, Any]]:
    if job.kind == "exact":
        clips = read_clips(job.speech, job.num_clips)
        yield from compare_with_cpu(model, clips, job.device, job.batch_sizes[0])
        yield from measure_error_rates(model, clips, job.device, _dtypes(job.device), job.batch_sizes[0])
        return
    clips = _clips(job)
    chunks = [clip.pcm for clip in clips]
    tokens = job.tokens if job.is_random else None
    place: dict[str, Any] = {"device": job.device, "dtype": job.dtype}
    if job.kind == "methods":
        more: dict[str, Any] = {"methods": job.methods, "batch_size": job.batch_sizes[0]}
        yield from measure_methods(model, clips, tokens=tokens, **more, **place)
        return
    if job.kind == "parts":
        yield from measure_parts(model, clips, batch_size=job.batch_sizes[0], part_s=job.part_s, **place)
        return
    if job.kind == "native":
        ways: dict[str, Any] = {"windows": job.windows, "batch_sizes": job.batch_sizes}
        yield from measure_speeds(model, chunks, tokens=tokens, **place, **ways)
    elif job.kind == "generate":
        yield from baselines.measure_generate(model, chunks, tokens=tokens, batch_sizes=job.batch_sizes, **place)
    else:
        yield from baselines.measure_ctranslate2(model, chunks, batch_sizes=job.batch_sizes, **place)


def _dtypes(device: str) -> tuple[str, ...]:
    """Returns the number types whose word error rates are compared: those that the device has."""
    if device != "cuda":
        return ("float32",)
    has_bfloat16 = resolve_dtype("auto", torch.device(device))[0] is torch.bfloat16
    return ("float32", "bfloat16", "float16") if has_bfloat16 else ("float32", "float16")


def _clips(job: Job) -> list[Clip]:
    if job.is_random:
        return [Clip(pcm, None) for pcm in make_noise(job.batch_sizes[0], job.chunk_s)]
    return read_clips(job.speech, job.num_clips)


def main() -> None:
    for found in run_job(Job.from_json(sys.stdin.read())):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
