"""The `gpu-check` command: the gpu command with the packaged weights and the demo's speech, and a page of the result.

Unlike the gpu command it needs the packages of a whole installation: it downloads weights, decodes recordings of any
format, and writes gpu.html with plots beside gpu.json.
"""

import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.clips import prepare_clips
from benchmarks.comparison.catalog import SHORT
from benchmarks.gpu.command import check_device, measure_report, print_report
from benchmarks.gpu.findings import best_batches, find_conclusions
from benchmarks.gpu.report import Report
from benchmarks.settings import GpuCheckSettings
from distil_ray.errors import ExitCode
from distil_ray.report.charts import Plot, plot_series
from distil_ray.report.page import render
from distil_ray.whisper.download import fetch_weights

HEADLINES = {
    "bad": "This GPU gives other tokens than the CPU",
    "warn": "This GPU works; something is slow or was not measured",
    "good": "This GPU works as it should",
}
Figure = tuple[str, Plot]


def check_gpu(settings: GpuCheckSettings, console: Console) -> ExitCode:
    """Measures within the time budget, prints tables and conclusions, and writes gpu.json and gpu.html.

    Returns:
        `ExitCode.FAILED` if tokens in float32 differ from the CPU's.

    Raises:
        SettingsError: There is no GPU, or a setting is wrong.
    """
    check_device(settings.device)
    folder = Path(settings.report)
    models = tuple(str(fetch_weights(name)) for name in settings.models)
    speech = write_speech(settings, folder / "speech") if models else ""
    report = measure_report(replace(settings, models=models, speech=str(speech)), console)
    code = print_report(report, console)
    page = folder / "gpu.html"
    page.write_bytes(render_page(report))
    console.print(f"written: {page} and {folder / 'gpu.json'}. Please attach both to an issue.", soft_wrap=True)
    return code


def write_speech(settings: GpuCheckSettings, folder: Path) -> Path:
    """Writes clips as WAV files and returns a manifest of them.

    Raises:
        SettingsError: `settings.speech` has no English recording of 3 to 30 s with a reference.
    """
    clips = prepare_clips(settings.speech, folder, "en", {SHORT: settings.num_clips})[SHORT]
    manifest = folder / "clips.jsonl"
    lines = [json.dumps({"uri": str(clip.path.resolve()), "reference": clip.reference}) for clip in clips]
    manifest.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return manifest


def render_page(report: Report) -> bytes:
    """Returns the page as UTF-8: conclusions, speed and memory by batch size, phases, the machine."""
    findings = find_conclusions(report)
    level = findings[0].level
    device = next((each["name"] for each in report.found if each.get("measure") == "device"), "unknown device")
    return render(
        "gpu.html",
        templates=Path(__file__).parent / "templates",
        verdict={"tone": level, "headline": HEADLINES[level], "reason": device},
        findings=findings,
        models=_figures(report),
        best=best_batches(report),
        phases=[each for each in report.speeds() if "phases" in each],
        machine=machine.format_machine(report.machine),
        packages=", ".join(f"{name} {version}" for name, version in report.machine["packages"].items()),
        settings=report.settings,
    )


def _figures(report: Report) -> dict[str, list[Figure]]:
    """Returns plots of RTFx and of memory by batch size for each model, window and program, the fastest first."""
    series: dict[tuple[str, str, str], list[dict[str, object]]] = {}
    for speed in sorted(report.speeds(), key=lambda each: -each["rtfx"]):
        series.setdefault((speed["model"], speed["engine"], speed["window"]), []).append(speed)
    figures: dict[str, list[Figure]] = {}
    for (model, engine, window), speeds in series.items():
        speeds.sort(key=lambda each: each["batch_size"])  # type: ignore[arg-type, return-value]
        labels = [str(each["batch_size"]) for each in speeds]
        for title, name in (("RTFx", "rtfx"), ("peak GiB", "peak_gib")):
            values = [each.get(name) for each in speeds]
            no_bounds: list[tuple[None, None]] = [(None, None)] * len(speeds)
            plot = plot_series(labels, values, no_bounds, [False] * len(speeds), 1, title, "batch sizes")  # type: ignore[arg-type]
            if plot is not None:
                figures.setdefault(model, []).append((f"{engine}, {window} windows: {title}", plot))
    return figures
