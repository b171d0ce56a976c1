"""Every test file in a process of its own, so that none depends on what another has left behind.

    python -m tests.support.isolated [file or folder …]

Prints a line a file, the output of those that fail, and exits with 1 if any did.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PASSED = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def main(places: Sequence[str]) -> int:
    failed = [path for path in _files(places or ["tests"]) if not _passes(path)]
    print(f"{len(failed)} files failed: {', '.join(map(str, failed))}" if failed else "every file passes by itself")
    return int(bool(failed))


def _files(places: Sequence[str]) -> Iterator[Path]:
    for place in map(Path, places):
        yield from sorted(place.rglob("test_*.py")) if place.is_dir() else [place]


def _passes(path: Path) -> bool:
    started_s = time.monotonic()
    command = [sys.executable, "-m", "pytest", str(path)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    passed = done.returncode in PASSED
    print(f"{'passed' if passed else 'FAILED'} {time.monotonic() - started_s:6.0f} s  {path}", flush=True)
    if not passed:
        print(done.stdout, flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
