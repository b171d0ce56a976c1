"""The Dockerfile: a linter accepts it, .dockerignore leaves what it needs, and it does not run as root."""

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_a_linter_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_the_command_as_a_user_and_reaps_its_processes() -> None:
    assert re.findall(r"^USER (.+)$", DOCKERFILE, flags=re.MULTILINE) == ["1000"]
    assert 'ENTRYPOINT ["tini", "--", "distil-ray"]' in DOCKERFILE


def test_the_base_and_the_build_of_torch_are_build_arguments() -> None:
    assert re.findall(r"^ARG (\w+)=", DOCKERFILE, flags=re.MULTILINE) == ["BASE", "TORCH_INDEX", "EXTRAS"]


def test_the_base_has_the_python_that_the_package_needs() -> None:
    (minor,) = re.findall(r"^ARG BASE=python:3\.(\d+)-", DOCKERFILE, flags=re.MULTILINE)
    requires = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text())

    assert requires and int(minor) >= int(requires[1])


def test_the_builder_gets_what_the_wheel_is_built_from_and_no_credentials() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in lines if line.startswith("!")]

    assert "*" in lines
    assert [name for name in kept if not list(ROOT.glob(name))] == []
    needed = ("distil_ray", "configs/gpu.yaml", "pyproject.toml", "setup.py", "README.md", "LICENSE", "constraints.txt")
    assert [name for name in needed if not any(fnmatch.fnmatch(name, pattern) for pattern in kept)] == []
