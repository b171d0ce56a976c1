"""SIGTERM and Ctrl-C as an exception in the main thread, so that a run can write its events before it ends.

The first signal raises `Stopped` in the main thread; a second one ends the process at once. Handlers are installed only
by `handle_signals`, which jobs call: a program that imports this package keeps its own handlers.
"""

import os
import signal
import threading
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_reasons: list[BaseException] = []  # exceptions that `raise_in_main_thread` has passed on
_handling = threading.Event()


class Stopped(KeyboardInterrupt):
    """The process received SIGTERM or Ctrl-C. A KeyboardInterrupt, because libraries do not catch that one."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """Returns the exit code as a shell reports it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


def handle_signals() -> None:
    """Makes signals raise `Stopped` from now on. Does nothing outside of the main thread."""
    if threading.current_thread() is threading.main_thread():
        _handling.set()
        restore_handlers()


def restore_handlers() -> None:
    """Restores the handlers of `handle_signals` after a library has replaced them, as ray.init does."""
    if _handling.is_set() and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _raise)


def raise_in_main_thread(reason: BaseException) -> bool:
    """Raises `reason` in the main thread. Returns False, without effect, if `handle_signals` was not called."""
    if not _handling.is_set():
        return False
    _reasons.append(reason)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    return True


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    if _reasons:
        raise _reasons.pop()
    for each in SIGNALS:
        signal.signal(each, _end)
    raise Stopped(number)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)
