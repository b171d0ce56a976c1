"""Execution of a Ray Data graph: in this process, or divided among several processes beside it.

Ray Data schedules all tasks of a data set in one process and thread, its executor, which takes some 26 ms of CPU for a
part (docs/scale.md). For many recognizers the tasks of a plan are therefore divided among several data sets, each with
a share of the recognizers, in a Ray actor of its own on the node of the driver. The driver gets their rows; lease, plan
and final checks stay in it. Where the driver ends, so do they.
"""

import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray._private import auto_init_hook
from ray.data import Dataset
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distil_ray.pipeline import ray_logging
from distil_ray.pipeline.ray_cluster import describe_cluster
from distil_ray.pipeline.ray_monitor import (
    ExecutionObserver,
    Snapshot,
    add_snapshots,
    num_actors_alive,
    take_snapshot,
)

POLL_INTERVAL_S = 2.0  # between two snapshots of the execution
REPORT_INTERVAL_S = 1.0  # between two reports of a process to the driver; rows of one report travel together
RAY_THREAD_PREFIX = "ray-data-"  # of the names of Ray Data's threads


class GraphExecution(ABC):
    """A running graph whose rows arrive in a queue, so that the caller can check for stalls while none arrives."""

    def __init__(self, num_sources: int) -> None:
        """`num_sources`: threads that put rows into the queue, and None at their end, or an exception."""
        self._num_sources = num_sources
        self._arrived: queue.SimpleQueue[dict[str, Any] | Exception | None] = queue.SimpleQueue()

    def rows(self, interval_s: float | None = None) -> Iterator[dict[str, Any] | None]:
        """Yields rows as they arrive, and None whenever `interval_s` (default: `POLL_INTERVAL_S`) have passed."""
        interval_s = POLL_INTERVAL_S if interval_s is None else interval_s
        poll_at_s = time.monotonic() + interval_s
        num_running = self._num_sources
        while num_running:
            try:
                item = self._arrived.get(timeout=max(0.0, poll_at_s - time.monotonic()))
            except queue.Empty:
                poll_at_s = time.monotonic() + interval_s
                yield None
                continue
            if item is None:
                num_running -= 1
                continue
            if isinstance(item, Exception):
                raise item
            yield item

    @abstractmethod
    def snapshot(self) -> Snapshot | None:
        """Returns the current state of the execution; None before it starts and after its end."""

    @abstractmethod
    def num_alive(self) -> int | None:
        """Returns the recognizer actors that are alive; None before the start and after the end."""

    @abstractmethod
    def stop(self) -> None:
        """Ends the execution without waiting: recognizers may hang, and a stopped job has little time."""


class LocalExecution(GraphExecution):
    """The executor of Ray Data in this process; a thread fetches its rows. One at a time in a process."""

    def __init__(self, graph: Dataset) -> None:
        super().__init__(num_sources=1)
        self._graph = graph
        self._thread = threading.Thread(target=self._fetch, name="results", daemon=True)
        self._thread.start()

    def snapshot(self) -> Snapshot | None:
        executor = ExecutionObserver.executor
        return None if executor is None else take_snapshot(executor, describe_cluster())

    def num_alive(self) -> int | None:
        return num_actors_alive()

    def stop(self) -> None:
        executor = ExecutionObserver.executor
        if executor is not None and self._thread.is_alive():
            auto_init_hook.enable_auto_connect = False  # else threads of Ray start a new Ray after the shutdown
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # and report errors about the old one
            _hide_errors_of_ray_threads()  # or end with them
            threading.Thread(target=_shut_down, args=(executor,), name="shutdown", daemon=True).start()

    def _fetch(self) -> None:
        try:
            for row in self._graph.iter_rows():
                self._arrived.put(row)
            self._arrived.put(None)
        except Exception as error:
            self._arrived.put(error)


@dataclass(frozen=True, slots=True)
class ExecutorReport:
    """News of an executor process for the driver.

    Attributes:
        rows: Rows since the last report.
        snapshot: State of the execution, if it is known.
        messages: Warnings since the last report.
    """

    rows: list[dict[str, Any]]
    snapshot: Snapshot | None
    messages: list[str]


class DividedExecution(GraphExecution):
    """Executors in processes of their own; a thread for each receives its reports."""

    def __init__(self, builds: Sequence[Callable[[], Dataset]], on_message: Callable[[str], None]) -> None:
        """Starts the processes.

        Args:
            builds: Picklable; each returns the data set of one process.
            on_message: Called with warnings of the processes, in threads of this one.
        """
        super().__init__(num_sources=len(builds))
        self._on_message = on_message
        self._snapshots: dict[int, Snapshot] = {}
        node = ray.get_runtime_context().get_node_id()
        process: Any = ray.remote(num_cpus=0, max_restarts=0)(_ExecutorProcess)
        near = NodeAffinitySchedulingStrategy(node, soft=False)
        self._processes = [process.options(scheduling_strategy=near).remote() for _ in builds]
        for number, (actor, build) in enumerate(zip(self._processes, builds, strict=True)):
            reports = actor.run.options(num_returns="streaming").remote(build)
            threading.Thread(target=self._receive, args=(number, reports), name="results", daemon=True).start()

    def snapshot(self) -> Snapshot | None:
        snapshots = list(self._snapshots.values())
        return add_snapshots(snapshots) if snapshots else None

    def num_alive(self) -> int | None:
        return sum(each.alive for each in list(self._snapshots.values())) or None

    def stop(self) -> None:
        for actor in self._processes:
            with suppress(Exception):  # Ray itself may shut down at the same time
                ray.kill(actor)

    def _receive(self, number: int, reports: Iterator[Any]) -> None:
        try:
            for reference in reports:
                report: ExecutorReport = ray.get(reference)
                if report.snapshot is not None:
                    self._snapshots[number] = report.snapshot
                for message in report.messages:
                    self._on_message(message)
                for row in report.rows:
                    self._arrived.put(row)
            if (last := self._snapshots.get(number)) is not None:
                self._snapshots[number] = replace(last, draining=True)
            self._arrived.put(None)
        except Exception as error:
            self._arrived.put(error)


class _ExecutorProcess:
    """A process with an executor of Ray Data."""

    def run(self, build: Callable[[], Dataset]) -> Generator[ExecutorReport, None, None]:
        """Runs a data set and yields what has happened, every `REPORT_INTERVAL_S`."""
        ray_logging.quiet_ray_loggers()
        messages = _MessageCollector()
        logging.getLogger("distil_ray").addHandler(messages)
        execution = LocalExecution(build())
        rows: list[dict[str, Any]] = []
        reported_s = time.monotonic()
        for row in execution.rows(REPORT_INTERVAL_S):
            if row is not None:
                rows.append(row)
            if time.monotonic() - reported_s >= REPORT_INTERVAL_S:
                yield ExecutorReport(rows, execution.snapshot(), messages.take())
                rows, reported_s = [], time.monotonic()
        yield ExecutorReport(rows, None, messages.take())


class _MessageCollector(logging.Handler):
    """Keeps the warnings of this process for the driver."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())

    def take(self) -> list[str]:
        messages, self._messages = self._messages, []
        return messages


def _hide_errors_of_ray_threads() -> None:
    """Keeps Python from printing tracebacks of Ray Data's own threads, which may call Ray after its shutdown."""
    print_error = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if args.thread is None or not args.thread.name.startswith(RAY_THREAD_PREFIX):
            print_error(args)

    threading.excepthook = hook


def _shut_down(executor: Any) -> None:
    with suppress(Exception):  # Ray itself may shut down at the same time
        executor.shutdown(force=True)
