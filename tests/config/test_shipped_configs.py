"""The shipped configs load, say what they mean, and keep to settings that exist."""

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


def test_the_demo_a_cpu_cluster_and_a_gpu_cluster_have_a_config() -> None:
    assert {"demo.yaml", "cpu.yaml", "transcribe.yaml"} <= {path.name for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_config_loads_and_every_key_of_it_is_a_setting(path: Path) -> None:
    load_config(path)

    assert _keys(yaml.safe_load(path.read_text())) <= KNOWN


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_config_comments_what_it_sets(path: Path) -> None:
    """A key without a comment stands right below one that has it, or below a comment line."""
    uncommented = 0
    for line in path.read_text().splitlines():
        uncommented = 0 if "#" in line or not line.startswith("  ") else uncommented + 1
        assert uncommented <= 2, f"{path.name}: what does '{line.strip()}' do, and when does one change it?"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_demo_runs_on_cpus_and_any_config_on_other_files(path: Path) -> None:
    config = load_config(path, ["input.uri=[/data/a, s3://other/b]", "output.uri=/data/out"])

    assert config.input.uri == ("/data/a", "s3://other/b")
    assert config.resources.gpus_per_actor == (0 if path.name in ("demo.yaml", "cpu.yaml") else 1)


def test_the_demo_forgives_its_two_broken_files_and_no_third() -> None:
    from distil_ray.demo.clips import CLIPS

    listed = len(CLIPS) + 3  # the long recording, and the two broken ones
    fraction = load_config(ROOT / "configs" / "demo.yaml").max_failed_fraction

    assert 2 / listed <= fraction < 3 / listed
