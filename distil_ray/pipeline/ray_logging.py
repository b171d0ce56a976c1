"""Ray's log output, reduced to warnings in the format of the job's own log.

Three sources are handled; `--debug` leaves all of them as they are.

- Ray's Python loggers have handlers of their own, and log a whole stack for errors that `ray_graph.py` explains in one
  sentence: `quiet_ray_loggers`.
- Reports of the raylet are printed to standard output: logged as warnings instead, without their tracebacks.
- Ray's C++ core writes to file descriptor 2: `filter_stderr`. One line per actor pool is dropped, which no setting
  turns off; every other line is passed on. While the filter is active, standard error is a pipe that a thread reads,
  so that the last lines of a dying process can be lost. Ray keeps a copy in the logs of its session.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray._private.worker
from ray._private.log import PlainRayHandler

TRACEBACK = "Traceback (most recent call last)"

logger = logging.getLogger("ray.raylet")


def quiet_ray_loggers() -> None:
    """Reduces Ray's loggers to warnings. Call it after `ray.init`, which configures them."""
    if logging.getLogger("distil_ray").isEnabledFor(logging.DEBUG):
        return
    for name in ("ray", "ray.data"):
        ray_logger = logging.getLogger(name)
        for handler in ray_logger.handlers[:]:
            if isinstance(handler, PlainRayHandler):
                ray_logger.removeHandler(handler)
        ray_logger.propagate = True
        ray_logger.setLevel(logging.WARNING)
    # ray_graph.py explains these errors in a sentence; disabled progress bars need no warning
    for name, level in (
        ("ray.data._internal.execution.operators", logging.CRITICAL),
        ("ray.data._internal.execution.streaming_executor_state", logging.CRITICAL),
        ("ray.data.exceptions", logging.CRITICAL),
        ("ray.data._internal.progress", logging.ERROR),
    ):
        logging.getLogger(name).setLevel(level)
    vars(ray._private.worker)["print_to_stdstream"] = _log_report


def shorten_traceback(message: str) -> str:
    """Returns a report of the raylet without its traceback: its first words and the exception."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if TRACEBACK not in message:
        return " ".join(lines)
    first = lines[0].partition(TRACEBACK)[0].strip()
    return f"{first} {lines[-1]}"


def _log_report(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    """Replacement for Ray's function with the same arguments, which prints to standard output."""
    del ignore_prefix
    for message in data["lines"]:
        logger.warning("%s", shorten_traceback(message))


# "Actor … has constructor arguments in the object store and max_restarts > 0": the pool keeps these objects alive
IGNORED_LINES = ("has constructor arguments in the object store and max_restarts",)

STDERR = 2
READER_WAIT_S = 1.0  # for the thread to see the end; a child process may hold the pipe open


@contextmanager
def filter_stderr(on_line: Callable[[str], None]) -> Iterator[None]:
    """Passes lines written to file descriptor 2 to `on_line`, except `IGNORED_LINES`. `sys.stderr` is not filtered."""
    before = sys.stderr
    before.flush()
    kept = os.dup(STDERR)
    reading, writing = os.pipe()
    os.dup2(writing, STDERR)
    os.close(writing)
    reader = threading.Thread(target=_read, args=(reading, on_line), name="standard error", daemon=True)
    reader.start()
    try:
        with os.fdopen(os.dup(kept), "w", buffering=1, errors="backslashreplace") as unfiltered:
            sys.stderr = unfiltered
            yield
    finally:
        sys.stderr = before
        os.dup2(kept, STDERR)
        os.close(kept)
        reader.join(READER_WAIT_S)


def _read(reading: int, on_line: Callable[[str], None]) -> None:
    with os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.rstrip()
            if words and not any(ignored in words for ignored in IGNORED_LINES):
                on_line(words)
