"""The shipped configs load, have comments, and use existing settings only."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from distil_ray.config.loader import describe_settings, load_config

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))
KNOWN = {key for key, *_ in describe_settings()}


def _keys(tree: dict[str, Any], prefix: str = "") -> set[str]:
    keys = set()
    for name, value in tree.items():
        keys |= _keys(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"}
    return keys


def test_there_is_a_config_for_the_demo_for_cpus_and_for_gpus() -> None:
    assert {"demo.yaml", "cpu.yaml", "gpu.yaml"} <= {path.name for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_config_loads_and_has_known_keys_only(path: Path) -> None:
    load_config(path)

    assert _keys(yaml.safe_load(path.read_text())) <= KNOWN


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_config_has_comments(path: Path) -> None:
    """At most two keys in a row have no comment."""
    uncommented = 0
    for line in path.read_text().splitlines():
        uncommented = 0 if "#" in line or not line.startswith("  ") else uncommented + 1
        assert uncommented <= 2, f"{path.name}: '{line.strip()}' needs a comment"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_locations_of_a_shipped_config_can_be_overridden(path: Path) -> None:
    config = load_config(path, ["input.uri=[/data/a, s3://other/b]", "output.uri=/data/out"])

    assert config.input.uri == ("/data/a", "s3://other/b")
    assert config.resources.gpus_per_actor == (0 if path.name in ("demo.yaml", "cpu.yaml") else 1)


def test_the_demo_allows_exactly_the_failures_of_its_two_broken_files() -> None:
    from distil_ray.demo.clips import CLIPS

    listed = len(CLIPS) + 3  # the long recording, and the two broken ones
    fraction = load_config(ROOT / "configs" / "demo.yaml").max_failed_fraction

    assert 2 / listed <= fraction < 3 / listed
