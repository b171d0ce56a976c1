"""A time limit that ends the whole process: for native code that hangs, no exception would do.

Two clocks run. A thread leaves a reason behind, shows where every thread stands, and kills; should the hanging code
hold the interpreter's lock, so that no thread gets to run, Python's own timer, which needs no lock, ends the process
`GRACE_S` later without the reason.
"""

import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

GRACE_S = 30.0  # for the reason to be written
STDERR = 2  # a worker's log file; sys.stderr need not be a file


@contextmanager
def time_limit(limit_s: float, leave_reason: Callable[[str], None]) -> Iterator[None]:
    """Ends this process with SIGKILL if the block takes longer than `limit_s` seconds. One at a time in a process."""
    timer = threading.Timer(limit_s, _end, (limit_s, leave_reason))
    timer.daemon = True
    faulthandler.dump_traceback_later(limit_s + GRACE_S, exit=True, file=STDERR)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()


def _end(limit_s: float, leave_reason: Callable[[str], None]) -> None:
    reason = f"gave no answer within {limit_s:.0f} s and was ended"
    logger.error("the recognizer %s; what it was doing follows", reason)
    faulthandler.dump_traceback(file=STDERR)
    try:
        leave_reason(reason)
    finally:
        os.kill(os.getpid(), signal.SIGKILL)
