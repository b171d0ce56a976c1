"""The layout of the package: one concept a module, folders that introduce themselves."""

import ast
from itertools import chain
from pathlib import Path
from statistics import median

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "distil_ray"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))

MAX_LINES = 500
MEDIAN_LINES = (120, 260)
MAX_FILES_AT_TOP = 8
MIN_DOCSTRING_CHARS = 200  # of a folder: what it is, what it does not know, where to begin reading


def _num_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_module_is_too_long() -> None:
    lines = {str(path.relative_to(PACKAGE)): _num_lines(path) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_modules_are_neither_crumbs_nor_heaps() -> None:
    least, most = MEDIAN_LINES
    assert least <= median(_num_lines(path) for path in MODULES) <= most


def test_few_files_lie_directly_in_the_package() -> None:
    files = [path.name for path in PACKAGE.iterdir() if path.is_file() and path.suffix != ".typed"]
    assert len(files) <= MAX_FILES_AT_TOP, sorted(files)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(PACKAGE.parent)))
def test_a_folder_introduces_itself(folder: Path) -> None:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert len(text) >= MIN_DOCSTRING_CHARS, text


def test_every_module_has_a_docstring() -> None:
    tops = chain(MODULES, (folder / "__init__.py" for folder in FOLDERS))
    assert [path.name for path in tops if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


def test_parquet_files_are_opened_by_open_parquet_alone() -> None:
    """`pq.ParquetFile` reads in threads, which may abort the process (`schema.PythonParquetFile`)."""
    found = [
        f"{path.relative_to(PACKAGE)}:{call.lineno}"
        for path in MODULES
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        if ast.unparse(call.func) == "pq.ParquetFile" and path.name != "schema.py"
    ]
    assert found == []
