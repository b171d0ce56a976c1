"""Prometheus finds a run's counters and gauges at Ray's metrics endpoint."""

import io
import re
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import soundfile
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode
from distil_ray.pipeline import runner
from distil_ray.pipeline.metrics import SNAPSHOT_GAUGES, MetricsExporter
from distil_ray.pipeline.ray_monitor import Snapshot
from distil_ray.schema import COMMIT_RESULT
from distil_ray.types import SAMPLE_RATE
from tests.support.fakes import EchoTranscribe

SERIES = re.compile(r"^(ray_distil_ray_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
OWN = ("status", "kind", "edit", "stage")
HANGS_AFTER_S = 600  # the agents of a busy machine hand values on late

pytestmark = pytest.mark.timeout(2 * HANGS_AFTER_S)


def test_a_run_s_counters_are_scraped_from_ray(local_ray: None, tmp_path: Path, whisper_tiny_en: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(-3000, 3000, 3 * SAMPLE_RATE).astype(np.int16)
        soundfile.write(audio / f"{number}.wav", noise, SAMPLE_RATE)
        (audio / f"{number}.txt").write_text("three seconds of noise")
    (audio / "broken.wav").write_text("no audio at all")
    settings = [f"input.uri={audio}", f"output.uri={tmp_path / 'out'}", f"model.name={whisper_tiny_en}"]
    config = load_config(None, [*settings, "resources.actors=1", "max_failed_fraction=1", "run_id=metered"])
    assert runner.transcribe(config, Console(file=io.StringIO()), EchoTranscribe) == ExitCode.DONE

    expected = {
        "ray_distil_ray_recordings_total:ok": 2,
        "ray_distil_ray_recordings_total:failed": 1,
        "ray_distil_ray_failures_total:not_audio": 1,
        "ray_distil_ray_audio_seconds_total": 6,
        "ray_distil_ray_reference_words_total": 8,
        "ray_distil_ray_word_edits_total:substitutions": 8,  # not a word of it was heard
    }
    found = _scrape_until("metered", lambda found: expected.items() <= found.items())
    assert {name: found.get(name) for name in expected} == expected


def test_a_run_s_gauges_are_scraped_from_ray_while_it_goes_on(local_ray: None) -> None:
    """Ray forgets a gauge that is not set again for two of its intervals, so this one is set until it is seen."""
    meter = MetricsExporter("gauged")
    empty: dict[str, Any] = dict.fromkeys(COMMIT_RESULT.names, 0)
    receipt = empty | {"failures_by_kind": {}, "error": None, "audio_s": 6.0}
    shown = {f"ray_{name}": float(place) for place, (name, _, _) in enumerate(SNAPSHOT_GAUGES, 1)}
    places: dict[str, Any] = {attribute: place for place, (_, attribute, _) in enumerate(SNAPSHOT_GAUGES, 1)}
    snapshot = Snapshot(progress=(), draining=False, cluster="", **places)

    def is_seen(found: Mapping[str, float]) -> bool:
        meter.add(receipt)
        meter.update(snapshot)
        return shown.items() <= found.items() and "ray_distil_ray_rtfx" in found

    found = _scrape_until("gauged", is_seen)
    assert {name: found.get(name) for name in shown} == shown
    assert found["ray_distil_ray_rtfx"] > 0


def _scrape_until(run_id: str, is_enough: Callable[[Mapping[str, float]], bool]) -> dict[str, float]:
    """The last values of a run's series by name and own label, once they are enough or no more is to be expected."""
    (node,) = (node for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + HANGS_AFTER_S
    found: dict[str, float] = {}
    while not is_enough(found) and time.monotonic() < deadline:
        time.sleep(0.5)
        found |= _scrape(url, run_id)
    return found


def _scrape(url: str, run_id: str) -> dict[str, float]:
    """What is there now; nothing where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            page = answer.read().decode()
    except OSError:
        return {}
    found: dict[str, float] = {}
    for name, words, value in SERIES.findall(page):
        labels = dict(LABEL.findall(words))
        if labels.get("run_id") == run_id:
            found[":".join([name, *(labels[own] for own in OWN if own in labels)])] = float(value)
    return found
