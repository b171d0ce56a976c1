"""Which process wrote something, and whether it is known to be dead.

A process number alone says little: it means nothing on another machine or in another container, and is given again
after a while. So a number goes with its space (this boot of this kernel, this namespace of process numbers) and with
the moment at which the process began. Of a process in another space nothing can be known, and where there is no /proc
of nobody: then only time tells, which is the caller's business.
"""

import hashlib
import os
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """A process of any machine. `space` is empty where it cannot be told; `started` in clock ticks since the boot."""

    host: str
    space: str
    pid: int
    started: int

    @property
    def label(self) -> str:
        """All but the host in one word, for file names."""
        return f"{self.space}.{self.pid}.{self.started}"

    def is_known_dead(self) -> bool:
        """True if it is certain that the process has ended; False also means that it cannot be told from here."""
        return bool(self.space) and self.space == _space() and _started(self.pid) != self.started


def this_process() -> Process:
    pid = os.getpid()
    return Process(socket.gethostname(), _space(), pid, _started(pid) or 0)


def parse_process_label(label: str) -> Process | None:
    """The process of a `Process.label`, its host not known; None for words that are none."""
    space, _, rest = label.partition(".")
    pid, _, started = rest.partition(".")
    return Process("", space, int(pid), int(started)) if pid.isdigit() and started.isdigit() else None


@lru_cache(maxsize=1)
def _space() -> str:
    """Eight hex digits for this boot and this namespace of process numbers."""
    try:
        facts = f"{Path('/proc/sys/kernel/random/boot_id').read_text()}{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
    return hashlib.blake2b(facts.encode(), digest_size=4).hexdigest()


def _started(pid: int) -> int | None:
    """When a process of this space began; None if it has ended, also if only its parent has not noticed (zombies)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # a program's name may hold blanks and brackets
    return None if state in "ZX" else int(fields[18])
