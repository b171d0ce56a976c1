"""What libraries in C++ write to standard error by themselves, past Python's logging.

Ray's core prints one line for every actor pool that no setting removes and that means nothing here; anything else that
it prints is worth reading, and is passed on to where the job's own words go. Works on the file descriptor: for as long
as it is watched, standard error is a pipe that a thread reads. What a dying process writes last can be lost with it;
Ray keeps a copy in its session's logs, and `--debug` leaves standard error alone.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# "Actor … has constructor arguments in the object store and max_restarts > 0": they are the pool's own, and kept
MEANINGLESS = ("has constructor arguments in the object store and max_restarts",)

STDERR = 2
READER_WAIT_S = 1.0  # for the thread to see the end; a child process may hold the pipe open


@contextmanager
def standard_error_watched(tell: Callable[[str], None]) -> Iterator[None]:
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
            if words and not any(noise in words for noise in MEANINGLESS):
                tell(words)
