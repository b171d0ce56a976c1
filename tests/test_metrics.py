"""Prometheus finds a run's counters and gauges at Ray's metrics endpoint."""

import io
import re
import time
import urllib.request
from pathlib import Path

import numpy as np
import ray
import soundfile
from rich.console import Console

from distil_ray import driver
from distil_ray.errors import ExitCode
from distil_ray.schema import SAMPLE_RATE
from distil_ray.settings import load_config
from tests.fakes import EchoTranscribe

SERIES = re.compile(r"^(ray_distil_ray_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
OWN = ("status", "kind", "edit", "stage")


def test_a_run_s_figures_are_scraped_from_ray(local_ray: None, tmp_path: Path, whisper_tiny_en: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(-3000, 3000, 3 * SAMPLE_RATE).astype(np.int16)
        soundfile.write(audio / f"{number}.wav", noise, SAMPLE_RATE)
        (audio / f"{number}.txt").write_text("three seconds of noise")
    (audio / "broken.wav").write_text("no audio at all")
    settings = [f"input.uri={audio}", f"output.uri={tmp_path / 'out'}", f"model.name={whisper_tiny_en}"]
    config = load_config(None, [*settings, "resources.actors=1", "max_failed_fraction=1", "run_id=metered"])
    assert driver.transcribe(config, Console(file=io.StringIO()), EchoTranscribe) == ExitCode.DONE

    found = _scrape("metered", until="ray_distil_ray_recordings_total:ok")
    assert found["ray_distil_ray_recordings_total:ok"] == 2
    assert found["ray_distil_ray_recordings_total:failed"] == 1
    assert found["ray_distil_ray_failures_total:not_audio"] == 1
    assert found["ray_distil_ray_audio_seconds_total"] == 6
    assert found["ray_distil_ray_reference_words_total"] == 8
    edits = {name: value for name, value in found.items() if name.startswith("ray_distil_ray_word_edits_total:")}
    assert edits["ray_distil_ray_word_edits_total:substitutions"] == 8  # not a word of it was heard
    assert found["ray_distil_ray_rtfx"] > 0


def _scrape(run_id: str, until: str) -> dict[str, float]:
    """Values by name and own label of the series of a run, once one of them is there."""
    (node,) = (node for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 60
    found: dict[str, float] = {}
    while until not in found and time.monotonic() < deadline:
        time.sleep(0.5)
        with urllib.request.urlopen(url, timeout=10) as answer:
            page = answer.read().decode()
        for name, words, value in SERIES.findall(page):
            labels = dict(LABEL.findall(words))
            if labels.get("run_id") == run_id:
                found[":".join([name, *(labels[own] for own in OWN if own in labels)])] = float(value)
    assert until in found, f"only {sorted(found)} at {url}"
    return found
