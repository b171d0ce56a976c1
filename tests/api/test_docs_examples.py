"""The Python examples of README.md and docs/ run as they are, page by page, in a folder with a few recordings.

A block below a line `<!-- not run: … -->` needs more than that; it is only compiled.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import distil_ray as dr
from tests.support.clips import CLIPS, load_manifest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(?P<above>[^\n]*)\n\n?```python\n(?P<code>.*?)```", re.DOTALL)
PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if "```python" in page.read_text()
]


@pytest.fixture
def folder(job: dr.RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: recordings, a manifest of two of them, and an output."""
    for name, copy in {"kennedy.m4a": "kennedy.m4a", "cards-005.flac": "cards.flac"}.items():
        shutil.copy(CLIPS / name, tmp_path / copy)
    lines = [load_manifest()[name] for name in ("librispeech-61", "cards-001")]
    for line in lines:
        shutil.copy(CLIPS / line["uri"], tmp_path)
    (tmp_path / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "damaged.wav").write_bytes(b"RIFF")
    shutil.copytree(job.output_uri, tmp_path / "transcripts")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page: Path, folder: Path) -> None:
    names: dict[str, Any] = {}
    num_run = 0
    for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
        code = compile(found["code"], f"{page.name}: {found['code'][:40]!r}", "exec")
        if not found["above"].startswith("<!-- not run: "):
            exec(code, names)
            num_run += 1
    assert num_run


def test_the_pages_with_examples_are_found() -> None:
    assert {"README", "python"} <= {page.stem for page in PAGES}
