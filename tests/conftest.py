"""What several test modules share."""

from pathlib import Path

import pytest

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real speech with references; the test is skipped where it is missing."""
    if not (CORPUS / "manifest.jsonl").exists():
        pytest.skip(f"no speech corpus at {CORPUS}")
    return CORPUS
