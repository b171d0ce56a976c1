"""Registries accept names of modules, entry points and import paths, and import nothing before they load."""

import sys
from importlib import metadata
from pathlib import Path

import pytest

from distil_ray import registry
from distil_ray.errors import SettingsError
from distil_ray.registry import CHUNKERS, READERS, RECOGNIZERS, Registry


def entry_points_of(*points: tuple[str, str]) -> object:
    def find(group: str) -> metadata.EntryPoints:
        return metadata.EntryPoints(metadata.EntryPoint(name, value, group) for name, value in points)

    return find


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry over a package with a public and a private module; importing either fails."""
    folder = tmp_path / "plugins_for_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "fast.py").write_text('"""Fast strategy.\n\nMore text.\n"""\nraise ImportError("imported")\n')
    (folder / "_helper.py").write_text('"""Private."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    return Registry("strategy", "group", "x.strategy", package="plugins_for_test", attribute="S", extra={"auto": "any"})


def test_public_modules_are_entries_with_the_first_line_of_their_docstring(plugins: Registry) -> None:
    assert plugins.describe() == {"auto": "any", "fast": "Fast strategy"}
    assert plugins.entries["fast"].target == "plugins_for_test.fast:S"
    assert plugins.check("fast") == "fast"
    assert "plugins_for_test.fast" not in sys.modules


def test_a_module_that_cannot_be_imported_is_a_settings_error(plugins: Registry) -> None:
    with pytest.raises(SettingsError, match=r"x\.strategy=fast: cannot import plugins_for_test\.fast"):
        plugins.load("fast")


def test_entry_points_add_entries_and_replace_none(plugins: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", entry_points_of(("other", "json:dumps"), ("fast", "json:loads")))
    assert plugins.names() == ["auto", "fast", "other"]
    assert plugins.entries["fast"].target == "plugins_for_test.fast:S"
    assert plugins.load("other") is sys.modules["json"].dumps


def test_an_import_path_needs_no_entry(plugins: Registry) -> None:
    assert plugins.load("json:loads") is sys.modules["json"].loads
    with pytest.raises(SettingsError, match=r"x\.strategy=json:nothing: .* defines no nothing"):
        plugins.load("json:nothing")
    with pytest.raises(SettingsError, match=r"x\.strategy=no_such_package:a: cannot import"):
        plugins.load("no_such_package:a")


@pytest.mark.parametrize("name", ["fsat", "faster"])
def test_an_unknown_name_suggests_the_nearest_one(plugins: Registry, name: str) -> None:
    with pytest.raises(ValueError, match=r"Did you mean fast\?"):
        plugins.check(name)
    with pytest.raises(SettingsError, match=f"x.strategy={name}: "):
        plugins.load(name)


@pytest.mark.parametrize("table", [CHUNKERS, READERS, RECOGNIZERS], ids=lambda table: table.setting)
def test_every_entry_of_this_package_is_described(table: Registry) -> None:
    assert table.entries
    assert all(table.describe().values())
