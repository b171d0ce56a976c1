"""The README names what is there, and nothing else."""

import re
from pathlib import Path

import pytest

from distil_ray.config import Config

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOUR = README.partition("## The files, in reading order")[2].partition("\n## ")[0]
MODULES = [
    path.relative_to(ROOT)
    for folder in ("jobs", "distil_ray")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "__init__.py"
]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_the_tour_names_every_module_where_its_folder_is_described(module: Path) -> None:
    described = TOUR if module.parts[-2] in ("jobs", "distil_ray") else _of_folder(module.parent.as_posix())

    assert re.search(rf"\b{re.escape(module.name)}\b", described), f"{module} is missing in the README's tour"


def _of_folder(folder: str) -> str:
    """The lines from a folder's own to the next line that is not indented deeper."""
    found = re.search(rf"^    {re.escape(folder)}/.*\n(?:^ {{6,}}\S.*\n)*", TOUR, flags=re.MULTILINE)
    assert found, f"{folder}/ is missing in the README's tour"
    return found.group()


def test_every_file_that_the_tour_names_exists() -> None:
    names = {path.name for path in MODULES}

    assert set(re.findall(r"\b\w+\.py\b", TOUR)) <= names | {"test_imports.py"}


def test_every_section_of_the_settings_is_described() -> None:
    table = README.partition("**Settings**")[2].partition("\n## ")[0]

    assert [name for name in Config.model_fields if f"| `{name}` |" not in table] == []


def test_links_and_shipped_files_exist() -> None:
    named = re.findall(r"\b((?:configs|jobs|tests)/[\w./-]+\.(?:yaml|py))", README)
    paths = [*named, "cluster.yaml", "constraints.txt", "LICENSE"]

    assert [path for path in paths if not (ROOT / path).exists()] == []
