"""Cache of model folders on a node: its location, and folders that one of several processes builds.

A folder is built under a temporary name and renamed at the end, so that a folder that exists is complete. Meanwhile the
other processes wait for a file lock, which the kernel releases even if the building process is killed.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

CACHE_VARIABLE = "DISTIL_RAY_CACHE"  # environment variable: the cache folder where model.cache_dir is not set


class WeightsError(RuntimeError):
    """Weights cannot be found, downloaded or used. The message names the setting, what was tried, and what to do."""


def cache_root(cache_dir: str | Path | None) -> Path:
    """Returns the cache folder: `cache_dir` if given, else $DISTIL_RAY_CACHE, else ~/.cache/distil_ray."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    variable = os.environ.get(CACHE_VARIABLE)
    return Path(variable).expanduser() if variable else Path.home() / ".cache" / "distil_ray"


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Returns `folder`, built if it does not exist. One process builds; the others wait for it.

    Args:
        folder: The folder to build.
        build: Writes the contents into the temporary folder that it is called with.

    Raises:
        WeightsError: The parent folder cannot be created, or this user may not write to it.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(folder.name + ".lock").open("w")
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        _remove_leftovers(folder)
        try:
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        except OSError as error:
            raise _unwritable(folder.parent, error) from error
        try:
            build(temporary)
            temporary.chmod(0o755)  # mkdtemp creates it with 0700, which excludes other users of the node
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _remove_leftovers(folder: Path) -> None:
    """Removes the temporary folders of builders of `folder` that were killed. Only for the holder of its lock."""
    is_leftover = re.compile(rf"\.{re.escape(folder.name)}-[a-z0-9_]{{8}}").fullmatch  # as mkdtemp names them
    for path in folder.parent.iterdir():
        if is_leftover(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> WeightsError:
    return WeightsError(
        f"model.cache_dir: {folder} cannot be written to ({error.strerror}). Set model.cache_dir or {CACHE_VARIABLE} to"
        " a folder that this user may write to"
    )
