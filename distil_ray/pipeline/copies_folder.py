"""Local folders for copies of audio files, which are removed even if the process that made them was killed.

A process that is killed leaves its folder, with the files that it had fetched in advance: where a driver is killed,
those of all decode tasks. Each folder is therefore locked while it is in use, and the next process that makes one
removes those of the same host that nobody holds any more. The kernel releases a lock when its process ends.
"""

import fcntl
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = f"distil-ray-audio-{socket.gethostname()}-"  # locks of other hosts may not be visible in a shared folder
MIN_AGE_S = 600.0  # of a folder that is removed: a new one may not be locked yet


@contextmanager
def temporary_copies_folder() -> Iterator[Path]:
    """Yields an empty folder below the temporary folder (`TMPDIR`), and removes it at the end."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield Path(folder)
        finally:
            os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    """Removes the folders of processes that have ended."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # of another user, or removed by another process meanwhile
            if time.time() - folder.stat().st_mtime < MIN_AGE_S:
                continue
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(descriptor)
