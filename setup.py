"""Build step: the wheel contains the shipped configs as distil_ray/configs/. All else is in pyproject.toml.

`configs/` stays the only copy in the repository, because its files are also read from a checkout and by people.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies configs/*.yaml into the built package."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # the package is used from the checkout, where configs/ is beside it
            return
        target = Path(self.build_lib, "distil_ray", "configs")
        target.mkdir(parents=True, exist_ok=True)
        for config in sorted(Path(__file__).resolve().parent.glob("configs/*.yaml")):
            shutil.copyfile(config, target / config.name)


setup(cmdclass={"build_py": BuildWithConfigs})
