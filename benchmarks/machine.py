"""A description of the machine for the reports: processor, instruction sets, memory, package versions, date."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ARITHMETIC = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")  # flags of /proc/cpuinfo
PACKAGES = ("torch", "transformers", "ray", "numpy")


def describe_machine() -> dict[str, Any]:
    """Returns the description, ready for JSON."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    flags = _field(lines, "flags").split()
    return {
        "processor": _field(lines, "model name"),
        "arithmetic": [name for name in ARITHMETIC if name in flags],
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def format_machine(machine: dict[str, Any]) -> str:
    """Returns the description as one line."""
    return (
        f"{machine['processor']} ({', '.join(machine['arithmetic'])}), {machine['cpus']} CPUs,"
        f" {machine['memory_gib']} GiB, {machine['date']}"
    )


def _version(package: str) -> str | None:
    """Returns the version of a package; None if it is not installed (a GPU machine may lack Ray)."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _field(lines: list[str], name: str) -> str:
    """Returns the first value of a field of /proc/cpuinfo; empty if this kind of processor lacks the field."""
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == name), "")
