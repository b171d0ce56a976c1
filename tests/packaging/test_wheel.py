"""The wheel: built, installed in an environment of its own, and used from another folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("distil_ray", "configs", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
INHERITED = ("RAY_", "PYTHON", "VIRTUAL_ENV")  # variables that would lead to this environment, or to a cluster
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(INHERITED)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources, so that nothing of an earlier build is in it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(source)], check=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed `distil-ray`. Its dependencies are those of this environment, its package is the wheel's alone."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "-q", "--no-deps"]
    subprocess.run([*command, str(wheel)], env=ENVIRONMENT, check=True, timeout=120)
    # A path in a .pth file does not activate the .pth files of that folder, so the editable install stays out.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "distil-ray"


def test_the_wheel_contains_the_shipped_configs_and_the_templates_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    shipped = {f"distil_ray/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    assert shipped <= set(names)
    assert "distil_ray/report/templates/run.html" in names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"distil_ray"}


def test_the_installed_command_finds_its_configs(program: Path, tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(program), *words]
        return subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)

    assert run("--version").stdout.startswith("distil-ray ")
    assert "compare two outputs" in run("--help").stdout
    wrong = run("transcribe", "--config", "gpu", "input.uri=[]", "-o", "out")
    assert wrong.returncode == 2
    assert "output.uri: given twice" not in wrong.stderr
    assert "input.uri is not set" in wrong.stderr
    assert "no such file, and no shipped config (cpu, demo, gpu, " in run("transcribe", "--config", "x").stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_installed_command_transcribes(program: Path, clips: Path, whisper_tiny_en: Path, tmp_path: Path) -> None:
    command = [str(program), "transcribe", str(clips / "cards-001.flac"), str(clips / "librispeech-61.flac")]
    command += ["-o", "out", "-m", str(whisper_tiny_en), "-l", "en", "resources.object_store_mb=100"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    rows = pq.read_table(tmp_path / "out" / "transcripts").to_pylist()
    assert [row["status"] for row in rows] == ["ok", "ok"]
    asked = subprocess.run([str(program), "outcome", "out"], cwd=tmp_path, env=ENVIRONMENT, check=False)
    assert asked.returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_installed_demo_runs_and_keeps_its_files_in_the_current_folder(program: Path, tmp_path: Path) -> None:
    def demo() -> subprocess.CompletedProcess[str]:
        command = [str(program), "demo"]
        return subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)

    first = demo()
    assert first.returncode == 0, first.stdout + first.stderr
    assert (tmp_path / ".demo" / "bucket" / "output" / "transcripts").is_dir()
    assert "distil-ray transcribe /your/folder -o transcripts" in first.stdout
    assert "28 already done; 0 to process" in demo().stdout
