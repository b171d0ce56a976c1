"""Counters and gauges of a run at Ray's metrics endpoint, for Prometheus and Grafana.

The driver process exports them: it receives every commit result, and a counter incremented by several processes would
be several series. Ray passes the values to the agent of the driver's node every ten seconds, prefixes the names with
`ray_` and appends `_total` to counters; a run that ends sooner leaves no values. Rates over a window are computed in
Prometheus: `rate(ray_distil_ray_audio_seconds_total[5m])` is the RTFx of the last five minutes.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

from distil_ray.pipeline.ray_monitor import Snapshot
from distil_ray.types import EDITS, Status

RUN = "run_id"  # a label of every series

# Gauges of the execution state: name, attribute of Snapshot, description.
SNAPSHOT_GAUGES = (
    ("distil_ray_recognizers", "alive", "recognizer actors alive"),
    (
        "distil_ray_recognizers_starting",
        "starting",
        "recognizer actors that start, restart, or wait for resources",
    ),
    ("distil_ray_tasks_decoding", "decoding", "tasks that are being decoded"),
    ("distil_ray_parts_waiting", "waiting", "parts that wait for a recognizer"),
    ("distil_ray_parts_recognizing", "recognizing", "parts assigned to recognizers"),
    ("distil_ray_parts_committing", "committing", "parts that are being committed"),
)


class MetricsExporter:
    """Exports the metrics of one run. The process must be connected to Ray.

    Results are added up here, and reach the counters of Ray with the next `update` or `flush`: a result changes about
    ten of them, and a large cluster has hundreds of results a second.
    """

    def __init__(self, run_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = {RUN: run_id}
        self._clock = clock
        self._started_s = clock()
        self._audio_s = 0.0
        self._added: defaultdict[tuple[Counter, tuple[tuple[str, str], ...]], float] = defaultdict(float)
        self._recordings = self._counter("recordings", "recordings committed, by status", "status")
        self._failures = self._counter("failures", "failed recordings, by kind of error", "kind")
        self._audio = self._counter("audio_seconds", "seconds of audio recognized")
        self._words = self._counter("reference_words", "words of references that transcripts were compared with")
        self._edits = self._counter("word_edits", "word errors, by kind of edit", "edit")
        self._errors = self._counter("task_errors", "tasks that could not be committed")
        self._busy = self._counter("stage_seconds", "seconds of work, by stage, over all workers", "stage")
        self._rtfx = self._gauge(
            "distil_ray_rtfx", "audio seconds per second of the whole job, since the graph started"
        )
        self._snapshot_gauges = {attribute: self._gauge(name, words) for name, attribute, words in SNAPSHOT_GAUGES}

    def add(self, result: Mapping[str, Any]) -> None:
        """Adds a row of `schema.COMMIT_RESULT`."""
        for status in Status:
            self._increment(self._recordings, result[f"num_{status}"], status=str(status))
        for kind, number in dict(result["failures_by_kind"] or {}).items():
            self._increment(self._failures, number, kind=kind)
        for edit in EDITS:
            self._increment(self._edits, result[edit], edit=edit)
        for stage in ("decode", "recognize", "commit"):
            self._increment(self._busy, result[f"{stage}_s"], stage=stage)
        self._increment(self._audio, result["audio_s"])
        self._increment(self._words, result["num_ref_words"])
        self._increment(self._errors, result["error"] is not None)
        self._audio_s += result["audio_s"] or 0.0

    def flush(self) -> None:
        """Increments the counters by what was added since the last call."""
        for (counter, labels), number in self._added.items():
            counter.inc(number, {**self._run, **dict(labels)})
        self._added.clear()
        self._rtfx.set(self._audio_s / max(self._clock() - self._started_s, 1e-9), self._run)

    def update(self, snapshot: Snapshot) -> None:
        """Increments the counters, and sets the gauges to the state of the execution."""
        self.flush()
        for attribute, gauge in self._snapshot_gauges.items():
            gauge.set(getattr(snapshot, attribute), self._run)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"distil_ray_{name}", description, (RUN, *labels))

    def _gauge(self, name: str, description: str) -> Gauge:
        return Gauge(name, description, (RUN,))

    def _increment(self, counter: Counter, by: float | None, **labels: str) -> None:
        if by:
            self._added[counter, tuple(labels.items())] += by
