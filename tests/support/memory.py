"""The memory of this process."""

import mmap
from pathlib import Path


def resident_mb() -> float:
    """Returns the resident size, in MiB."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE / 2**20
