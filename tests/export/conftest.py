"""An output whose rows a test makes up, as a run writes it, and the export over it."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from distil_ray.cli.options import parse_options
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode
from distil_ray.export.job import export
from distil_ray.export.settings import TRANSCRIPTS, ExportSettings
from distil_ray.registry import EXPORTERS
from distil_ray.storage.storage import Storage

TRANSCRIPT_FORMATS = tuple(name for name in EXPORTERS.names() if TRANSCRIPTS in EXPORTERS.load(name).subjects)

Export = Callable[..., tuple[ExitCode, str]]


def run_export(output: str, target: str, *words: str) -> tuple[ExitCode, str]:
    """(exit code, what was printed) of an export."""
    own = [word for word in words if not word.startswith(("max_failed", "storage."))]
    config = load_config(None, [f"output.uri={output}", *(word for word in words if word not in own)])
    console = Console(file=io.StringIO(), width=200)
    code = export(config, parse_options(ExportSettings, [f"to={target}", *own]), console)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder, once on the disk and once in a bucket."""
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("bucket"))


def files_below(folder: str) -> dict[str, bytes]:
    """Every file by its path below a folder."""
    storage = Storage()
    return {entry.uri.removeprefix(f"{folder}/"): storage.read(entry.uri) for entry in storage.list_files(folder)}
