"""A run's counters and gauges for Ray's metrics endpoint, where Prometheus collects them and Grafana shows them.

The driver's process counts: it sees every receipt, and a counter that several processes raise would be several series.
Ray hands the values to the agent of the driver's node every ten seconds and puts `ray_` before the names, `_total`
behind those of counters; a run that ends sooner is not seen. Speeds over a window are Prometheus' work:
`rate(ray_distil_ray_audio_seconds_total[5m])` is the RTFx of the last five minutes.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

from distil_ray.pipeline.ray_monitor import Snapshot
from distil_ray.types import EDITS, Status

RUN = "run_id"  # a label of every series

# Gauges of what the executor shows: name, attribute of Snapshot, description.
SNAPSHOT_GAUGES = (
    ("distil_ray_recognizers", "alive", "recognizer actors alive"),
    (
        "distil_ray_recognizers_starting",
        "starting",
        "recognizer actors that start, restart, or wait for a node with room",
    ),
    ("distil_ray_tasks_decoding", "decoding", "tasks that are being decoded"),
    ("distil_ray_parts_waiting", "waiting", "parts that wait for a recognizer"),
    ("distil_ray_parts_recognizing", "recognizing", "parts that recognizers have in hand"),
    ("distil_ray_parts_committing", "committing", "parts that are being committed"),
)


class MetricsExporter:
    """The metrics of one run. Needs a Ray that this process is connected to."""

    def __init__(self, run_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = {RUN: run_id}
        self._clock = clock
        self._started_s = clock()
        self._audio_s = 0.0
        self._recordings = self._counter("recordings", "recordings committed, by status", "status")
        self._failures = self._counter("failures", "failed and partial recordings, by kind of error", "kind")
        self._audio = self._counter("audio_seconds", "seconds of audio recognized")
        self._words = self._counter("reference_words", "words of references that transcripts were compared with")
        self._edits = self._counter("word_edits", "word errors, by kind of edit", "edit")
        self._errors = self._counter("task_errors", "tasks that could not be committed")
        self._busy = self._counter("stage_seconds", "seconds of work, by stage, over all workers", "stage")
        self._rtfx = self._gauge("distil_ray_rtfx", "audio seconds a second of the whole job, since its work began")
        self._looks = {attribute: self._gauge(name, words) for name, attribute, words in SNAPSHOT_GAUGES}

    def count(self, receipt: Mapping[str, Any]) -> None:
        """Counts a row of COMMIT_RESULT."""
        for status in Status:
            self._raise(self._recordings, receipt[f"num_{status}"], status=str(status))
        for kind, number in dict(receipt["failures_by_kind"] or {}).items():
            self._raise(self._failures, number, kind=kind)
        for edit in EDITS:
            self._raise(self._edits, receipt[edit], edit=edit)
        for stage in ("decode", "recognize", "commit"):
            self._raise(self._busy, receipt[f"{stage}_s"], stage=stage)
        self._raise(self._audio, receipt["audio_s"])
        self._raise(self._words, receipt["num_ref_words"])
        self._raise(self._errors, receipt["error"] is not None)
        self._audio_s += receipt["audio_s"] or 0.0
        self._rtfx.set(self._audio_s / max(self._clock() - self._started_s, 1e-9), self._run)

    def see(self, snapshot: Snapshot) -> None:
        """Sets the gauges to what the executor shows."""
        for attribute, gauge in self._looks.items():
            gauge.set(getattr(snapshot, attribute), self._run)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"distil_ray_{name}", description, (RUN, *labels))

    def _gauge(self, name: str, description: str) -> Gauge:
        return Gauge(name, description, (RUN,))

    def _raise(self, counter: Counter, by: float | None, **labels: str) -> None:
        if by:
            counter.inc(by, {**self._run, **labels})
