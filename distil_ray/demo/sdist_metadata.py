"""Build backend that returns the metadata of a source archive to pip and builds nothing.

pip downloads a source archive only after it has read the name and version of the package. To learn them it would
install a build system and run the set-up code of the package (aeneas stops without numpy, pocketsphinx needs CMake).
The file PKG-INFO of the archive already contains both. `distil_ray.demo.archives` puts copies of this module in the
place of the real backends, so that a download runs no code of the package and works with any version of Python. Because
it is copied, it imports nothing from distil_ray. Names of the hooks are defined by PEP 517.
"""

import os
import shutil
import sys
from typing import Any


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return []


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Any = None) -> str:
    """Copies PKG-INFO of the working directory to METADATA; returns the name of the new folder."""
    with open("PKG-INFO", encoding="utf-8") as file:
        fields = dict(line.rstrip("\n").split(": ", 1) for line in file if line.startswith(("Name: ", "Version: ")))
    folder = f"{fields['Name'].replace('-', '_')}-{fields['Version']}.dist-info"
    os.makedirs(os.path.join(metadata_directory, folder), exist_ok=True)
    shutil.copyfile("PKG-INFO", os.path.join(metadata_directory, folder, "METADATA"))
    return folder


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    raise NotImplementedError("source archives of sample speech are only read")


__legacy__ = sys.modules[__name__]  # used by pip if an archive has no pyproject.toml
