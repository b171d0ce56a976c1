"""What Ray says through Python, in the form and the place of the job's own log: warnings stay, chatter goes.

Ray puts handlers of its own on its loggers, prints what its raylet reports to standard output, and logs a whole stack
for what pipeline.py explains in a sentence. With `--debug` all of it is left as it is. What its core writes past Python
is noise.py's.
"""

import logging
from collections.abc import Mapping
from typing import Any

import ray._private.worker
from ray._private.log import PlainRayHandler

TRACEBACK = "Traceback (most recent call last)"

logger = logging.getLogger("ray.raylet")


def quieten() -> None:
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


def shorten(message: str) -> str:
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
        logger.warning("%s", shorten(message))
