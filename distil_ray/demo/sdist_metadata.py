"""A stand-in for the build backends of source archives: it answers pip's question for metadata and builds nothing.

pip hands over a source archive only after it has read the package's name and version, and to learn these it would
install a build system and run the package's own set-up code (aeneas stops without numpy, pocketsphinx wants CMake).
The archive carries the answer already, in its PKG-INFO. `distil_ray.demo.archives` puts copies of this file where pip
looks for the real backends, so that downloading an archive runs none of its code and works with any Python.
It is copied, hence imports nothing of distil_ray. The hooks are those of PEP 517; their names are fixed there.
"""

import os
import shutil
import sys
from typing import Any


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return []


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Any = None) -> str:
    """Copies PKG-INFO of the working directory as METADATA; gives the name of the folder made."""
    with open("PKG-INFO", encoding="utf-8") as file:
        fields = dict(line.rstrip("\n").split(": ", 1) for line in file if line.startswith(("Name: ", "Version: ")))
    folder = f"{fields['Name'].replace('-', '_')}-{fields['Version']}.dist-info"
    os.makedirs(os.path.join(metadata_directory, folder), exist_ok=True)
    shutil.copyfile("PKG-INFO", os.path.join(metadata_directory, folder, "METADATA"))
    return folder


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    raise NotImplementedError("source archives of sample speech are read, never built")


__legacy__ = sys.modules[__name__]  # what pip asks for where an archive has no pyproject.toml
