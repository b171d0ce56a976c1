"""SIGTERM and Ctrl-C as an exception in the main thread, so that a run can close its books before it ends.

The first signal raises `Stopped` wherever the program is; a second one ends the process at once. Signals are only
listened to where a job has asked for it (`listen`): a program that uses this package keeps its own ways.
"""

import os
import signal
import threading
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_reasons: list[BaseException] = []  # what `interrupt` wants raised in the main thread
_handling = threading.Event()


class Stopped(KeyboardInterrupt):
    """The process was told to end. A KeyboardInterrupt, because libraries let that one pass."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """As a shell reports it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


def handle_signals() -> None:
    """From now on signals raise `Stopped`. Does nothing outside of the main thread, which alone may ask."""
    if threading.current_thread() is threading.main_thread():
        _handling.set()
        restore_handlers()


def restore_handlers() -> None:
    """Takes the signals back from a library that has taken them over (ray.init does), where `listen` was called."""
    if _handling.is_set() and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _raise)


def raise_in_main_thread(reason: BaseException) -> bool:
    """Raises `reason` in the main thread from another one; False where nobody listens, and nothing happens."""
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
