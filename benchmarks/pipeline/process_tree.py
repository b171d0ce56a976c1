"""CPU seconds of a process and all its descendants, by role of the process.

The usual accounting of a parent's children does not work here: Ray's raylet lets the kernel reap its workers, and what
the kernel reaps is counted nowhere. So /proc is sampled every 50 ms while the process runs. A process that was once
seen as a descendant remains one after its parent dies, and its last seen CPU time counts. Missed are at most the last
50 ms of a process, and processes that live for less; Ray's workers and the decoder subprocesses live long. Ray renames
a worker with each task: the seconds between two samples count for the name at the second one.
"""

import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 0.05
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Places in /proc/<pid>/stat, counted from behind the closing parenthesis of the name.
PARENT, USER_TICKS, SYSTEM_TICKS, START_TICKS = 1, 11, 12, 19

Identity = tuple[int, int]  # process id and start: ids come again


@dataclass(frozen=True, slots=True)
class TreeCost:
    """CPU seconds of a process tree.

    Attributes:
        cpu_s: CPU seconds by role.
        processes: Number of processes seen.
        exit_code: Exit code of the root process.
    """

    cpu_s: dict[str, float]
    processes: int
    exit_code: int

    @property
    def total_s(self) -> float:
        return sum(self.cpu_s.values())


def measure_process_tree(
    command: Sequence[str], role: Callable[[str], str], environment: Mapping[str, str], log: Path
) -> TreeCost:
    """Runs a command to its end and returns the CPU seconds of its process tree.

    Args:
        command: The command.
        role: Maps the command line of a process to its role.
        environment: Environment variables of the command.
        log: File for stdout and stderr.
    """
    with open(log, "wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        watch = _ProcessTreeSampler(process.pid, role)
        thread = threading.Thread(target=watch.run, daemon=True)
        thread.start()
        try:
            process.wait()
        finally:
            if process.poll() is None:  # the wait was interrupted
                process.kill()
            watch.stop.set()
            thread.join()
    return TreeCost(watch.cpu_s, len(watch.seen), process.returncode)


class _ProcessTreeSampler:
    """Samples the CPU times of a process and its descendants."""

    def __init__(self, root: int, role: Callable[[str], str]) -> None:
        self.stop = threading.Event()
        self.cpu_s: dict[str, float] = {}
        self.seen: dict[Identity, float] = {}
        self._role = role
        self._family = {root}

    def run(self) -> None:
        while not self.stop.wait(INTERVAL_S):
            self.sample()

    def sample(self) -> None:
        found = {pid: stat for pid in _processes() if (stat := _stat(pid))}
        self._family &= found.keys()
        grown = True
        while grown:
            children = {pid for pid, stat in found.items() if int(stat[PARENT]) in self._family}
            grown = not children <= self._family
            self._family |= children
        for pid in self._family:
            stat = found[pid]
            identity = (pid, int(stat[START_TICKS]))
            used_s = (int(stat[USER_TICKS]) + int(stat[SYSTEM_TICKS])) / TICKS_PER_S
            added_s = used_s - self.seen.get(identity, 0.0)
            if added_s > 0:
                role = self._role(_command_line(pid))
                self.cpu_s[role] = self.cpu_s.get(role, 0.0) + added_s
            self.seen[identity] = used_s


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """Returns the fields of a process's stat after its name; None if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _command_line(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()
