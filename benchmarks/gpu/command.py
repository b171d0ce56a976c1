"""The `gpu` command: measurements within a time budget, the most important first.

Every measurement is a process of its own with a time limit, and what it has reported by then counts: a crash, a
compiler that does not end or a missing engine affects no other measurement. The report is rewritten after every line.
Needs torch, transformers, numpy and rich.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import machine
from benchmarks.comparison.interleave import ROOT
from benchmarks.gpu.findings import find_conclusions
from benchmarks.gpu.methods import OPTIONS
from benchmarks.gpu.report import Report, describe_record, make_tables
from benchmarks.gpu.shapes import SHAPES
from benchmarks.gpu.worker import Job
from benchmarks.settings import GPU_METHODS, GpuSettings
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.whisper.model import resolve_dtype

WORKER = [sys.executable, "-m", "benchmarks.gpu.worker"]
LEAST_S = 20.0  # seconds that a measurement must have left to be begun: imports and the model take some

Found = dict[str, Any]
Start = Callable[[Job], Iterator[Found]]  # yields what is found; {"failed": reason} where a job ends before its time


def measure_gpu(settings: GpuSettings, console: Console, start: Start | None = None) -> ExitCode:
    """Prints tables and conclusions, and writes gpu.json.

    Returns:
        `ExitCode.FAILED` if tokens in float32 differ from the CPU's.
    """
    return print_report(measure_report(settings, console, start), console)


def measure_report(settings: GpuSettings, console: Console, start: Start | None = None) -> Report:
    """Makes all measurements that fit into the time budget; writes gpu.json after each of them.

    Raises:
        SettingsError: There is no GPU, or a setting is wrong.
    """
    _check(settings)
    dtype, _ = resolve_dtype(settings.dtype, torch.device(settings.device))
    settings = replace(settings, dtype=str(dtype).removeprefix("torch."))
    ends = time.monotonic() + settings.budget_s
    report = Report(machine.describe_machine(), asdict(settings), [], [])
    for job in plan_jobs(settings):
        left = ends - time.monotonic()
        if left < min(LEAST_S, job.limit_s):
            report.left_out.append({"job": job.name, "reason": f"no time left of budget_s={settings.budget_s:g}"})
            continue
        console.print(f"{job.name}: {left:.0f} s left", markup=False)
        for found in (start or run_in_subprocess)(_within(job, left)):
            if "failed" in found and "measure" not in found:
                report.left_out.append({"job": job.name, "reason": found["failed"]})
                console.print(f"  left out: {found['failed']}", markup=False, soft_wrap=True)
            else:
                report.found.append(found)
                if line := describe_record(found):
                    console.print(f"  {line}", markup=False, soft_wrap=True)
            report.write(Path(settings.report) / "gpu.json")
    report.write(Path(settings.report) / "gpu.json")
    return report


def print_report(report: Report, console: Console) -> ExitCode:
    """Prints tables and conclusions; returns `ExitCode.FAILED` if tokens in float32 differ from the CPU's."""
    for table in make_tables(report):
        console.print(table)
    for finding in find_conclusions(report):
        console.print(f"{finding.level:4}  {finding.text} {finding.advice}".rstrip(), markup=False, soft_wrap=True)
    console.print(machine.format_machine(report.machine), soft_wrap=True)
    return ExitCode.FAILED if any(found.get("differing") for found in report.found) else ExitCode.DONE


def plan_jobs(settings: GpuSettings) -> Iterator[Job]:
    """Yields all measurements, the most important first."""
    place: Found = {"device": settings.device, "dtype": settings.dtype}
    speech: Found = {"speech": settings.speech, "num_clips": settings.num_clips}
    chunks: Found = {"chunk_s": settings.chunk_s, "tokens": round(settings.chunk_s * settings.tokens_per_s)}
    native: Found = {"windows": ("gated", "full"), "batch_sizes": settings.batch_sizes}
    baselines: Found = {"batch_sizes": settings.baseline_batch_sizes}
    methods: Found = {"batch_sizes": settings.batch_sizes[:1], "methods": settings.methods}
    shapes, models = list(settings.shapes), list(settings.models) if settings.speech else []
    yield Job("limits", "", 60, **place)
    for shape in shapes[:1]:
        yield Job("native", shape, 100, **place, **chunks, **native)
    for model in models:
        yield Job("exact", model, 90, **place, **speech, batch_sizes=settings.batch_sizes)
    for shape in shapes[:1]:
        yield Job("methods", shape, 150, **place, **chunks, **methods)
    for shape in shapes[1:]:
        yield Job("native", shape, 90, **place, **chunks, **native)
    for model in models[:1]:
        yield Job("native", model, 60, **place, **speech, **native)
    for model in models[:1]:
        yield Job("methods", model, 120, **place, **speech, **methods)
        yield Job("parts", model, 45, **place, **speech, batch_sizes=settings.batch_sizes[:1], part_s=settings.part_s)
    for shape in shapes[:1]:
        yield Job("generate", shape, 120, **place, **chunks, **baselines)
    for model in models[:1]:
        yield Job("generate", model, 90, **place, **speech, **baselines)
        yield Job("ctranslate2", model, 60, **place, **speech, **baselines)
    for shape in shapes[1:]:
        yield Job("generate", shape, 120, **place, **chunks, **baselines)


def run_in_subprocess(job: Job) -> Iterator[Found]:
    """Runs a job as a process and yields its measurements; those reported before a failure count."""
    with subprocess.Popen(
        WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        words: list[str] = []
        listening = threading.Thread(target=words.extend, args=(process.stderr,), daemon=True)
        clock = threading.Timer(job.limit_s, process.kill)
        listening.start()
        clock.start()
        try:
            with suppress(BrokenPipeError):  # it ended before it read
                process.stdin.write(job.to_json())
                process.stdin.close()
            yield from (json.loads(line) for line in process.stdout if line.startswith("{"))
            code = process.wait()
        finally:
            is_over = not clock.is_alive()
            clock.cancel()
            process.kill()
        listening.join()
    if code:
        reason = f"ended after {job.limit_s:.0f} s" if is_over else f"exit code {code}: {_last(words)}"
        yield {"failed": reason}


def _last(words: list[str]) -> str:
    lines = [line.strip() for line in words if line.strip()]
    return lines[-1][:300] if lines else "no message"


def _within(job: Job, left_s: float) -> Job:
    return replace(job, limit_s=min(job.limit_s, left_s))


def check_device(device: str) -> None:
    """Raises `SettingsError` if torch cannot use the device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device=cuda: there is no GPU that torch can use here; device=cpu tries the benchmark out")


def _check(settings: GpuSettings) -> None:
    check_device(settings.device)
    if unknown := set(settings.shapes) - set(SHAPES):
        raise SettingsError(f"shapes={','.join(sorted(unknown))}: known are {', '.join(SHAPES)}")
    if unknown := {word for method in settings.methods for word in method.split()} - set(OPTIONS):
        raise SettingsError(f"methods={','.join(sorted(unknown))}: known are {', '.join(GPU_METHODS)}")
    for model in settings.models:
        if not (Path(model) / "config.json").is_file():
            raise SettingsError(f"models={model}: no model folder (config.json is missing)")
    if settings.models and not settings.speech:
        raise SettingsError("models=… needs speech=…, a folder of WAV files or a manifest: real weights need speech")
