"""One virtual environment per program, so that pinned dependencies cannot conflict.

The environments are kept in one folder. A text file in each holds the requirements that it was made from; a changed
requirement makes it anew. torch is installed first and by its exact version: pip then takes the CPU build where an
index or a folder of wheels offers one. If an installation fails, `UnavailableError` is raised and the benchmark goes
on with the other engines.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

INSTALLED = "INSTALLED"  # written last, holds the requirements
TORCH = "torch==2.13.0"
# Optional dependencies that do not work with the CPU build of torch.
UNWANTED = {"openvino": ("torchvision",)}
INSTALL_LIMIT_S = 900.0  # seconds for one pip command


class UnavailableError(Exception):
    """An engine cannot run here; the message says why, in one line."""


def ensure_environment(name: str, requirements: Sequence[str], folder: Path) -> Path:
    """Returns the interpreter of the environment `name`, which is created if it is missing or outdated.

    Raises:
        UnavailableError: The installation fails.
    """
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
    """Returns True if the environment exists with exactly these requirements."""
    stamp = folder / name / INSTALLED
    return stamp.exists() and stamp.read_text() == "\n".join(requirements) + "\n"


def _install(python: Path, requirements: Sequence[str], name: str) -> None:
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    run_tool([*pip, *requirements], f"{name}: pip could not install {' '.join(requirements)}")


def run_tool(command: Sequence[str], failure: str, limit_s: float = INSTALL_LIMIT_S) -> None:
    """Runs a program without showing its output.

    Raises:
        UnavailableError: It fails or takes longer than `limit_s`; with `failure` and the last line of its stderr.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except OSError as error:
        raise UnavailableError(f"{failure}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{failure}: not done after {limit_s:g} s") from error
    if done.returncode:
        raise UnavailableError(f"{failure}: {last_line(done.stderr)}")


def last_line(text: str) -> str:
    """Returns the last line that is not blank."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
