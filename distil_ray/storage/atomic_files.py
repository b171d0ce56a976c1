"""Atomic writes on local disks: unconditional, only if absent, and only if unchanged.

A file is written beside its target under a temporary name that identifies the writing process, so that files of ended
processes can be found and removed (`output/cleanup.py`). Paths are absolute. Errors are OSErrors; `storage_errors.py`
explains them.
"""

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from distil_ray.storage.process_identity import Process, parse_process_label, this_process

TEMPORARY = ".tmp-"  # how the name begins under which a file is written
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # of file systems without hard links: FAT, exFAT, many of FUSE


def temporary_writer(name: str) -> Process | None:
    """Returns the process that wrote a temporary file, by the file's name; None for other names."""
    return parse_process_label(name.removeprefix(TEMPORARY).partition("-")[0])


def put(path: str, data: bytes, *, replace: bool) -> None:
    """Writes a whole file; raises as `create`."""
    with create(path, replace=replace) as file:
        file.write(data)


@contextmanager
def create(path: str, *, replace: bool) -> Iterator[IO[bytes]]:
    """Yields a temporary file beside the target; at the end of the block it is synced and renamed to the target.

    An exception inside the block leaves the target as it was. Raises FileExistsError if `replace` is off and the name
    is taken, NotADirectoryError if a file is where one of its folders should be.
    """
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError as error:  # it is a folder's name that is taken, not the target's
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from error
    handle, temporary = tempfile.mkstemp(prefix=f"{TEMPORARY}{this_process().label}-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            with suppress(PermissionError):  # a file system such as FAT, whose files all have one mode
                os.fchmod(file.fileno(), 0o644)
        if replace:
            os.replace(temporary, path)
        else:
            _rename_if_absent(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _rename_if_absent(temporary: str, path: str) -> None:
    """Gives a file its name. Raises FileExistsError if the name is taken, where rename would replace."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with _locked(path):
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
            os.replace(temporary, path)


def replace_if_unchanged(path: str, old: bytes, new: bytes) -> bool:
    """Replaces a file if its content is `old`, under a lock that the kernel releases when its holder ends."""
    with _locked(path):
        if Path(path).read_bytes() != old:
            return False
        put(path, new, replace=True)
        return True


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """An exclusive lock beside a file. Its name goes with its holder: whoever waited for it looks if it still is."""
    name = Path(path).parent / f"{TEMPORARY}lock-{os.path.basename(path)}"
    while True:
        with open(name, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_open_as(lock, name):
                continue
            try:
                yield
            finally:
                name.unlink()
            return


def _is_open_as(file: IO[bytes], name: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), name.stat())
    except FileNotFoundError:
        return False
