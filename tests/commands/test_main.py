"""The console script: its commands, their help, and the shipped configs by name."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from distil_ray import __version__
from distil_ray.cli.command import make_parser
from distil_ray.cli.help import select_settings
from distil_ray.commands.main import COMMANDS, main
from distil_ray.config.loader import describe_settings, load_config
from distil_ray.config.shipped import find_config, shipped_configs

ROOT = Path(__file__).resolve().parents[2]
HELP_LINES, HELP_COLUMNS = 100, 100


def _module(name: str) -> ModuleType:
    return import_module(f"distil_ray.commands.{name.replace('-', '_')}")


def _help(name: str, flag: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([name, flag])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_fits_two_screens(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = _help(name, "--help", capsys).splitlines()

    assert lines[0].startswith(f"usage: distil-ray {name}")
    assert len(lines) <= HELP_LINES
    assert [line for line in lines if len(line) > HELP_COLUMNS] == []


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "create-student"])
def test_every_setting_that_a_command_declares_exists(name: str) -> None:
    command = _module(name).COMMAND

    assert command.name == name
    assert len(set(select_settings(command.settings))) == len(select_settings(command.settings))
    assert set(command.paths) <= {*select_settings(command.settings), *command.own_keys}


@pytest.mark.parametrize("name", ["transcribe", "export"])
def test_the_whole_help_lists_every_setting(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = _help(name, "--help-all", capsys)

    assert [key for key, *_ in describe_settings() if f"  {key}=" not in text] == []
    assert _help(name, "--help", capsys).count("\n") < text.count("\n")


def test_a_command_has_its_page_for_ray_job_submit() -> None:
    pages = {path.stem.replace("_", "-") for path in (ROOT / "jobs").glob("*.py")} - {"benchmark"}

    assert pages == set(COMMANDS)


def test_the_list_of_commands_is_short_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n  {name} " not in text] == []
    assert len(text.splitlines()) < 30


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"distil-ray {__version__}\n"


def test_the_package_can_be_run_as_a_module() -> None:
    command = [sys.executable, "-m", "distil_ray", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == f"distil-ray {__version__}\n"


def test_the_list_of_commands_imports_no_settings() -> None:
    code = "import sys; from distil_ray.commands.main import main; main(['--help']); print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "False"


def test_the_own_options_of_a_command_are_in_its_help() -> None:
    text = make_parser(_module("export").COMMAND, "distil-ray export").format_help()

    assert "  format=  format to write: " in text
    assert "  overwrite=false" in text


def test_a_shipped_config_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    assert {"cpu", "gpu", "demo", "nightly"} <= set(shipped_configs())
    assert load_config("gpu").resources.gpus_per_actor == 1
    assert find_config("pseudo-label") == find_config("pseudo_label")


def test_a_file_takes_precedence_over_a_shipped_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpu").write_text("decoding: {batch_size: 3}\n")

    assert load_config("gpu").decoding.batch_size == 3


def test_a_folder_with_the_name_of_a_shipped_config_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()

    assert find_config("demo").name == "demo.yaml"
