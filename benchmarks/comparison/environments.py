"""A virtual environment for every peer, so that their pinned dependencies cannot meet.

They lie in one folder and are kept; a text file in each holds the requirements it was made from, so that a changed
requirement makes it anew. torch is installed first and by its exact version: pip then takes the CPU build where an
index or a folder of wheels offers one. What cannot be installed is an `UnavailableError`, not a crash: the measurement
goes on with the others.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

INSTALLED = "INSTALLED"  # written last, holds the requirements
TORCH = "torch==2.13.0"
# What a requirement brings along that it can do without, and that does not fit the CPU build of torch.
UNWANTED = {"openvino": ("torchvision",)}
INSTALL_LIMIT_S = 900.0  # seconds for one pip command


class UnavailableError(Exception):
    """An engine cannot run here; the message says why, in one line."""


def ensure_environment(name: str, requirements: Sequence[str], folder: Path) -> Path:
    """The interpreter of the environment `name`, which is made if it is not there. Raises `UnavailableError`."""
    environment = folder / name
    python = environment / "bin" / "python"
    stamp = environment / INSTALLED
    wanted = "\n".join(requirements) + "\n"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    run_tool([sys.executable, "-m", "venv", "--clear", str(environment)], f"{name}: no virtual environment")
    if TORCH in requirements:
        _install(python, [TORCH], name)
    _install(python, ["setuptools", "wheel", *requirements], name)
    if name in UNWANTED:
        uninstall = [str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *UNWANTED[name]]
        run_tool(uninstall, f"{name}: pip could not remove {' '.join(UNWANTED[name])}")
    stamp.write_text(wanted)
    return python


def is_installed(name: str, requirements: Sequence[str], folder: Path) -> bool:
    """Whether `python_of` would answer at once."""
    stamp = folder / name / INSTALLED
    return stamp.exists() and stamp.read_text() == "\n".join(requirements) + "\n"


def _install(python: Path, requirements: Sequence[str], name: str) -> None:
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    run_tool([*pip, *requirements], f"{name}: pip could not install {' '.join(requirements)}")


def run_tool(command: Sequence[str], failure: str, limit_s: float = INSTALL_LIMIT_S) -> None:
    """Runs a program that is not worth watching. Raises `UnavailableError` with `failure` and its last words."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except OSError as error:
        raise UnavailableError(f"{failure}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{failure}: not done after {limit_s:g} s") from error
    if done.returncode:
        raise UnavailableError(f"{failure}: {last_line(done.stderr)}")


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
