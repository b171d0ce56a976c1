"""The names that the package exports, and the cost of importing it."""

import subprocess
import sys

import pytest

import distil_ray as dr

HEAVY = ("numpy", "pandas", "pyarrow", "ray", "torch", "transformers", "pydantic", "datasets")


@pytest.mark.parametrize("name", sorted(set(dr.__all__) - {"__version__"}))
def test_every_exported_name_is_there_and_documented(name: str) -> None:
    value = getattr(dr, name)
    assert value.__doc__
    assert value.__module__.startswith("distil_ray.")
    assert name in dir(dr)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'transcripts'"):
        dr.transcripts  # noqa: B018


@pytest.mark.parametrize(
    ("code", "absent"), [("dr", HEAVY), ("dr.transcribe, dr.Transcriber, dr.score, dr.Recognizer", ("ray", "torch"))]
)
def test_what_an_import_does_not_load(code: str, absent: tuple[str, ...]) -> None:
    program = f"import sys, distil_ray as dr; {code}; print([name for name in {absent} if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
