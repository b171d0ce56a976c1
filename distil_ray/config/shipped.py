"""Shipped configs, found by name: `--config cpu` is the file configs/cpu.yaml of this project.

In a checkout, and in the working directory of a submitted Ray job, the files are in `configs/` beside the package. A
wheel contains them as `distil_ray/configs/` (setup.py copies them there).
"""

import difflib
from pathlib import Path

from distil_ray.errors import SettingsError

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # installed from a wheel; checkout


def shipped_configs() -> dict[str, Path]:
    """Returns the files of the shipped configs by name, in alphabetical order."""
    folder = next((one for one in _FOLDERS if one.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def find_config(name: str | Path) -> Path:
    """Returns the file of a config.

    Args:
        name: Path of a file, or the name of a shipped config. A file that exists takes precedence.

    Raises:
        SettingsError: There is neither such a file nor such a name.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_configs()
    if (found := shipped.get(str(name).replace("-", "_"))) is not None:
        return found
    if path.is_dir():
        raise SettingsError(f"--config {name}: is a folder. Name a YAML file, or a shipped config: {_names(shipped)}.")
    nearest = difflib.get_close_matches(path.stem, shipped, 1)
    hint = f" Did you mean --config {nearest[0]}?" if nearest else ""
    raise SettingsError(f"--config {name}: no such file, and no shipped config ({_names(shipped)}).{hint}")


def _names(shipped: dict[str, Path]) -> str:
    return ", ".join(shipped)
