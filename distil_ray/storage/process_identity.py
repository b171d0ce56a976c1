"""Identity of processes: identifies the writer of a file, and detects that it has ended.

A process id alone is ambiguous: it is meaningless on another machine or in another container, and ids are reused. An
identity therefore consists of the id, its space (boot of the kernel and pid namespace) and the start time of the
process. The state of a process in another space is unknown, as is that of any process where there is no /proc; callers
then rely on timeouts.
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
    """Returns the identity of the calling process."""
    pid = os.getpid()
    return Process(socket.gethostname(), _space(), pid, _started(pid) or 0)


def parse_process_label(label: str) -> Process | None:
    """Returns the process of a `Process.label`, without its host; None if the text is no label."""
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
    """Returns the start time of a process in this PID namespace; None if it has ended, zombies included."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # a program's name may hold blanks and brackets
    return None if state in "ZX" else int(fields[18])
