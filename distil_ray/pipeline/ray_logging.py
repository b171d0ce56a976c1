"""What Ray says through Python, in the form and the place of the job's own log: warnings stay, chatter goes.

Ray puts handlers of its own on its loggers, prints what its raylet reports to standard output, and logs a whole stack
for what pipeline.py explains in a sentence. With `--debug` all of it is left as it is. What its core writes past Python
is noise.py's.
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
    """To be called once Ray is connected, which sets its loggers up."""
    if logging.getLogger("distil_ray").isEnabledFor(logging.DEBUG):
        return
    for name in ("ray", "ray.data"):
        talker = logging.getLogger(name)
        for handler in talker.handlers[:]:
            if isinstance(handler, PlainRayHandler):
                talker.removeHandler(handler)
        talker.propagate = True
        talker.setLevel(logging.WARNING)
    # pipeline.py explains shorter what goes wrong, and that bars are off is no news
    for name, level in (
        ("ray.data._internal.execution.operators", logging.CRITICAL),
        ("ray.data.exceptions", logging.CRITICAL),
        ("ray.data._internal.progress", logging.ERROR),
    ):
        logging.getLogger(name).setLevel(level)
    vars(ray._private.worker)["print_to_stdstream"] = _log_report


def shorten_traceback(message: str) -> str:
    """What a raylet reports, without the traceback in it: how it begins, and what was raised."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if TRACEBACK not in message:
        return " ".join(lines)
    first = lines[0].partition(TRACEBACK)[0].strip()
    return f"{first} {lines[-1]}"


def _log_report(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    """In the place of Ray's own function, which has the same arguments and prints to standard output."""
    del ignore_prefix
    for message in data["lines"]:
        logger.warning("%s", shorten_traceback(message))


# "Actor … has constructor arguments in the object store and max_restarts > 0": they are the pool's own, and kept
IGNORED_LINES = ("has constructor arguments in the object store and max_restarts",)

STDERR = 2
READER_WAIT_S = 1.0  # for the thread to see the end; a child process may hold the pipe open


@contextmanager
def filter_stderr(tell: Callable[[str], None]) -> Iterator[None]:
    """Lines that reach file descriptor 2 go to `tell`, the meaningless ones nowhere. `sys.stderr` stays what it was."""
    before = sys.stderr
    before.flush()
    kept = os.dup(STDERR)
    reading, writing = os.pipe()
    os.dup2(writing, STDERR)
    os.close(writing)
    reader = threading.Thread(target=_read, args=(reading, tell), name="standard error", daemon=True)
    reader.start()
    try:
        with os.fdopen(os.dup(kept), "w", buffering=1, errors="backslashreplace") as unwatched:
            sys.stderr = unwatched
            yield
    finally:
        sys.stderr = before
        os.dup2(kept, STDERR)
        os.close(kept)
        reader.join(READER_WAIT_S)


def _read(reading: int, tell: Callable[[str], None]) -> None:
    with os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.rstrip()
            if words and not any(noise in words for noise in IGNORED_LINES):
                tell(words)
