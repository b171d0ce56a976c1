"""Folders on this node that are made once: where they lie, and how several processes share one making.

A folder is built under a temporary name and gets its own at the end, so one that exists is whole. While it is built,
the others wait for a lock that the kernel gives back even if the builder is killed.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE_VARIABLE = "DISTIL_RAY_CACHE"  # environment: the cache folder where no setting names one


class WeightsError(RuntimeError):
    """Weights that cannot be had or used: names the setting, what was tried, and what would do."""


def cache_root(cache_dir: str | Path | None) -> Path:
    """The folder for weights on this node: as set, else $DISTIL_RAY_CACHE, else ~/.cache/distil_ray."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "distil_ray"


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, made by `build(temporary folder)` if it is not there yet; one process builds, the others wait."""
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(
            f"model.cache_dir: {folder.parent} cannot be made ({error.strerror}). Name a folder that this user may"
            f" write to, here or in {CACHE_VARIABLE}"
        ) from error
    with _locked(folder.with_name(folder.name + ".lock")):
        if folder.is_dir():
            return folder
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            build(temporary)
            temporary.chmod(0o755)  # mkdtemp's 0700 would shut out other users of the node
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
